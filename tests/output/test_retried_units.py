"""Rows that are retried take the place of their rejects in the files of their unit."""

from dataclasses import replace

import pytest

from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.unit_writer import ConservationError
from pipelines.records import Selection
from schemas.rejects import Reason
from written_units import UNIT, chunk, reject, rows, whole, written


def retried(layout, *reasons, count=None):
    """`UNIT` with the rows alone that were rejected for these reasons, or for any."""
    embedded, rejected = (layout.uri(name, "unit-0") for name in (EMBEDDINGS, REJECTS))
    return replace(UNIT, only=Selection((rejected,), reasons, embedded, count))


def retry(layout, *records, reasons=(), count=None):
    """Writes what became of the retried rows."""
    return whole(layout, *records, unit=retried(layout, *reasons, count=count))


def test_retried_rows_take_the_place_of_their_rejects(layout, tmp_path):
    whole(layout, 0, reject(1), 2, reject(3, Reason.TOO_LARGE))
    result = retry(layout, 1, reject(3, Reason.TOO_LARGE), count=2)
    assert (result.rows_read, result.embedded, result.rejects) == (4, 3, {"too_large": 1})
    assert rows(tmp_path) == [0, 1, 2] and rows(tmp_path, REJECTS) == [3]


def test_rejects_for_other_reasons_stay(layout, tmp_path):
    whole(layout, 0, reject(1), 2, reject(3, Reason.TOO_LARGE), reject(4))
    result = retry(layout, 1, reject(4), reasons=("not_found",), count=2)
    assert result.rejects == {"not_found": 1, "too_large": 1}
    assert rows(tmp_path) == [0, 1, 2] and rows(tmp_path, REJECTS) == [3, 4]


def test_retry_of_many_rows_merges_batch_by_batch(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.output.merging.BATCH_ROWS", 7)
    whole(layout, *(reject(n) if n % 3 else n for n in range(100)))
    again = [n for n in range(100) if n % 3]
    now = [reject(n) if n % 2 else n for n in again]
    unit = retried(layout)
    pieces = [now[first : first + 9] for first in range(0, len(now), 9)]
    written(
        layout,
        *(
            chunk(piece, n, (len(pieces), len(now)) if n == len(pieces) - 1 else None, unit)
            for n, piece in enumerate(pieces)
        ),
    )
    assert rows(tmp_path) == [n for n in range(100) if n % 3 == 0 or n % 2 == 0]
    assert rows(tmp_path, REJECTS) == [n for n in again if n % 2]


def test_retry_that_does_not_find_its_rows_writes_nothing(layout, tmp_path):
    whole(layout, 0, reject(1), reject(2))
    before = (tmp_path / "embeddings" / "unit-0.parquet").read_bytes()
    with pytest.raises(ConservationError, match="expected 2 rows, but 1 were found in the manif"):
        retry(layout, 1, count=2)
    with pytest.raises(
        ConservationError, match="3 records before its rejects were retried, 2 after"
    ):
        retry(layout, 1)
    assert (tmp_path / "embeddings" / "unit-0.parquet").read_bytes() == before
