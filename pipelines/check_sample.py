"""Embeds a sample of a manifest in this process, and measures it."""

from __future__ import annotations

import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
from tqdm import tqdm

from pipelines import storage
from pipelines.compression import DamagedStream, decompressed
from pipelines.cores import usable_cores
from pipelines.embed_rows import EmbedRows
from pipelines.parquet_output import parquet_bytes
from pipelines.read import read_unit
from pipelines.records import Embedded, Example, Reject, Row, Unit
from pipelines.run_ahead import run_steps
from pipelines.score import score
from pipelines.tables import rejects_batch, scored_batch
from pipelines.webdataset import IMAGE_FIELDS
from pipelines.write import OutputLayout

MAX_UNITS = 10  # that a sample is taken from
MEMBERS_LOOKED_AT = 200


@dataclass
class SampleResult:
    """What became of a sample.

    Attributes:
        rejects: rows by reason.
        details: number and detail of one row, by reason.
        truncated: captions longer than the model's context.
        repeated_ids: ids of more than one row.
        rows_per_s: of this process, work on the images and the model's together.
    """

    rows: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    repeated_ids: int = 0
    rows_per_s: float = 0.0
    bytes_per_row: float = 0.0


def sample_rows(units: Sequence[Unit], count: int) -> list[Row | Reject]:
    """Reads the first rows of up to ten units that lie evenly over the manifest."""
    step = max(len(units) // MAX_UNITS, 1)
    chosen = units[::step][:MAX_UNITS]
    if not chosen:
        return []
    each = -(-count // len(chosen))
    found = [record for unit in chosen for record in islice(read_unit(unit), each)]
    return found[:count]


def embed_sample(
    records: Sequence[Row | Reject], transform: EmbedRows, layout: OutputLayout
) -> SampleResult:
    """Fetches, decodes, encodes and encodes to Parquet, and counts."""
    model = transform.handler.load_model()
    rows = [record for record in records if isinstance(record, Row)]
    rejects = [record for record in records if isinstance(record, Reject)]
    began = time.perf_counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        outcomes = list(pool.map(lambda row: run_steps(transform.steps, row).value, rows))
    progress = tqdm(total=len(rows), desc="sample", unit=" rows", disable=None, leave=False)
    examples = [found for found in outcomes if isinstance(found, Example)]
    if examples:  # the first pass of a model also pays for its start
        paused = time.perf_counter()
        transform.handler.run_inference(examples[:1], model)
        began += time.perf_counter() - paused
    size = transform.handler.batch_size
    encoded: list[Embedded | Reject] = []
    with progress:
        progress.update(len(rows) - len(examples))
        for first in range(0, len(examples), size):
            batch = examples[first : first + size]
            encoded += transform.handler.run_inference(batch, model)
            progress.update(len(batch))
    seconds = time.perf_counter() - began
    rejects += [found for found in (*outcomes, *encoded) if isinstance(found, Reject)]
    embedded = [found for found in encoded if isinstance(found, Embedded)]
    result = _counted(rejects, embedded)
    result.rows_per_s = result.rows / seconds
    result.bytes_per_row = _table_bytes(embedded, rejects, layout) / max(result.rows, 1)
    return result


def dotted_keys(unit: Unit) -> list[str]:
    """Returns members of a tar whose image is not seen because their key holds a dot."""
    if unit.format != "webdataset":
        return []
    with storage.open_input(unit.uri) as file:
        try:
            with tarfile.open(fileobj=decompressed(unit.uri, file), mode="r|") as tar:
                names = [member.name for member in islice(tar, MEMBERS_LOOKED_AT)]
        except (tarfile.TarError, EOFError, DamagedStream):  # the sample tells of it
            return []
    fields = {name: storage.base_name(name).lower().split(".")[1:] for name in names}
    return [name for name, parts in fields.items() if len(parts) > 1 and parts[-1] in IMAGE_FIELDS]


def _counted(rejects: Sequence[Reject], embedded: Sequence[Embedded]) -> SampleResult:
    result = SampleResult(rows=len(rejects) + len(embedded))
    for reject in rejects:
        name = reject.reason.value
        result.rejects[name] += 1
        place = f"{reject.row.source_row} of {reject.row.source}"
        result.details.setdefault(name, f"{place}: {reject.detail}" if reject.detail else place)
    result.truncated = sum(any(v.text_truncated for v in found.vectors) for found in embedded)
    uids = Counter([found.row.uid for found in rejects] + [found.row.uid for found in embedded])
    result.repeated_ids = sum(count > 1 for count in uids.values())
    return result


def _table_bytes(
    embedded: Sequence[Embedded], rejects: Sequence[Reject], layout: OutputLayout
) -> int:
    batches = [
        scored_batch([score(found) for found in embedded], layout.embeddings, layout.models),
        rejects_batch(rejects, layout.rejects),
    ]
    return sum(parquet_bytes(pa.Table.from_batches([batch]), {}).size for batch in batches)
