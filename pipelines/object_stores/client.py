"""Fetches objects of stores and of the web: hundreds at once, on one loop of the process."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import io
import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from pipelines.object_stores.answers import Ask, Fetched, Got, Places, Sought, Span, Store, Wanted
from pipelines.object_stores.attempts import Attempts, Patience
from pipelines.object_stores.loop import new_loop
from pipelines.object_stores.pool import Pool
from pipelines.object_stores.uploads import Uploads, Written

BODY_BYTES = 256 << 20
_CLOSING_S = 1.0
_MOST_OF_WHOLE_BYTES = 1 << 30  # where a server sends all of an object for a part
_PATIENCE = Patience()


class Client:
    """The loop, in a thread of its own.

    Args:
        concurrency: requests to one host that may be in flight.
        body_bytes: bytes of bodies that are held at once, until they are given back.
    """

    def __init__(
        self,
        concurrency: int,
        patience: Patience = _PATIENCE,
        body_bytes: int = BODY_BYTES,
    ) -> None:
        self._bodies = Pool(body_bytes)
        self._attempts = Attempts(concurrency, self._bodies, patience)
        self._uploads = Uploads(self._attempts)
        self._orders = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()  # which the loop itself holds weakly
        self._places: set[Places] = set()  # that were asked, to be closed
        self._loop = new_loop()
        threading.Thread(target=self._loop.run_forever, name="object stores", daemon=True).start()
        atexit.register(self.close)

    def close(self) -> None:
        """Closes the connections, and ends the loop; what is under way is lost."""
        atexit.unregister(self.close)
        if not self._loop.is_closed() and self._loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            with suppress(concurrent.futures.TimeoutError):
                closing.result(_CLOSING_S)
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _close(self) -> None:
        await self._attempts.close()
        for places in self._places:
            await places.close()

    def begin(self, asks: Sequence[Ask]) -> None:
        """Begins to fetch objects; those that were asked for first go first."""
        self._loop.call_soon_threadsafe(self._begin, asks)

    def fetch(self, store: Store | Places, key: str, max_bytes: int) -> bytes:
        """Returns the bytes of an object, once it has arrived.

        Raises:
            MissingError, DeniedError, TooLargeError, ObjectFault: what is wrong with the object.
            StoreFault: if no object is to blame.
        """
        waiting: concurrent.futures.Future[bytes] = concurrent.futures.Future()

        def done(found: Fetched | BaseException) -> None:
            if isinstance(found, BaseException):
                waiting.set_exception(found)
            else:
                found.give_back()
                waiting.set_result(found.data)

        self.begin([Ask(store, key, max_bytes, done)])
        return waiting.result()

    def begin_part(self, store: Store, key: str, span: Span) -> concurrent.futures.Future[Got]:
        """Begins to fetch a part of an object; of an empty one there is nothing.

        Its future raises what `fetch` does.
        """

        async def part() -> Got:
            order, still = next(self._orders), lambda: True
            wanted = Wanted(store, key, _MOST_OF_WHOLE_BYTES, order, still, span=span)
            got = await self._attempts.fetch(wanted)
            self._bodies.give_back(len(got.data))
            return got

        return asyncio.run_coroutine_threadsafe(part(), self._loop)

    def put(self, store: Store, key: str, file: BinaryIO, match: str | None) -> str | None:
        """Writes an object in place of one version of it, or where there is none; as one step.

        Args:
            file: all of which is written. Unlike that of any other writer: an object that holds it
                already, as after an answer that was lost, counts as written.
            match: the version that is replaced; None where there must be no object, `ANY` for
                whatever there is.

        Returns:
            The new version, or None where there is another object, or none to be replaced.

        Raises:
            DeniedError, ObjectFault, StoreFault: as `fetch`.
        """
        size = file.seek(0, io.SEEK_END)
        what = Written(store, key, file, size, match, next(self._orders))
        writing = self._uploads.write(what)
        got = asyncio.run_coroutine_threadsafe(writing, self._loop).result()
        return None if got is None else got.version

    def _begin(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            task = self._loop.create_task(self._serve(ask, next(self._orders)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, ask: Ask, order: int) -> None:
        began = time.monotonic()
        found: Fetched | BaseException
        try:
            data = (await self._got(ask, order)).data
            found = Fetched(data, time.monotonic() - began, self._bodies)
        except BaseException as error:  # noqa: BLE001 - it is raised where the object is wanted
            found = error
        ask.done(found)

    async def _got(self, ask: Ask, order: int) -> Got:
        if isinstance(ask.store, Places):
            self._places.add(ask.store)
            sought = Sought(ask.key, ask.max_bytes, order, ask.still)
            return await ask.store.fetch(sought, self._bodies)
        wanted = Wanted(ask.store, ask.key, ask.max_bytes, order, ask.still)
        return await self._attempts.fetch(wanted)
