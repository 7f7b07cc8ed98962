"""The Python clients of providers: `generation.py openai|anthropic URL`. Each piece of text is an event,
and the end or the error a note."""

import sys

import anthropic
import httpx2
import openai

from tell import note, tell

provider, url = sys.argv[1:]
question = {"model": "any", "messages": [{"role": "user", "content": "any"}], "stream": True}


class Fixed(httpx2.HTTPTransport):
    """Asks for the URL, whatever it is asked for."""

    def handle_request(self, request):
        headers = {"host": httpx2.URL(url).netloc.decode(), "accept": "text/event-stream"}
        return super().handle_request(httpx2.Request("GET", url, headers=headers))


settings = {"api_key": "none", "max_retries": 0, "http_client": httpx2.Client(transport=Fixed())}
try:
    if provider == "openai":
        for chunk in openai.OpenAI(**settings).chat.completions.create(**question):
            if chunk.choices and chunk.choices[0].delta.content:
                tell("text", chunk.choices[0].delta.content)
    else:
        for event in anthropic.Anthropic(**settings).messages.create(max_tokens=9, **question):
            if event.type == "content_block_delta":
                tell("text", event.delta.text)
    note("whole")
except Exception as error:  # noqa: BLE001: it is what is looked for
    note(f"failed: {type(error).__name__}: {error}")
