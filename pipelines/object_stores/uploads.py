"""Writes objects from files: small ones by one request, others in parts that are tried again one by
one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.object_stores.answers import Got, Request, Span, Store, Upload, Wanted
from pipelines.object_stores.attempts import Attempts
from pipelines.object_stores.faults import (
    ConflictError,
    MissingError,
    StoreFault,
    TooLargeError,
)
from pipelines.object_stores.pool import Pool

PART_BYTES = 16 << 20
HELD_BYTES = 128 << 20  # of parts of all uploads
_MAX_TOLD_BYTES = 1 << 20  # of the answer to what was written
_FINISHES = 5  # S3 may answer with a fault that passes, after it has said that all is well
_FINISH_WAIT_S = 1.0


@dataclass(frozen=True)
class Written:
    """What is to be written.

    Attributes:
        match: the version that is replaced; None where there must be no object, `ANY` for whatever
            there is.
        order: the smaller, the sooner.
    """

    store: Store
    key: str
    file: BinaryIO
    size: int
    match: str | None
    order: int

    def read(self, start: int) -> bytes:
        """Returns the part that begins at a byte."""
        self.file.seek(start)
        return self.file.read(PART_BYTES)


class Uploads:
    """Uploads of a process, which share the memory for their parts."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts, self._held = attempts, Pool(HELD_BYTES)

    async def write(self, what: Written) -> Got | None:
        """Writes an object as one step; nothing is seen of it before.

        Returns:
            What is told of the object; None where another is there than was to be replaced.

        Raises:
            MissingError: if there is no bucket.
            DeniedError, ObjectFault, StoreFault: as other requests.
        """
        try:
            if what.size <= PART_BYTES:
                return await self._at_once(what)
            return await self._in_parts(what, what.store.upload(what.key, what.size, what.match))
        except ConflictError:
            return await self._if_written(what)
        except MissingError:
            if what.match is None:  # not even the bucket is there
                raise
            return None

    async def _at_once(self, what: Written) -> Got:
        await self._held.take(what.size, what.order)
        try:
            body = what.read(0)
            return await self._ask(what, lambda: what.store.put(what.key, body, what.match))
        finally:
            self._held.give_back(what.size)

    async def _if_written(self, what: Written) -> Got | None:
        """Returns what is told of an object that is this one, as after an answer that was lost."""
        if what.size > PART_BYTES:
            return None
        with suppress(MissingError, TooLargeError):
            got = await self._get(what, max(what.size, 1))
            return got if got.data == what.read(0) else None
        return None

    async def _in_parts(self, what: Written, upload: Upload) -> Got:
        upload.begun(await self._ask(what, upload.begin))
        parts: list[asyncio.Task[Got]] = []
        try:
            start: int | None = 0
            while start is not None:
                await self._held.take(PART_BYTES, what.order)
                number = len(parts) + 1
                parts.append(asyncio.create_task(self._part(what, upload, number, start)))
                if upload.is_in_order:
                    start = upload.noted(number, await parts[-1])
                else:
                    start = start + PART_BYTES if start + PART_BYTES < what.size else None
                    _raise_first(parts)
            got = (await asyncio.gather(*parts))[-1]
            is_made = upload.is_in_order and upload.made(got)
            return got if is_made else await self._finish(what, upload)
        except BaseException:
            for part in parts:
                part.cancel()
            with suppress(Exception):  # what stays there, the bucket's own rules remove
                await self._ask(what, upload.abort)
            raise

    async def _part(self, what: Written, upload: Upload, number: int, start: int) -> Got:
        """Sends a part, for which bytes are taken."""
        try:
            body = what.read(start)
            got = await self._ask(what, lambda: upload.part(number, start, body))
            upload.noted(number, got)
            return got
        finally:
            self._held.give_back(PART_BYTES)

    async def _finish(self, what: Written, upload: Upload) -> Got:
        for _ in range(_FINISHES):
            try:
                got = await self._ask(what, upload.finish)
            except MissingError:  # it was finished, and the answer was lost
                got = await self._get(what, 1, Span(0, 1))
            if upload.made(got):
                return got
            await asyncio.sleep(_FINISH_WAIT_S)
        raise StoreFault("the store does not put the parts of the object together; run again")

    async def _get(self, what: Written, max_bytes: int, span: Span | None = None) -> Got:
        wanted = Wanted(what.store, what.key, max_bytes, what.order, lambda: True, span=span)
        got = await self._attempts.fetch(wanted)
        self._attempts.give_back(got)
        return got

    async def _ask(self, what: Written, ask: Callable[[], Awaitable[Request]]) -> Got:
        wanted = Wanted(what.store, what.key, _MAX_TOLD_BYTES, what.order, lambda: True, ask=ask)
        return await self._attempts.fetch(wanted)


def _raise_first(parts: list[asyncio.Task[Got]]) -> None:
    """Raises what a part that is done has met."""
    for part in parts:
        if part.done():
            part.result()
