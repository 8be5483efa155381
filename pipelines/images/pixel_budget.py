"""Bounds what images of all bundles hold in memory in one process."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Any

TOTAL_BYTES = 256 << 20


@dataclass(eq=False)
class Account:
    """What one bundle holds. A failed bundle closes its own, and leaves nothing to the next.

    Attributes:
        ready: hears None when bytes have been given back, or the account is closed.
    """

    ready: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    held: int = 0
    closed: bool = False


class Budget:
    """Bytes that may be held. An account that holds nothing may always take, others up to a floor.

    So no bundle waits for one that waits for it, and each can fill a batch.
    """

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        self.total = total
        self.used = 0
        self._lock = threading.Lock()
        self._waiting: set[queue.SimpleQueue] = set()

    def take(self, size: int, account: Account, floor: int) -> Lease | None:
        """Takes bytes, all of them or none; None asks to try again once `account.ready` hears.

        Args:
            floor: what the account may hold however much the others do.
        """
        with self._lock:
            fits = self.used + size <= self.total
            if not fits and account.held and account.held + size > floor:
                self._waiting.add(account.ready)
                return None
            self.used += size
            account.held += size
            return Lease(self, account, size)

    def give_back(self, size: int, account: Account) -> None:
        """Gives bytes back and wakes who waits; what a closed account held is back already."""
        with self._lock:
            if account.closed:
                return
            self._settle(size, account)

    def close(self, account: Account) -> None:
        """Gives back all that an account holds, and wakes its bundle."""
        with self._lock:
            self._settle(account.held, account)
            account.closed = True
        account.ready.put(None)

    def _settle(self, size: int, account: Account) -> None:
        self.used -= size
        account.held -= size
        waiting, self._waiting = self._waiting, set()
        for ready in waiting:
            ready.put(None)


class Lease:
    """Bytes that a chunk has taken."""

    def __init__(self, budget: Budget, account: Account, size: int) -> None:
        self._budget, self._account, self._size = budget, account, size

    def give_back(self, size: int | None = None) -> None:
        """Gives so many bytes back, or all that are left."""
        part = self._size if size is None else min(size, self._size)
        self._size -= part
        if part:
            self._budget.give_back(part, self._account)


# Of this process, all of whose bundles share its memory.
BUDGET = Budget()
