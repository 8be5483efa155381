"""Tells whether the rows of a unit are still those that were embedded, whatever its file is now."""

from __future__ import annotations

import hashlib
import zlib

from pipelines.records import Reject, Row, Unit
from pipelines.storage import reading


class ManifestChangedError(OSError):
    """A manifest was changed while a run was at work on it."""


class RowsDigest:
    """A digest of rows as a reader yields them, in their order.

    Of images that the manifest itself holds there is a checksum in it; none is fetched for it.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, record: Row | Reject) -> None:
        """Takes the next row."""
        row, fault = (record.row, record.reason) if isinstance(record, Reject) else (record, None)
        image = None if row.image_bytes is None else zlib.crc32(row.image_bytes)
        about = (row.source_row, row.uid, row.url, row.text, row.expected_sha256, image, fault)
        kept = dict(row.kept) if row.kept else None
        self._hash.update(repr((about, kept)).encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Returns 32 hex digits."""
        return self._hash.hexdigest()


def check_unchanged(unit: Unit) -> None:
    """Makes sure that the manifest of a unit is still the file that it was cut from.

    Raises:
        ManifestChangedError: if it is another.
    """
    if not unit.manifest_version:
        return
    if reading.file_state(unit.uri) != (unit.manifest_bytes, unit.manifest_version):
        raise ManifestChangedError(
            f"the manifest {unit.uri} has changed since the run was planned; finished units are "
            "kept, run again, and what has other rows now is done again"
        )
