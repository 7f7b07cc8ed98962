"""niquests, which knows event streams by their scheme."""

import sys

import niquests

from tell import checked, loop


def read(url, headers):
    with niquests.Session() as session:
        response = session.get(url.replace("http:", "psse:"), headers=headers, timeout=60)
        if response.extension is None:
            checked(response.status_code)
            raise RuntimeError("no stream")
        checked(200)
        while (event := response.extension.next_payload()) is not None:
            yield event.event, event.data, event.id, event.retry


loop(sys.argv[1], read)
