"""Access to a bucket that a thread renews before it ends, and never the loop that asks with it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipelines.object_stores.faults import StoreFault

T = TypeVar("T")

# Filesystems renew what ends within some minutes, so asking them as often as this is often enough.
CHECK_S = 60.0
_LOGGER = logging.getLogger(__name__)


class Renewing(Generic[T]):
    """What `ask` returned last. All who wait for it wait for one call.

    Args:
        ask: blocks; with True it must ask anew for what it has.
        clock: seconds.
    """

    def __init__(
        self, ask: Callable[[bool], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._value: T | None = None
        self._number = 0
        self._asked = 0.0
        self._asking: Future[None] | None = None
        self._useful = True  # whether a request has been answered since it was asked for anew

    async def get(self) -> tuple[T, int]:
        """Returns the access, and its number, by which it is told apart from what comes later.

        Raises:
            StoreFault: if there is none.
        """
        if self._value is None:
            await _done(self._begin(False))
        elif self._clock() - self._asked > CHECK_S:
            self._begin(False).add_done_callback(_warn)  # what there is does for some minutes more
        assert self._value is not None
        return self._value, self._number

    def worked(self) -> None:
        """Notes that the access is one."""
        self._useful = True

    async def renew(self, number: int, said: str) -> None:
        """Asks anew for an access that the store has refused, unless that has happened meanwhile.

        Args:
            number: of the access.
            said: by the store.

        Raises:
            StoreFault: if what was asked for anew is refused as well, or there is none.
        """
        if number != self._number:
            return
        if not self._useful and self._asking is None:
            raise StoreFault(
                f"the store refuses the credentials ({said}), and those that were asked for anew "
                "as well; renew them, look at this machine's clock, and run again"
            )
        self._useful = False
        await _done(self._begin(True))

    def _begin(self, anew: bool) -> Future[None]:
        with self._lock:
            asking = self._asking
            if asking is None:
                self._asked, self._asking = self._clock(), (asking := Future())
                threading.Thread(target=self._run, args=[asking, anew], daemon=True).start()
            return asking

    def _run(self, asking: Future[None], anew: bool) -> None:
        fault = None
        try:
            value = self._ask(anew)
            # The same ones, asked for anew, are refused like the others; they get a number, too.
            self._number += anew or value != self._value
            self._value = value
        except Exception as error:  # noqa: BLE001 - whatever the clients and their plugins raise
            fault = StoreFault(
                f"the store's credentials cannot be had ({type(error).__name__}: {error}); renew "
                "them, and run again"
            )
            fault.__cause__ = error
        with self._lock:
            self._asking = None
        if fault is None:
            asking.set_result(None)
        else:
            asking.set_exception(fault)


async def _done(asking: Future[None]) -> None:
    await asyncio.shield(asyncio.wrap_future(asking))


def _warn(asking: Future[None]) -> None:
    if asking.exception() is not None:
        _LOGGER.warning("%s", asking.exception())
