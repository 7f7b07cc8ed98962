"""launchdarkly-eventsource: told to go on always, or with `--default` as it is."""

import sys

from ld_eventsource import SSEClient
from ld_eventsource.actions import Comment, Event, Fault, Start
from ld_eventsource.config import ErrorStrategy

from tell import note, tell

strategy = ErrorStrategy.always_fail() if "--default" in sys.argv else ErrorStrategy.always_continue()
try:
    with SSEClient(sys.argv[-1], error_strategy=strategy, initial_retry_delay=0.5) as client:
        for action in client.all:
            if isinstance(action, Event):
                tell(action.event, action.data, action.last_event_id)
            elif isinstance(action, (Start, Fault)):
                note(f"{type(action).__name__} {getattr(action, 'error', '')}")
            else:
                assert isinstance(action, Comment)
except Exception as error:  # noqa: BLE001: it is what is looked for
    note(f"{type(error).__name__}: {error}")
note("closed")
