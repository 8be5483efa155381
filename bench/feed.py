"""What a row costs the process that holds the model: `python -m bench.feed`.

Everything is real but the fetch and the decode of one image and the device, which answer at once:
the readers, the tokenizer, SHA-256, Prepare, Beam's in-process runner, scoring and Parquet. Printed
is the processor time of the process a row, for each form of manifest, without what a run costs that
has no more than a batch; the least of the rounds, as what else a machine does only adds.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

import clip_core
from bench.pairs import caption
from clip_core.preprocess import Preprocess
from pipelines.encoding import handler
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.encoded_batch import Encoded, RowsOfBatch
from pipelines.encoding.image_work import ImageWork
from pipelines.encoding.model_inputs import ModelInputs
from pipelines.encoding.models import LoadedModels, ModelSpec, RunModels
from pipelines.engine.cores import Threads
from pipelines.images.decode import DecodedImage
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.output.layout import OutputLayout
from pipelines.records import Row, Vectors
from pipelines.runs.job import build, reader_of
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema

DIM, BATCH, SIZE, IMAGE_BYTES = 512, 512, 224, 10_000
UNIT_VECTORS = np.random.default_rng(0).standard_normal((BATCH, DIM)).astype(np.float32)
UNIT_VECTORS /= np.linalg.norm(UNIT_VECTORS, axis=1, keepdims=True)
PIXELS = DecodedImage((np.zeros((3, SIZE, SIZE), np.uint8),), 640, 480)
IMAGE = np.random.default_rng(1).bytes(IMAGE_BYTES)


@dataclass(frozen=True)
class StubWork(ImageWork):
    """Images that are there at once."""

    def fetch(self, row: Row) -> bytes:
        return row.image_bytes or IMAGE

    def decode(self, data: bytes) -> DecodedImage:
        return PIXELS


def stub_rows(rows: RowsOfBatch, *_: object) -> Encoded:
    """Stands for the device."""
    vectors = UNIT_VECTORS[: len(rows)]
    return Encoded((Vectors(vectors, vectors[::-1], rows.truncated[0]),), {})


def write_jsonl(rows: int, folder: Path) -> Path:
    """Writes rows that name their images."""
    lines = [{"uid": f"{n:09d}", "url": f"{n:09d}.jpg", "text": t} for n, t in _captions(rows)]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_parquet(rows: int, folder: Path) -> Path:
    """Writes rows that hold their images."""
    path = folder / "manifest.parquet"
    schema = pa.schema({"uid": pa.string(), "image_bytes": pa.binary(), "text": pa.string()})
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for first in range(0, rows, 1000):
            found = _captions(min(1000, rows - first), first)
            columns = [[f"{n:09d}" for n, _ in found], [IMAGE] * len(found), [t for _, t in found]]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def write_tar(rows: int, folder: Path) -> Path:
    """Writes a WebDataset tar."""
    path = folder / "manifest.tar"
    with tarfile.open(path, "w") as tar:
        for n, text in _captions(rows):
            for suffix, data in (("jpg", IMAGE), ("txt", text.encode())):
                member = tarfile.TarInfo(f"{n:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


FORMS: dict[str, Callable[[int, Path], Path]] = {
    "jsonl": write_jsonl,
    "parquet with bytes": write_parquet,
    "tar": write_tar,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a line for each form."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rows", type=int, default=20_000)
    flags.add_argument("--rounds", type=int, default=3)
    options = flags.parse_args(argv)
    tiny = clip_core.load("tiny")
    stub = LoadedModels(
        (replace(tiny, clip=SimpleNamespace(config=_config())),), 0, Threads(1, 1, 1, 1)
    )  # type: ignore[arg-type]
    handler.load_models = lambda specs: stub  # type: ignore[assignment]
    handler.encode_rows = stub_rows  # type: ignore[assignment]
    models = RunModels((None,), (ModelSpec("stub", "cuda"),), stub.models, stub.parameters)
    embed_rows = EmbedRows(models, batch_size=BATCH)
    embed_rows.work = StubWork(ModelInputs.of([Preprocess(SIZE)], [tiny.tokenizer]))
    for name, write in FORMS.items():
        whole, start = [], []
        for _ in range(options.rounds):
            for rows, used in ((options.rows + BATCH, whole), (BATCH, start)):
                with tempfile.TemporaryDirectory() as folder:
                    used.append(_run(write(rows, Path(folder)), Path(folder) / "out", embed_rows))
        row = 1e3 * (min(whole) - min(start)) / options.rows
        runs = ", ".join(f"{seconds:.2f}" for seconds in whole)
        print(
            f"{name:<20}{row:8.3f} ms of processor a row ({runs} s, {min(start):.2f} s of a batch)"
        )


def _run(manifest: Path, output: Path, embed_rows: EmbedRows) -> float:
    """Embeds a manifest; returns seconds of processor time."""
    plan = plan_units(ManifestRequest((str(manifest),)))
    layout = OutputLayout(str(output), embeddings_schema(DIM), rejects_schema(), {})
    flags = ["--runner", "FnApiRunner", "--direct_num_workers", "2"]
    began = time.process_time()
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    build(pipeline, reader_of(embed_rows, layout, plan.units), embed_rows, layout)
    pipeline.run().wait_until_finish()
    used = time.process_time() - began
    written = sum(pq.read_metadata(path).num_rows for path in output.glob("embeddings/*.parquet"))
    if written != plan.rows and plan.rows is not None:
        raise SystemExit(f"{plan.rows} rows in, {written} out")
    return used


def _config() -> SimpleNamespace:
    return SimpleNamespace(embed_dim=DIM)


def _captions(count: int, first: int = 0) -> list[tuple[int, str]]:
    rng = np.random.default_rng(first)
    return [(first + n, caption(rng)) for n in range(count)]


if __name__ == "__main__":
    main()
