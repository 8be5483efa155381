"""Access to a bucket that a thread renews before it ends, and never the loop that asks with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines.object_stores.faults import StoreFault

T = TypeVar("T")

# Filesystems renew what ends within some minutes, so asking them as often as this is often enough.
CHECK_S = 60.0
_LOGGER = logging.getLogger(__name__)


class Renewing(Generic[T]):
    """What `ask` returned last.

    Args:
        ask: blocks; with True it must ask anew for what it has.
        clock: seconds.
    """

    def __init__(
        self, ask: Callable[[bool], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._value: T | None = None
        self._asked = 0.0
        self._number = 0
        self._useful = True  # whether a request has been answered since it was asked for anew
        self._lock = asyncio.Lock()
        self._check: asyncio.Task[None] | None = None

    async def get(self) -> tuple[T, int]:
        """Returns the access, and its number, by which it is told apart from what comes later.

        Raises:
            StoreFault: if there is none.
        """
        if self._value is None:
            async with self._lock:
                if self._value is None:
                    await self._take(False)
        elif self._clock() - self._asked > CHECK_S and self._check is None:
            self._check = asyncio.create_task(self._check_in_time())
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
            StoreFault: if what was asked for anew is refused as well.
        """
        async with self._lock:
            if number != self._number:
                return
            if not self._useful:
                raise StoreFault(
                    f"the store refuses the credentials ({said}), and those that were asked for "
                    "anew as well; renew them, look at this machine's clock, and run again"
                )
            self._useful = False
            await self._take(True)

    async def _check_in_time(self) -> None:
        try:
            async with self._lock:
                await self._take(False)
        except StoreFault as error:  # what there is may do for some minutes more
            _LOGGER.warning("%s", error)
        finally:
            self._check = None

    async def _take(self, anew: bool) -> None:
        self._asked = self._clock()
        try:
            value = await asyncio.to_thread(self._ask, anew)
        except Exception as error:  # noqa: BLE001 - whatever the clients and their plugins raise
            text = f"{type(error).__name__}: {error}"
            raise StoreFault(
                f"the store's credentials cannot be had ({text}); renew them, and run again"
            ) from error
        if value != self._value:
            self._number += 1
        self._value = value
        if anew:  # the same ones, asked for anew, are known to be refused
            self._number += 1
