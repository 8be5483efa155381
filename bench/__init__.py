"""Benchmarks and measurements; run from a clone, not installed."""
