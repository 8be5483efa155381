"""Benchmarks and measurements; run from a clone, not installed."""

import clip_core  # noqa: F401  # before torch, whose threads it bounds
