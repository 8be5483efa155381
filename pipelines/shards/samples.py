"""The samples of a shard: its rows with their images, fetched ahead in threads, and the misses."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.engine.cores import threads_for
from pipelines.images.fetch import FetchPolicy
from pipelines.images.trust import NotTrustedError, Trust
from pipelines.manifests.rows import source_of
from pipelines.output.scored_tables import ScoredTables, iterate_batches
from pipelines.records import Row, RowFault
from pipelines.shards.encoded import as_png, ending_of
from pipelines.shards.originals import fetch_original, original_rows, unit_of_file
from pipelines.shards.plan import Piece, Shard
from schemas.embeddings import MODEL_COLUMNS, model_column, model_names

OTHER_FORMAT = "other_format"  # an image that loaders drop
SUCCESS = "success"


@dataclass(frozen=True)
class ShardRow:
    """A row of a shard: where it came from, its key, and its columns but for the embeddings."""

    key: str
    values: Mapping[str, Any]

    source = property(lambda self: self.values["source"])
    source_row = property(lambda self: self.values["source_row"])
    url = property(lambda self: self.values["url"])
    sha256 = property(lambda self: self.values["sha256"])


@dataclass(frozen=True)
class Sample:
    """An image and its caption, as they are written.

    Attributes:
        ending: of the image's file, by its content.
        values: all columns but the embeddings.
    """

    key: str
    ending: str
    image: bytes
    values: Mapping[str, Any]

    @property
    def text(self) -> str | None:
        """The caption; None in a run of images alone."""
        return self.values["text"] or "" if "text" in self.values else None

    def about(self) -> dict[str, Any]:
        """Returns what the `.json` of the sample says."""
        return {name: plain(value) for name, value in self.values.items()} | {"key": self.key}


@dataclass
class Outcomes:
    """What became of the rows of a shard: the reason of each miss by key, and what would help."""

    missed: dict[str, str] = field(default_factory=dict)
    remedies: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, key: str, fault: RowFault | str) -> None:
        """Notes a row that is not written."""
        self.missed[key] = fault if isinstance(fault, str) else fault.reason.value
        if isinstance(fault, NotTrustedError):
            self.remedies[fault.remedy] += 1


def columns_of(schema: pa.Schema) -> list[str]:
    """Returns the columns that go with an image: all but the embeddings."""
    models: list[str | None] = [*model_names(schema)] or [None]
    vectors = {model_column(name, model) for name in MODEL_COLUMNS[2:] for model in models}
    return [name for name in schema.names if name not in vectors]


def rows_of(shard: Shard, columns: list[str]) -> Iterator[tuple[Piece, list[ShardRow]]]:
    """Yields the rows of a shard, piece by piece, with their keys."""
    number = 0
    for piece in shard.pieces:
        rows: list[ShardRow] = []
        first = 0
        for batch in iterate_batches(piece.uri, columns):
            start, stop = max(piece.start - first, 0), min(piece.stop - first, len(batch))
            first += len(batch)
            for values in batch.slice(start, max(stop - start, 0)).to_pylist():
                rows.append(ShardRow(shard.key(number), values))
                number += 1
            if first >= piece.stop:
                break
        yield piece, rows


def samples_of(
    piece: Piece,
    rows: Iterable[ShardRow],
    tables: ScoredTables,
    trust: Trust,
    outcomes: Outcomes,
    reencode: bool = False,
) -> Iterator[Sample]:
    """Yields the samples of a piece, in the order of its manifests; what is missed is noted."""
    by_place: defaultdict[tuple[str, int], list[ShardRow]] = defaultdict(list)
    for row in rows:  # an image may have several captions
        by_place[row.source, row.source_row].append(row)
    unit = unit_of_file(piece.uri)
    units = {source_of(unit.uri): unit} if unit else {}
    wanted = [found[0] for found in by_place.values()]
    found = original_rows(wanted, tables.options, units, trust)
    policy = trust.fetch_policy(tables.options)
    places = ((by_place[source, number], original) for source, number, original in found)
    for captions, image in _fetched(places, policy, reencode):
        for row in captions:
            if isinstance(image, bytes):
                yield _sample(row, image)
            else:
                outcomes.note(row.key, image)


def _fetched(
    places: Iterator[tuple[list[ShardRow], Row | RowFault]], policy: FetchPolicy, reencode: bool
) -> Iterator[tuple[list[ShardRow], bytes | RowFault | str]]:
    """Yields rows of one image with the image, or why there is none, in order."""
    count = threads_for().fetch
    waiting: deque[tuple[list[ShardRow], Future[bytes | RowFault | str]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        for rows, original in places:
            future = pool.submit(_image, original, rows[0].sha256, policy, reencode)
            waiting.append((rows, future))
            if len(waiting) > count:
                done, image = waiting.popleft()
                yield done, image.result()
        for done, image in waiting:
            yield done, image.result()


def _image(
    original: Row | RowFault, sha256: str | None, policy: FetchPolicy, reencode: bool
) -> bytes | RowFault | str:
    try:
        data = fetch_original(original, sha256, policy)
        if ending_of(data) is None:
            return as_png(data) if reencode else OTHER_FORMAT
        return data
    except RowFault as fault:
        return fault


def _sample(row: ShardRow, image: bytes) -> Sample:
    """An image that was encoded anew has another hash; that of the original goes along."""
    values, found = dict(row.values), hashlib.sha256(image).hexdigest()
    if row.sha256 is not None and found != row.sha256:
        values |= {"sha256": found, "original_sha256": row.sha256}
    return Sample(row.key, str(ending_of(image)), image, values)


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: no number is not finite, bytes are base64, dates are text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, str | int) else str(value)
