"""aiohttp-sse-client2."""

import asyncio
import sys
from datetime import timedelta

from aiohttp import ClientTimeout
from aiohttp_sse_client2.client import EventSource

from tell import note, tell


async def follow(url):
    second = timedelta(milliseconds=250)
    async with EventSource(url, reconnection_time=second, timeout=ClientTimeout(None)) as source:
        async for event in source:
            tell(event.type, event.data, event.last_event_id)


try:
    asyncio.run(follow(sys.argv[1]))
except Exception as error:  # noqa: BLE001: it is what is looked for
    note(f"{type(error).__name__}: {error}")
note("closed")
