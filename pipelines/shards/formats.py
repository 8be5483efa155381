"""The forms of a shard: a WebDataset tar, a folder of files, a Parquet file of Hugging Face's.

Each writes the samples of one shard, in the order in which they come.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.output.parquet import write_parquet
from pipelines.shards.plan import Shard
from pipelines.shards.samples import Sample
from pipelines.storage import uris, writing

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` has an image
_FEATURES = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
_HF_KEY = b"huggingface"
GROUP_BYTES = 16 << 20  # of images, that a reader has to take at once


@dataclass(frozen=True)
class ShardFormat:
    """A form of shards.

    Attributes:
        data: folder of the output that the shards lie in.
        ledger: folder of what is told of each shard: its rows, and its statistics.
        name: returns the name of a shard's file in `data`.
        write: writes the samples of a shard to a URI, whole or not at all, with the columns of a
            schema.
    """

    data: str
    ledger: str
    name: Callable[[Shard], str]
    write: Callable[[str, Iterable[Sample], pa.Schema], None]


def write_tar(uri: str, samples: Iterable[Sample], schema: pa.Schema) -> None:
    """Writes samples as WebDataset has them: members of one key, side by side."""
    with (
        writing.open_output(uri) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for sample in samples:
            for ending, data in _members(sample):
                member = tarfile.TarInfo(f"{sample.key}.{ending}")  # of 1970: equal bytes each time
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_folder(uri: str, samples: Iterable[Sample], schema: pa.Schema) -> None:
    """Writes samples as files of one name, as img2dataset's `files` have them."""
    for sample in samples:
        for ending, data in _members(sample):
            writing.write_atomically(uris.join(uri, f"{sample.key}.{ending}"), data)


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield sample.ending, sample.image
    if sample.text is not None:
        yield "txt", sample.text.encode()
    yield "json", json.dumps(sample.about(), ensure_ascii=False).encode()


def write_hf(uri: str, samples: Iterable[Sample], schema: pa.Schema) -> None:
    """Writes samples as a Parquet file whose column `image` the library `datasets` shows."""
    fields = [field for field in schema if field.name not in ("image", "key")]
    kept = pa.schema([("image", IMAGE), ("key", pa.string()), *fields])
    metadata = {**(schema.metadata or {}), _HF_KEY: _FEATURES.encode()}
    write_parquet(uri, kept.with_metadata(metadata), _batches(samples, kept))


def _batches(samples: Iterable[Sample], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    size = 0
    for sample in samples:
        image = {"bytes": sample.image, "path": f"{sample.key}.{sample.ending}"}
        rows.append({**sample.values, "image": image, "key": sample.key})
        size += len(sample.image)
        if size >= GROUP_BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema)
            rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema)


SHARD_FORMATS = {
    "webdataset": ShardFormat("shards", "shards", lambda s: f"{s.name}.tar", write_tar),
    "folder": ShardFormat("images", "images", lambda s: s.name, write_folder),
    "hf": ShardFormat(
        "data",
        "ledger",
        lambda s: f"train-{s.name}-of-{s.count:0{len(s.name)}d}.parquet",
        write_hf,
    ),
}
