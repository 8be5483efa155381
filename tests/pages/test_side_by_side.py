"""Work in threads within a time for all of it."""

import threading

from pipelines.pages.side_by_side import THREADS, side_by_side


def test_work_is_done_at_once_and_told_by_name():
    together = threading.Barrier(THREADS, timeout=5)

    def meet(number):
        together.wait()
        return number * number

    work = [(number, lambda n=number: meet(n)) for number in range(2 * THREADS)]
    assert dict(side_by_side(work, 30)) == {n: n * n for n in range(2 * THREADS)}


def test_what_is_not_done_in_time_is_told_as_none():
    never = threading.Event()
    work = [("quick", lambda: 1), ("slow", never.wait)]
    assert dict(side_by_side(work, 0.2)) == {"quick": 1, "slow": None}
    never.set()
    assert list(side_by_side([], 1)) == []
