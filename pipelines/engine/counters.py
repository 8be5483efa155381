"""What a run counts: seconds by stage, on every runner, and rows, in this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.metrics import MetricsFilter
from apache_beam.runners.runner import PipelineResult

# Counters of the stages. Those of `Prepare`'s threads may together exceed the wall.
_STEP_SUFFIX = "_usec"
_INFERENCE = "inference_batch_latency_micro_secs"


def stage_seconds(result: PipelineResult) -> dict[str, float]:
    """Returns seconds by stage of one finished pipeline: read, fetch, decode, encode, write, ..."""
    found = result.metrics().query(MetricsFilter())
    seconds: Counter[str] = Counter()
    for counter in found["counters"]:
        name = counter.key.metric.name
        if name.endswith(_STEP_SUFFIX):
            seconds[name.removesuffix(_STEP_SUFFIX)] += _value(counter) / 1e6
    for distribution in found["distributions"]:
        if distribution.key.metric.name == _INFERENCE:
            seconds["encode"] += _value(distribution).sum / 1e6
    return dict(seconds)


def add(total: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Adds the seconds of two pipelines, stage by stage."""
    return {name: total.get(name, 0.0) + more.get(name, 0.0) for name in {*total, *more}}


def _value(metric: Any) -> Any:
    """Committed where the runner tells, else what was attempted."""
    return metric.committed if metric.committed is not None else metric.attempted


class Tally:
    """What the line has done in this process, in whichever thread.

    Attributes:
        units: that have their files.
        began: when the first chunk was read, on `time.perf_counter`; None before.
        ended: when the last chunk was written.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.embedded = 0
        self.rejects = 0
        self.units = 0
        self.began: float | None = None
        self.ended = 0.0

    @property
    def seconds(self) -> float:
        """Time from the first chunk to the last."""
        return self.ended - self.began if self.began is not None else 0.0

    def restart(self) -> None:
        """Forgets when the first chunk was read."""
        self.began, self.ended = None, 0.0

    def note_start(self) -> None:
        """Notes that a chunk has been read."""
        if self.began is None:
            self.began = time.perf_counter()

    def add(self, embedded: int, rejects: int) -> None:
        """Counts rows that have come to the writer."""
        with self._lock:
            self.embedded += embedded
            self.rejects += rejects
            self.ended = time.perf_counter()

    def add_unit(self) -> None:
        """Counts a unit whose files are there."""
        with self._lock:
            self.units += 1

    @property
    def rows(self) -> int:
        """Rows done, either way."""
        return self.embedded + self.rejects


# Stages of an in-process run count here; on remote workers nobody looks at it.
TALLY = Tally()
