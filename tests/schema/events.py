"""Every event that the hub sends is as `docs/openapi.yaml` says, and the table in `docs/api.md` too.

`events.py URL KEY REPOSITORY`: a hub that takes this API key, allows each caller three
subscriptions, and serves its document. Each kind of event of each kind of stream is provoked once.
"""

import json
import re
import sys
from pathlib import Path

import jsonschema_rs
import requests
import yaml

HUB, KEY, REPOSITORY = sys.argv[1], sys.argv[2], Path(sys.argv[3])
SSE, LINES = "text/event-stream", "application/x-ndjson"

DOCUMENT = yaml.safe_load(requests.get(f"{HUB}/openapi.yaml", timeout=10).text)
SCHEMAS = DOCUMENT["components"]["schemas"]

#: What was seen: pairs of a stream's schema and the schema of one of its events.
seen = set()


def validator(schema):
    schema = {**schema, "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def name_of(schema):
    return schema["$ref"].rsplit("/", 1)[1]


def members(stream):
    return [name_of(member) for member in SCHEMAS[stream]["anyOf"]]


def check(stream, event):
    """The event is one of those of the stream, and its data is as that says."""
    fits = [name for name in members(stream) if validator(SCHEMAS[name]).is_valid(event)]
    assert len(fits) == 1, f"{stream}: {event} is {fits or 'none'} of {members(stream)}"
    data = SCHEMAS[fits[0]]["properties"]["data"]
    if "contentSchema" in data:
        validator(data["contentSchema"]).validate(json.loads(event["data"]))
    seen.add((stream, fits[0]))


def item_schema(path, media_type):
    """What the document says of the events of this stream."""
    content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]
    return name_of(content[media_type]["itemSchema"])


def events_of(response, media_type):
    """The events of a stream: a block of fields, or a line, each."""
    fields = {}
    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
        if media_type == LINES:
            if line:
                yield json.loads(line)
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            known = fields.get(name)
            fields[name] = f"{known}\n{value}" if known is not None else value
        elif not line:
            if "retry" in fields:
                fields["retry"] = int(fields["retry"])
            # A block without data is no event.
            if "data" in fields:
                yield fields
            fields = {}


class Stream:
    """A subscription whose events are checked while they are read."""

    def __init__(self, route, path, media_type=SSE, key=KEY, query=None, resume=None):
        headers = {"Authorization": f"Bearer {key}", "Accept": media_type}
        if resume:
            headers["Last-Event-ID"] = resume
        url = f"{HUB}{path}"
        self.response = requests.get(url, headers=headers, params=query, stream=True, timeout=10)
        assert self.response.status_code == 200, self.response.text
        self.response.encoding = "utf-8"
        self.schema = item_schema(route, media_type)
        self.events = events_of(self.response, media_type)

    def take(self, count=None):
        """So many events, or all to the end of the stream."""
        taken = []
        while count is None or len(taken) < count:
            event = next(self.events, None)
            if event is None:
                break
            check(self.schema, event)
            taken.append(event)
        if count is not None:
            assert len(taken) == count, f"{taken} and no more"
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()


def one(channel, **more):
    return Stream("/v1/channels/{name}", f"/v1/channels/{channel}", **more)


def many(*channels, query=(), **more):
    query = [("channel", channel) for channel in channels] + list(query)
    return Stream("/v1/events", "/v1/events", query=query, **more)


def signals(channel, **more):
    return Stream("/v1/signals/{name}", f"/v1/signals/{channel}", **more)


def post(path, body="", query=None, media_type="text/plain"):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": media_type}
    url = f"{HUB}{path}"
    response = requests.post(url, data=body, params=query, headers=headers, timeout=10)
    assert response.ok, response.text
    return response.json()


def publish(channel, body, **more):
    return post(f"/v1/channels/{channel}", body, **more)


def token(subject, ttl):
    wanted = {"subscribe": ["**"], "publish": ["**"], "ttl": ttl, "subject": subject}
    return post("/v1/tokens", json.dumps(wanted), media_type="application/json")["token"]


def live_streams():
    """Openings, events, and ends."""
    forms = [(subscribe, media) for subscribe in (one, many) for media in (SSE, LINES)]
    for number, (subscribe, media_type) in enumerate(forms):
        name = f"live/{number}"
        with subscribe(name, media_type=media_type) as stream:
            opened = stream.take(1)[0]
            assert opened["event"] == "fanfare.open", opened
            publish(name, "plain")
            publish(name, "two\nlines", query={"event": "token"})
            publish(name, "", query={"close": "error", "reason": "why"}, media_type=SSE)
            assert [event.get("event") for event in stream.take()][-1] == "fanfare.end"
    with many(*[f"wide/{number}/*" for number in range(20)]) as stream:
        opening = json.loads(stream.take(1)[0]["data"])
        assert (len(opening["channels"]), opening["more"]) == (16, 4), opening


def gaps():
    publish("gap/1", "x")
    for media_type in (SSE, LINES):
        with one("gap/1", media_type=media_type, resume="nonsense") as stream:
            stream.take(2)
        with many("gap/*", media_type=media_type, resume="nonsense") as stream:
            gap = stream.take(1)[0]
            assert json.loads(gap["data"])["channel"] is None, gap


def snapshots():
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    choice = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}
    body = f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\ndata: [DONE]\n\n"
    publish("told/1", body, query={"close": "auto"}, media_type=SSE)
    for media_type in (SSE, LINES):
        with one("told/1", media_type=media_type, query={"from": "snapshot"}) as stream:
            assert [event["event"] for event in stream.take()] == ["fanfare.snapshot", "fanfare.end"]


def pages():
    headers = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
    for path in ["told/1?from=snapshot", "live/0?from=earliest", "gap/1?last_event_id=nonsense"]:
        page = requests.get(f"{HUB}/v1/channels/{path}", headers=headers, timeout=10).json()
        validator(SCHEMAS["Page"]).validate(page)
        assert page["events"], path
        for event in page["events"]:
            check("EventLine", event)


def feeds():
    with signals("fed/1") as feed:
        feed.take(1)
        stop = json.dumps({"signal": "stop", "reason": "enough"})
        post("/v1/signals/fed/1", stop, media_type="application/json")
        assert [event["event"] for event in feed.take()][-2:] == ["stop", "end"]


def expiries():
    for number, media_type in enumerate((SSE, LINES)):
        key = token(f"short-{number}", "1s")
        with one("quiet", media_type=media_type, key=key) as first:
            with many("quiet", media_type=media_type, key=key) as second:
                for stream in (first, second):
                    assert stream.take()[-1]["event"] == "fanfare.unauthenticated"
    with signals("quiet", key=token("short-feed", "1s")) as feed:
        assert feed.take()[-1]["event"] == "fanfare.unauthenticated"


def refusals():
    """More subscriptions than one caller may have."""
    key = token("greedy", "1m")
    held = [one("quiet", key=key) for _ in range(3)]
    for subscribe in (one, many, signals):
        with subscribe("quiet", key=key) as stream:
            assert [event["event"] for event in stream.take()] == ["fanfare.busy"]
    for stream in held:
        stream.response.close()


def table():
    """`docs/api.md` has one table of the events that are the hub's own."""
    text = (REPOSITORY / "docs/api.md").read_text()
    row = re.compile(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
    section = text.split("\n## The hub's own events\n", 1)[1].split("\n## ", 1)[0]
    told = {}
    for event, data, _ in row.findall(section):
        told.setdefault(event, set()).update(re.findall(r"`(\w+)`", data))
    documented = {}
    for schema in SCHEMAS.values():
        properties = schema.get("properties", {})
        event = properties.get("event", {}).get("const")
        if event:
            data = SCHEMAS[name_of(properties["data"]["contentSchema"])]
            documented.setdefault(event, set()).update(data["properties"])
    assert told == documented, f"docs/api.md has {told}, docs/openapi.yaml {documented}"
    source = (REPOSITORY / "src/event.rs").read_text()
    own = set(re.findall(r'^pub const \w+: &str = "(fanfare\.\w+)";', source, re.MULTILINE))
    assert own == {event for event in documented if "." in event}, own


for experiment in [live_streams, gaps, snapshots, pages, feeds, expiries, refusals, table]:
    experiment()

everything = {
    (stream, member)
    for stream in ("StreamEvent", "ManyStreamEvent", "SignalEvent", "EventLine")
    for member in members(stream)
}
assert seen == everything, f"not seen: {everything - seen}"
print(f"{len(seen)} kinds of events")
