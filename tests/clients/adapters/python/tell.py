"""What the Python clients share: lines of JSON on standard output, and for those libraries that only
parse, a loop: a request, its events, and the next request behind the last id."""

import json
import sys
import time


def _print(line):
    try:
        print(json.dumps({**line, "t": int(time.time() * 1000)}), flush=True)
    except BrokenPipeError:
        sys.exit()


def tell(event, data, id=None):
    _print({"event": event or "message", "data": data, "id": id})


def note(text):
    _print({"note": str(text)})


def loop(url, read):
    """`read(url, headers)` makes a request and yields (event, data, id, retry) for each block. It
    raises what goes wrong, and `StopIteration` or `Done` when the answer is 204."""
    last, retry = "", 1000
    while True:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        try:
            for event, data, id, wait in read(url, headers):
                if wait:
                    retry = int(wait)
                if id:
                    last = id
                if data is not None:
                    tell(event, data, id)
            note("end")
        except Done:
            break
        except Exception as error:  # noqa: BLE001: whatever it is, come back
            note(f"{type(error).__name__}: {error}")
        time.sleep(retry / 1000)
    note("closed")


class Done(Exception):
    """204: there is nothing to come back for."""


def checked(status):
    """Raises unless there is a stream to read."""
    if status == 204:
        raise Done
    if status != 200:
        raise RuntimeError(f"status {status}")
    note("open")
