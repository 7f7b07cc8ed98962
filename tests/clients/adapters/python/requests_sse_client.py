"""requests-sse."""

import sys

from requests_sse import EventSource

from tell import note, tell

try:
    with EventSource(sys.argv[1], on_open=lambda: note("open"), on_error=lambda: note("error")) as source:
        for event in source:
            tell(event.type, event.data, event.last_event_id)
except Exception as error:  # noqa: BLE001: it is what is looked for
    note(f"{type(error).__name__}: {error}")
note("closed")
