"""What a program that reads `docs/openapi.yaml` cannot know of the hub: streams that never end.

A live subscription has no end while its channel has none, and whoever waits for one waits for ever.
So a reader gets a page instead, or the channel is ended before it comes: then a stream ends behind
what is retained, and its head, its form and its end can be looked at.
"""

import re

import requests
import schemathesis

#: The one wait that is asked for where any is: of a minute, nothing more would be learnt.
SHORT = "10ms"


@schemathesis.serializer("text/event-stream", "application/x-ndjson")
def as_text(_context, value):
    """The document has these bodies as text, and as text they are sent."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(_context, case, _kwargs):
    if case.method.upper() != "GET":
        return
    path = case.operation.path
    if path == "/v1/channels/{name}":
        shorten(case)
        if is_page(case):
            ask_for_page(case)
        else:
            end(case)
            stay_whole(case)
    elif path == "/v1/events":
        shorten(case)
        ask_for_page(case)
    elif path == "/v1/signals/{name}":
        end(case)


def is_page(case):
    """Every other name, by its letters: the same run asks for the same again."""
    return sum(str(case.path_parameters).encode("utf-8", "replace")) % 2 == 0


def ask_for_page(case):
    case.headers["Accept"] = "application/json"
    # It is a stream, whatever is accepted.
    case.query.pop("bare", None)


def stay_whole(case):
    """A bare stream is broken off at a gap, which is all that an id of nowhere leads to."""
    # These two are for pages, and a stream does not look at them.
    case.query.pop("limit", None)
    case.query.pop("wait", None)
    if "bare" in case.query:
        case.query.pop("last_event_id", None)
        case.headers.pop("Last-Event-ID", None)


def shorten(case):
    if re.match(r"\s*\d", str(case.query.get("wait", ""))):
        case.query["wait"] = SHORT


def end(case):
    """Ends the channel of a subscription that is about to be made; its name may be a bad one."""
    name = case.formatted_path.removeprefix("/v1/signals/").removeprefix("/v1/channels/")
    url = f"{case.operation.base_url.rstrip('/')}/v1/channels/{name}"
    headers = {key: case.headers[key] for key in ["X-API-Key"] if key in case.headers}
    # One that had ended in another way would break a bare stream off, as it should.
    requests.delete(url, headers=headers, timeout=10)
    requests.post(url, params={"close": "complete"}, data="last words", headers=headers, timeout=10)
