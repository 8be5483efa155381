"""Fetches one object, and decides after a fault whether it or its store is to blame."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import aiohttp

from pipelines.object_stores.answers import Answer, Got, Meaning, Request, Span, Wanted
from pipelines.object_stores.faults import (
    ChangedError,
    ConflictError,
    DeniedError,
    MissingError,
    ObjectFault,
    StoreFault,
    TooLargeError,
)
from pipelines.object_stores.host import Host
from pipelines.object_stores.pool import Pool
from pipelines.object_stores.retry_after import asked_s, wait_s
from pipelines.object_stores.transport import Transport

_MAX_MOVES = 2
_MAX_RENEWALS = 3  # of credentials; what is refused so often, while others are not, is the object
_PASSING = (aiohttp.ClientError, OSError, asyncio.TimeoutError)
_PROOF_BYTES = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long is tried, in seconds.

    Attributes:
        object_s: of an object's own attempts, while its host answers others.
        host_s: of a host that answers nothing.
        first_wait_s, most_wait_s: bounds of the random wait before the second and later attempts.
        busy_wait_s: the most of it where the host only asked to be asked less; its rate does that.
    """

    object_s: float = 120.0
    host_s: float = 600.0
    first_wait_s: float = 0.5
    most_wait_s: float = 30.0
    busy_wait_s: float = 1.0


@dataclass
class _Trial:
    """What one object has been through."""

    attempts: int = 0
    moves: int = 0
    renewals: int = 0
    spent_s: float = 0.0
    failing_since: float | None = None


class _AgainError(Exception):
    """An attempt that another one may mend."""

    def __init__(self, said: str, *, busy: bool = False, asked_s: float = 0.0) -> None:
        super().__init__(said)
        self.busy, self.asked_s = busy, asked_s


class Attempts:
    """What the fetches of a process share.

    Args:
        concurrency: requests to one host that may be in flight.
        bodies: bytes that may be held.
        clock: seconds.
    """

    def __init__(
        self,
        concurrency: int,
        bodies: Pool,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._concurrency, self._bodies = concurrency, bodies
        self._patience, self._clock = patience, clock
        self._transport = Transport(bodies)
        self._hosts: dict[str, Host] = {}

    async def fetch(self, wanted: Wanted) -> Got:
        """Returns an object, whose bytes are taken from the pool of bodies; or writes one.

        Raises:
            MissingError, DeniedError, TooLargeError, ObjectFault: what is wrong with the object.
            ConflictError: if it is not of the version that is to be replaced.
            StoreFault: if no object is to blame.
        """
        trial = _Trial()
        while True:
            host = self._host(await wanted.store.host())
            await host.slots.take(1, wanted.order)
            try:
                number = await host.turn(wanted.order)
                if not wanted.still():
                    raise ObjectFault("nobody wants the object any more")
                began = self._clock()
                return await self._attempt(wanted, trial, host, number)
            except _AgainError as error:
                trial.spent_s += self._clock() - began
                again = error
            finally:
                host.slots.give_back(1)
            await self._wait(trial, host, again)

    def give_back(self, got: Got) -> None:
        """Lets as many bytes of others come as an object has."""
        self._bodies.give_back(len(got.data))

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def _attempt(self, wanted: Wanted, trial: _Trial, host: Host, number: int) -> Got:
        """Sends one request, or several where it must be signed or sent otherwise."""
        while True:
            request, answer = await self._answer(wanted, host, number)
            meaning, said = wanted.store.meaning(answer)
            if meaning is Meaning.BUSY:
                asked = asked_s(answer.headers)
                host.refused(number, asked)
                raise _AgainError(said, busy=True, asked_s=asked)
            if meaning is Meaning.PASSING:
                host.failed()
                raise _AgainError(said, asked_s=asked_s(answer.headers))
            if meaning is Meaning.EXPIRED and trial.renewals < _MAX_RENEWALS:
                trial.renewals += 1
                await wanted.store.renew(request.access, said)
                continue
            if meaning is Meaning.MOVED and trial.moves < _MAX_MOVES:
                trial.moves += 1
                if wanted.store.moved(answer):
                    host = self._host(await wanted.store.host())
                    continue
            got = self._got(wanted, host, answer, meaning, said)
            host.answered(number)
            host.proven = wanted if wanted.ask is None else host.proven
            return got

    async def _answer(self, wanted: Wanted, host: Host, number: int) -> tuple[Request, Answer]:
        try:
            request = await (wanted.ask() if wanted.ask else _get(wanted, wanted.span))
            return request, await self._transport.send(request, wanted.max_bytes, wanted.order)
        except StoreFault:
            raise
        except _PASSING as error:
            host.failed()
            raise _AgainError(f"{type(error).__name__}: {error}") from error
        except TooLargeError:
            host.answered(number)
            raise

    def _got(self, wanted: Wanted, host: Host, answer: Answer, meaning: Meaning, said: str) -> Got:
        version = wanted.store.version(answer)
        if answer.status == 416 and wanted.span is not None:  # an empty object has no part
            return Got(b"", version)
        if meaning is Meaning.MISSING:
            raise MissingError(said)
        if meaning is Meaning.CONFLICT:
            raise ConflictError(said)
        if meaning is Meaning.DENIED:
            raise DeniedError(answer.status)
        if meaning is not Meaning.GIVEN:
            raise ObjectFault(f"the store answered {said}")
        wanted.store.worked()
        arrived = len(answer.body)
        if wanted.ask is not None:
            if answer.status < 300:
                self._bodies.give_back(arrived)
            return Got(answer.body, version, headers=answer.headers)
        try:
            data, size = _data(wanted, answer)
        except Exception as error:
            self._bodies.give_back(arrived)
            if not isinstance(error, ChangedError):
                raise
            host.failed()
            raise _AgainError(f"{type(error).__name__}: {error}") from error
        self._bodies.add(len(data) - arrived)
        return Got(data, version, size)

    async def _wait(self, trial: _Trial, host: Host, error: _AgainError) -> None:
        """Waits for the next attempt, unless there is to be none."""
        patience, now = self._patience, self._clock()
        trial.attempts += 1
        if trial.failing_since is None:
            trial.failing_since = now
        if host.silent_s >= patience.host_s:
            fault = StoreFault(
                f"{host.name} has answered nothing for {host.silent_s:.0f} s but faults, the last "
                f"one {error}; run again once it answers"
            )
            host.give_up(fault)
            raise fault
        if trial.spent_s >= patience.object_s:
            if not host.answered_since(trial.failing_since):
                await self._prove(host)
            if host.answered_since(trial.failing_since):
                raise ObjectFault(f"{trial.attempts} attempts failed: {error}")
        most_s = patience.busy_wait_s if error.busy else patience.most_wait_s
        first_s = min(patience.first_wait_s, most_s) / (10 if error.busy else 1)
        most_s = min(first_s * 2 ** min(trial.attempts - 1, 30), most_s)
        seconds = wait_s(most_s, error.asked_s)
        trial.spent_s += seconds
        await asyncio.sleep(seconds)

    async def _prove(self, host: Host) -> None:
        """Asks a host again for what it gave before, to tell whether it gives anything at all."""
        if host.proven is None:
            return
        store = host.proven.store
        try:
            request = await _get(host.proven, Span(0, 1))
            answer = await self._transport.send(request, _PROOF_BYTES, host.proven.order)
        except (*_PASSING, TooLargeError):
            return
        if answer.status < 300:
            self._bodies.give_back(len(answer.body))
        if store.meaning(answer)[0] not in (Meaning.BUSY, Meaning.PASSING):
            host.answered(-1)

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._concurrency, self._clock)
        return self._hosts[name]


async def _get(wanted: Wanted, span: Span | None) -> Request:
    request = await wanted.store.request(wanted.key)
    if span is None:
        return request
    return replace(request, headers={**request.headers, "Range": span.header})


def _data(wanted: Wanted, answer: Answer) -> tuple[bytes, int]:
    """Returns what was wanted of an object, and the size of all of it.

    A checksum is of the whole object, so it is compared where that is what came.
    """
    told = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]+)", answer.headers.get("Content-Range", ""))
    if told is None or int(told[1]) == len(answer.body):
        data = wanted.store.whole(answer, wanted.max_bytes)
        return (wanted.span.of(data) if wanted.span and not told else data), len(data)
    return wanted.store.part(answer), int(told[1])
