"""Seconds by stage of a pipeline, on every runner."""

from __future__ import annotations

from collections import Counter
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


def _value(metric: Any) -> Any:
    """Committed where the runner tells, else what was attempted."""
    return metric.committed if metric.committed is not None else metric.attempted
