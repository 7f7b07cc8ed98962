"""sseclient-py, over `requests`."""

import sys

import requests
import sseclient

from tell import checked, loop


def read(url, headers):
    with requests.get(url, headers=headers, stream=True, timeout=60) as response:
        checked(response.status_code)
        for event in sseclient.SSEClient(response.iter_content(None)).events():
            yield event.event, event.data, event.id, event.retry


loop(sys.argv[1], read)
