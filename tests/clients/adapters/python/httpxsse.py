"""httpx-sse, with its time-outs as they are: silence of 5 s is an error."""

import sys

import httpx
from httpx_sse import connect_sse

from tell import checked, loop


def read(url, headers):
    with httpx.Client(trust_env=False) as client, connect_sse(client, "GET", url, headers=headers) as source:
        checked(source.response.status_code)
        for event in source.iter_sse():
            yield event.event, event.data, event.id, event.retry


loop(sys.argv[1], read)
