"""How rows travel to the writer of their unit: in blocks, as messages of Arrow's IPC format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator

import pyarrow as pa

# The message itself, or the name of the file that holds it.
Block = bytes | str


def pack(batch: pa.RecordBatch, scratch: str | None) -> Block:
    """Makes a block of a batch.

    Args:
        scratch: local directory in which the block waits, or None to let the runner carry it.
    """
    message = batch.serialize()
    if scratch is None:
        return message.to_pybytes()
    descriptor, path = tempfile.mkstemp(dir=scratch)
    with os.fdopen(descriptor, "wb") as file:
        file.write(message)
    return path


def unpacked(blocks: Iterable[Block], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yields the batch of each block.

    Args:
        schema: of the batches, which blocks leave out.
    """
    for block in blocks:
        if isinstance(block, str):
            with open(block, "rb") as file:
                block = file.read()
        yield pa.ipc.read_record_batch(pa.py_buffer(block), schema)
