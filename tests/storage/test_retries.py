from types import SimpleNamespace

import pytest

from pipelines.storage import retries
from pipelines.storage.retries import AttemptsFailed, RetryPolicy, with_retries


class Busy(ConnectionError):
    """A fault that may pass."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that only waiting, 30 s each time, and calling move."""
    monkeypatch.setattr(retries, "wait_s", lambda most_s: 30.0)
    clock = SimpleNamespace(now=0.0, began=[])

    def sleep(seconds):
        clock.now += seconds

    def call():
        clock.began.append(clock.now)
        clock.now += 10
        raise Busy("later")

    clock.sleep, clock.call, clock.time = sleep, call, lambda: clock.now
    return clock


def test_no_attempt_begins_after_the_time(clock):
    policy = RetryPolicy(attempts=9, max_seconds=100)
    with pytest.raises(AttemptsFailed, match="3 attempts failed: Busy: later"):
        with_retries(clock.call, policy, clock.sleep, clock.time)
    assert clock.began == [0, 40, 80]
    assert clock.now == 90  # nor is waited for one that will not be


def test_attempts_are_counted(clock):
    with pytest.raises(AttemptsFailed, match="2 attempts failed"):
        with_retries(clock.call, RetryPolicy(attempts=2), clock.sleep, clock.time)
    assert clock.began == [0, 40]
