"""The rate that a simulated store leaves: no clock is waited for."""

import heapq
import math
import random

import pytest

from pipelines.object_stores.rate import Rate

ROWS = 6000


class Allowance:
    """A store that allows so many requests a second; refused ones use up a part of one."""

    def __init__(self, rate, cost, burst=50):
        self.rate, self.cost, self.burst = rate, cost, burst
        self.tokens, self.filled = burst, 0.0

    def __call__(self, now):
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled, allowed = now, self.tokens >= 1
        self.tokens = max(self.tokens - (1 if allowed else self.cost), 0)
        return allowed


class Unlimited(Rate):
    def wait_s(self, now):
        return 0.0


def simulated(allows, rate, flight=256, latency=0.05, most=math.inf, rows=ROWS):
    """Asks for rows; returns seconds and requests that took.

    Args:
        allows: tells of a request at a moment whether it is answered.
        most: rows a second that are wanted.
    """
    rng, now, sent, done, pending = random.Random(0), 0.0, 0, 0, 0
    ready = [(row / most, row, 0) for row in range(rows)]
    answers = []
    while done < rows:
        next_s = math.inf
        while ready and pending < flight:
            next_s = max(ready[0][0], now + rate.wait_s(now))
            if next_s > now + 1e-9:
                break
            _, row, tries = heapq.heappop(ready)
            sent, pending, next_s = sent + 1, pending + 1, math.inf
            answer = (now + latency, sent, rate.sent(now), row, tries, allows(now))
            heapq.heappush(answers, answer)
        if not answers or answers[0][0] > next_s:
            now = next_s
            continue
        now, _, number, row, tries, given = heapq.heappop(answers)
        pending -= 1
        if given:
            done += 1
            rate.delivered(number, now)
        else:
            rate.refused(number, now)
            wait_s = rng.uniform(0, min(0.05 * 2 ** min(tries, 9), 1))
            heapq.heappush(ready, (now + wait_s, row, tries + 1))
    return now, sent


@pytest.mark.parametrize("cost", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("latency", [0.01, 0.05, 0.2])
def test_rate_settles_near_what_is_allowed(cost, latency):
    seconds, sent = simulated(Allowance(200, cost), Rate(), latency=latency)
    assert seconds <= 1.15 * ROWS / 200
    assert sent <= 1.2 * ROWS


def test_without_a_limit_most_requests_would_be_refused():
    _, sent = simulated(Allowance(200, 0.1), Unlimited(), rows=1000)
    assert sent > 2 * 1000


def test_rate_follows_what_is_allowed():
    allowance = Allowance(200, 0.1)

    def allows(now):
        allowance.rate = 200 if now < 20 else 800
        return allowance(now)

    seconds, _ = simulated(allows, Rate(), rows=12_000)
    assert seconds <= 20 + 1.5 * (12_000 - 20 * 200) / 800


@pytest.mark.parametrize("share", [0.02, 1 / 3])
def test_refusals_at_random_leave_no_limit(share):
    rng, rate = random.Random(1), Rate()
    seconds, sent = simulated(lambda now: rng.random() >= share, rate, most=500)
    assert sent <= 1.1 * ROWS / (1 - share)
    assert seconds <= 1.5 * ROWS / 500
    assert rate.limit == math.inf or share < 0.1


def test_outages_cost_little_more_than_they_last():
    calm, _ = simulated(lambda now: True, Rate(), flight=16)
    seconds, sent = simulated(lambda now: not 5 <= now < 15, Rate(), flight=16)
    assert seconds <= calm + 11
    assert sent <= 1.05 * ROWS + 60


def test_host_that_asks_to_wait_is_heeded_only_while_nothing_is_delivered():
    rate = Rate()
    numbers = [rate.sent(0.0) for _ in range(40)]
    for number in numbers[:11]:
        rate.refused(number, 0.1, asked_s=30)
    assert rate.wait_s(0.1) == pytest.approx(30, abs=1)
    rate.delivered(numbers[11], 0.2)
    assert rate.wait_s(0.2) == 0
