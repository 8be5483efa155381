"""What is done with each image of a chunk, and what becomes of a chunk that it is done with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.encoding.model_inputs import ModelInputs
from pipelines.engine.chunks import reject_rows
from pipelines.images.columns import ImageColumn, image_columns
from pipelines.images.decode import DecodedImage, DecodeLimits, ImageDecoder, decode_image
from pipelines.images.decode_pool import decode_isolated
from pipelines.images.fetch import FetchPolicy, Place, direct_place, fetch_image
from pipelines.images.pixel_budget import Account
from pipelines.records import Chunk, Row, RowFault
from schemas.pairs import BOTH

STEPS = ("fetch", "decode", "tokenize")
# To hand over a piece costs more than a small image does, and a chunk leaves when all its images
# are done, so they gain nothing from one piece each.
IMAGES_A_PIECE = 8


@dataclass(frozen=True)
class ImageWork:
    """What is done with each row before it is encoded.

    Attributes:
        isolate_decoding: whether images are decoded in processes of their own, so that a native
            crash or a hang costs one row and not the worker.
        columns: what is computed from each image besides; the graph takes it to the workers.
    """

    inputs: ModelInputs
    fetch_policy: FetchPolicy = FetchPolicy()
    decode_limits: DecodeLimits = DecodeLimits()
    isolate_decoding: bool = False
    columns: tuple[ImageColumn, ...] = field(default_factory=image_columns)

    @property
    def window_rows(self) -> int:
        """Rows in flight: enough to keep the threads busy while a batch is encoded.

        Of the web more: one host in ten may be gone, and takes seconds to be found out.
        """
        return 2048 if self.fetch_policy.asks_the_web else 512

    @cached_property
    def decoder(self) -> ImageDecoder:
        """The function that decodes an image."""
        return decode_isolated if self.isolate_decoding else decode_image

    def fetch(self, row: Row) -> bytes:
        """Returns the encoded image of a row.

        Raises:
            RowFault: as `fetch_image`.
        """
        return fetch_image(row, self.fetch_policy)

    def fetched_ahead(self, row: Row) -> Place | None:
        """Returns where an image is that is fetched while no thread waits for it, else None.

        Raises:
            RowFault: `not_allowed`.
        """
        return direct_place(row, self.fetch_policy)

    def decode(self, data: bytes) -> DecodedImage:
        """Returns the pixels for each distinct preprocessing.

        Raises:
            RowFault: as `decode_image`.
        """
        return self.decoder(data, self.inputs.preprocesses, self.decode_limits)


class Job:
    """A chunk whose images and captions are being worked on.

    Attributes:
        order: of the chunk among those of its bundle.
        size: rows of the chunk, counted before any is rejected.
        seconds: of each of `STEPS`, summed over the threads.
        faults: of images, by their position.
        left: whether the chunk has gone on to the encoder.
    """

    def __init__(self, chunk: Chunk, work: ImageWork, account: Account, order: int) -> None:
        if chunk.pairs not in (BOTH, work.inputs.pairs):
            raise ValueError(
                f"expected rows that were read with `pairs` {work.inputs.pairs} or both, got "
                f"{chunk.pairs}; hand `EmbedRows` and the manifest's request the same"
            )
        self.chunk, self.account, self.order, self.size = chunk, account, order, chunk.size
        self.seconds = [0.0] * len(STEPS)
        self.faults: dict[int, RowFault] = {}
        self.error: BaseException | None = None
        self.left = False
        images, sizes = len(chunk.images), [p.size for p in work.inputs.preprocesses]
        self._fields = [column.field for column in work.columns] if sizes else []
        self.known: list[tuple[Any, ...]] = [(None,) * len(self._fields)] * images
        chunk.pixels = tuple(np.empty((images, 3, size, size), np.uint8) for size in sizes)
        # The captions are one piece.
        self._missing, self._lock = 1 + -(-images // IMAGES_A_PIECE), threading.Lock()

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order

    def expect(self, pieces: int) -> None:
        """Notes that there is more to be done; by who has a piece in hand."""
        with self._lock:
            self._missing += pieces

    def done(self, seconds: Sequence[float]) -> None:
        """Notes that a piece of work has ended; the last one tells the bundle."""
        with self._lock:
            self.seconds = [a + b for a, b in zip(self.seconds, seconds, strict=True)]
            self._missing -= 1
            landed = not self._missing
        if landed:
            self.account.ready.put(self)

    def settle(self) -> None:
        """Moves the rows that failed to the rejects, and drops what only this work needed.

        Raises:
            BaseException: what is no row's fault, as the thread met it.
        """
        if self.error is not None:
            raise self.error
        chunk, faults = self.chunk, self.faults
        columns = list(zip(*self.known, strict=True)) or [()] * len(self._fields)
        if self._fields:
            chunk.known = pa.RecordBatch.from_arrays(
                [pa.array(v, f.type) for v, f in zip(columns, self._fields, strict=True)],
                schema=pa.schema(self._fields),
            )
        inline = sum(len(row.image_bytes or b"") for row in chunk.images)
        chunk.images = ()
        if faults:
            rows = {p: faults[i] for p, i in enumerate(chunk.index.tolist()) if i in faults}
            reject_rows(chunk, rows)
        if not chunk.rows.num_rows:
            chunk.pixels = ()
        if chunk.lease is not None:
            chunk.lease.give_back(inline if chunk.pixels else None)
