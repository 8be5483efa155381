"""Makes the records of a row: one for each of its captions, all with the row's image."""

from __future__ import annotations

from typing import Any

from pipelines.manifests.rows import (
    Fault,
    RawRow,
    caption_fault,
    rejected,
    row_of,
    to_row,
    valid_text,
)
from pipelines.records import Reject, Row, Unit
from schemas.embeddings import MAX_CAPTIONS
from schemas.manifest import Columns
from schemas.rejects import Reason

_CAPTION = Columns(text="text")


def to_records(unit: Unit, raw: RawRow) -> tuple[Row | Reject, ...]:
    """Returns a record for each caption of a row, at least one; what is wrong with one caption is
    no fault of the others."""
    column = unit.columns.text
    if column is None or isinstance(raw.values, Fault):
        return (to_row(unit, raw),)
    texts = raw.values.get(column)
    if not isinstance(texts, list):
        return (to_row(unit, raw),)
    row, fault = row_of(unit, raw.number, raw.values)
    if len(texts) > MAX_CAPTIONS:
        detail = f"the row has {len(texts)} captions, more than {MAX_CAPTIONS}"
        fault, texts = fault or Fault(Reason.TOO_LARGE, detail), texts[:1]
    captions = enumerate(texts or [None])
    return tuple(_record(row, fault, raw.hint, index, text) for index, text in captions)


def image_row(unit: Unit, raw: RawRow) -> Row | Reject:
    """Returns a record of a row whose image can be read, if there is one."""
    records = to_records(unit, raw)
    return next((record for record in records if isinstance(record, Row)), records[0])


def _record(row: Row, fault: Fault | None, hint: str | None, index: int, text: Any) -> Row | Reject:
    values, own = valid_text(_CAPTION, {"text": text})
    text = values["text"]
    fault = fault or own or caption_fault(text)
    record = row._replace(
        uid=f"{row.uid}#{index}" if index else row.uid,
        text=text if isinstance(text, str) else None,
        caption_index=index,
    )
    return record if fault is None else rejected(record, fault, hint)
