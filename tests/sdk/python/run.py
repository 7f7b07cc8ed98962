"""Official Python clients read a generation from its source, and then from a channel of the hub:
while it is published, and once more when it has ended. All three must give the same result.

    python run.py http://127.0.0.1:4100 [--close complete] [--read QUERY] [--coalesce 40ms]

The source is `source.mjs`, as for the JavaScript clients, and the settings are those of `check.mjs`.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import anthropic
import httpx2
import openai
from google import genai

SOURCE = pathlib.Path(__file__).parent.parent / "source.mjs"
PROMPTS = ["text", "tools", "surrogates", "error", "cut", "silence"]


class ReadChannel(httpx2.BaseTransport):
    """Whatever a client asks for, it gets the channel's event stream."""

    def __init__(self, url):
        self.url = url
        self.attached = threading.Event()
        self.inner = httpx2.HTTPTransport()

    def handle_request(self, _request):
        response = self.inner.handle_request(
            httpx2.Request("GET", self.url, headers={"accept": "text/event-stream"})
        )
        self.attached.set()
        return response


class Remember(httpx2.BaseTransport):
    """Passes requests on, and keeps the last."""

    def __init__(self):
        self.inner = httpx2.HTTPTransport()
        self.request = None

    def handle_request(self, request):
        self.request = request
        return self.inner.handle_request(request)


def openai_chat(source, prompt, transport):
    client = openai.OpenAI(
        base_url=f"{source}/v1", api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    seen = Seen()
    with seen, client.chat.completions.stream(
        model="mock",
        messages=[{"role": "user", "content": prompt}],
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            if event.type == "chunk":
                seen.chunk(event.chunk, event.snapshot)
        seen.result = stream.get_final_completion().to_dict(warnings=False)
    return seen


def openai_responses(source, prompt, transport):
    client = openai.OpenAI(
        base_url=f"{source}/v1", api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    seen = Seen()
    deltas = {}
    with seen, client.responses.stream(model="mock", input=prompt) as stream:
        for event in stream:
            seen.chunk(event)
            # The last event repeats everything; what came before it must say the same.
            if "delta" in (chunk := seen.chunks[-1]):
                part = f"{chunk['type']} {chunk['item_id']}"
                deltas[part] = deltas.get(part, "") + chunk["delta"]
        seen.result = stream.get_final_response().to_dict(warnings=False)
    seen.result = [seen.result, deltas]
    return seen


def anthropic_messages(source, prompt, transport):
    client = anthropic.Anthropic(
        base_url=source, api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    seen = Seen()
    with seen, client.messages.stream(
        model="mock", max_tokens=4096, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        for event in stream:
            seen.chunk(event, stream.current_message_snapshot)
        seen.result = stream.get_final_message().to_dict(warnings=False)
    return seen


def gemini(source, prompt, transport):
    client = genai.Client(
        api_key="none",
        http_options=genai.types.HttpOptions(
            base_url=source, api_version="v1beta", httpx_client=httpx2.Client(transport=transport)
        ),
    )
    seen = Seen()
    with seen:
        for chunk in client.models.generate_content_stream(model="mock", contents=prompt):
            seen.chunks.append(chunk.model_dump(mode="json", exclude={"sdk_http_response"}))
        seen.result = [part for chunk in seen.chunks for part in parts(chunk)]
    return seen


def parts(chunk):
    """The parts of a chunk of Gemini's: its client leaves it to the application to join them."""
    candidates = chunk["candidates"] or [{}]
    return (candidates[0].get("content") or {}).get("parts") or []


class Seen(contextlib.AbstractContextManager):
    """What a client made of a stream, what it saw on the way, and the error with which it ended."""

    def __init__(self):
        self.result = None
        self.chunks = []
        self.error = None

    def chunk(self, chunk, snapshot=None):
        self.chunks.append(chunk.to_dict(warnings=False))
        self.result = snapshot and snapshot.to_dict(warnings=False)

    def __exit__(self, _type, error, _trace):
        self.error = error and f"{type(error).__name__}: {error}"
        return isinstance(error, Exception)


def publish(request, url, close):
    """Pipes the source's answer into the channel, as it is."""
    try:
        with httpx2.stream("POST", request.url, headers=request.headers, content=request.content) as answer:
            headers = {"content-type": answer.headers["content-type"]}
            receipt = httpx2.post(url, params={"close": close}, headers=headers, content=answer.iter_raw())
            receipt.raise_for_status()
    except httpx2.RemoteProtocolError:
        # The source broke. A publisher that says itself how it ended says so now.
        if close != "auto":
            httpx2.post(url, params={"close": "error"}, headers={"content-type": "text/event-stream"})


def check(collect, prompt, source, arguments):
    remember = Remember()
    direct = collect(source, prompt, remember)
    assert len(direct.chunks) > 1, "the source did not stream"

    url = f"{arguments.hub}/v1/channels/sdk/python/{collect.__name__}/{prompt}/{uuid.uuid4()}"
    coalesce = arguments.coalesce and f"coalesce={arguments.coalesce}"
    read_url = f"{url}?{'&'.join(filter(None, ['from=earliest', arguments.read, coalesce]))}"
    live = []
    transport = ReadChannel(read_url)
    reader = threading.Thread(target=lambda: live.append(collect(source, prompt, transport)), daemon=True)
    reader.start()
    assert transport.attached.wait(10), "the hub does not answer"
    publish(remember.request, url, arguments.close)
    reader.join(30)
    assert live, "the live reader does not end"
    compare("live", live[0], direct, prompt, arguments)
    compare("replayed", collect(source, prompt, ReadChannel(read_url)), direct, prompt, arguments)
    return len(direct.chunks)


def compare(when, seen, direct, prompt, arguments):
    # A provider's error is told as it was; a broken stream somehow, but it must not look whole.
    failure = (lambda it: it.error is not None) if prompt == "cut" else (lambda it: it.error)
    same(f"{when}: the client's error", failure(seen), failure(direct), seen.error)
    same(f"{when}: the result", seen.result, direct.result)
    if not arguments.coalesce:
        same(f"{when}: the chunks", seen.chunks, direct.chunks)


def same(what, seen, wanted, hint=None):
    if seen != wanted:
        shown = (json.dumps(value, indent=1)[-1500:] for value in (seen, wanted))
        raise AssertionError("{}\nthrough the hub: {}\ndirectly: {}\n{}".format(what, *shown, hint or ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hub")
    parser.add_argument("--close", default="auto")
    parser.add_argument("--read")
    parser.add_argument("--coalesce")
    arguments = parser.parse_args()
    server = subprocess.Popen(["node", SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    source = server.stdout.readline().strip()
    failed = 0
    for collect in (openai_chat, openai_responses, anthropic_messages, gemini):
        for prompt in PROMPTS:
            began = time.monotonic()
            try:
                told = f"ok, {check(collect, prompt, source, arguments)} chunks"
            except AssertionError as error:
                failed += 1
                told = f"FAILED: {error}"
            took = time.monotonic() - began
            print(f"python {collect.__name__}: {prompt}: {told} ({took:.1f} s)", flush=True)
    server.stdin.close()
    server.wait()
    sys.exit(1 if failed else 0)


main()
