"""What a launcher costs before any worker starts: planning from a store, and the graph it sends.

    python -m bench.planning [--files 1000] [--latency 0.05] [--graph_files 40000]

Planning reads footers from a stand-in store that answers each request after a while. The graph is
that of `embed` over so many units, as a runner gets it; Dataflow takes 10 MB.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from io import BytesIO

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from bench.stand_in_store import StandIn
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.read import ReadManifest
from pipelines.manifests.request import ManifestRequest
from pipelines.records import Unit
from schemas.manifest import Columns

BUCKET = "planning"


def memory_mb() -> float:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def planned(files: int, latency: float) -> str:
    """Plans Parquet files of a store; returns a line about it."""
    body = BytesIO()
    pq.write_table(pa.table({"url": ["a.jpg"] * 100, "text": ["a"] * 100}), body)
    store = StandIn().start()
    try:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{store.port}"
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "stand-in"
        for number in range(files):
            store.objects.put(f"/{BUCKET}/m/{number:06}.parquet", body.getvalue())
        store.set(latency=latency)
        began = time.perf_counter()
        plan = plan_units(ManifestRequest((f"s3://{BUCKET}/m/",)))
        seconds = time.perf_counter() - began
        requests = store.counts.methods.total() / files
    finally:
        store.stop()
    assert plan.rows == 100 * files
    at = f"{files} files at {latency * 1000:.0f} ms"
    return f"planning   {at}: {seconds:.1f} s, {requests:.2f} requests a file"


def graph(files: int) -> str:
    """Builds the reading part of a graph, which is what grows; returns a line about it."""
    units = tuple(
        Unit(
            unit_id=f"part-{number:06}-{number * 2654435761 % 2**32:08x}-00000",
            uri=f"gs://a-bucket/laion/2024/part-{number:06}.parquet",
            format="parquet",
            columns=Columns(image_uri="url", text="caption", kept=("license", "language")),
            image_root="gs://a-bucket/laion/2024",
            first_row=0,
            rows=10_000,
            manifest_bytes=number * 7919 + 10**7,
            manifest_version=str(number * 104729),
        )
        for number in range(files)
    )
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    _ = pipeline | ReadManifest(Plan(units, pa.schema([]), None))
    size = pipeline.to_runner_api().ByteSize()
    return f"graph      {files} units: {size / 1e6:.2f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench."""
    flags = argparse.ArgumentParser(description="Measure what a launcher does before any worker.")
    flags.add_argument("--files", type=int, default=1000)
    flags.add_argument("--latency", type=float, default=0.05, help="of the store, in seconds")
    flags.add_argument("--graph_files", type=int, default=40_000)
    options = flags.parse_args(argv)
    before = memory_mb()
    print(planned(options.files, options.latency), flush=True)
    print(graph(options.graph_files), flush=True)
    print(f"memory     {memory_mb() - before:.0f} MB more than at the start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
