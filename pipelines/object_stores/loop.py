"""The event loop on which requests to stores and to the web are made."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Returns an event loop that does not run yet: uvloop's, which takes less of the processor for
    each request, or Python's own where that is not installed, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
