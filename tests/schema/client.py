"""Uses the client that `openapi-python-client` has made of the document, against a hub.

`client.py URL ADMIN_URL`; the generated package is on `PYTHONPATH`.
"""

import sys

from fanfare_client import Client
from fanfare_client.api.admin import list_channels
from fanfare_client.api.channel import delete_channel, set_channel
from fanfare_client.api.health import openapi31
from fanfare_client.api.signals import send_signal
from fanfare_client.models import (
    Channel,
    ChannelList,
    ChannelOptions,
    GapEvent,
    Problem,
    Signal,
    SignalOutcome,
    SignalSignal,
)

hub, admin = Client(base_url=sys.argv[1]), Client(base_url=sys.argv[2])

channel = set_channel.sync("generated/1", client=hub, body=ChannelOptions(max_events=7))
assert isinstance(channel, Channel), channel
assert (channel.channel, channel.retention.max_events) == ("generated/1", 7), channel

stop = Signal(signal=SignalSignal.STOP, reason="user")
outcome = send_signal.sync("generated/1", client=hub, body=stop)
assert isinstance(outcome, SignalOutcome) and outcome.stopped, outcome

listed = list_channels.sync(client=admin, prefix="generated/")
assert isinstance(listed, ChannelList), listed
assert [one.state.value for one in listed.channels] == ["cancelled"], listed

assert delete_channel.sync_detailed("generated/1", client=hub).status_code == 204
gone = delete_channel.sync("generated/1", client=hub)
assert isinstance(gone, Problem) and gone.code.value == "not_found", gone

assert "openapi: 3.1." in openapi31.sync_detailed(client=hub).content.decode()

gap = GapEvent.from_dict({"id": "k7q2xm-1", "event": "fanfare.gap", "data": "{}"})
assert gap.id == "k7q2xm-1", gap
