"""aiosseclient. It neither reconnects nor says what the status was."""

import asyncio
import sys

import aiosseclient

from tell import note, tell


async def follow(url):
    last = None
    while True:
        try:
            async for event in aiosseclient.aiosseclient(url, last_id=last):
                last = event.id or last
                tell(event.event, event.data, event.id)
            note("end")
        except Exception as error:  # noqa: BLE001: whatever it is, come back
            note(f"{type(error).__name__}: {error}")
        await asyncio.sleep(0.5)


asyncio.run(follow(sys.argv[1]))
