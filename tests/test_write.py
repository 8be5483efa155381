import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_row

from pipelines.layout import VERSIONS_KEY
from pipelines.manifest import Columns
from pipelines.records import Embedded, Reject, Scored, Unit, UnitCount, UnitResult, Vectors
from pipelines.resume import ResumeError, check_resumable, finished_units
from pipelines.run_record import Totals, total
from pipelines.tables import rejects_batch, scored_batch
from pipelines.write import (
    FINGERPRINT_KEY,
    ConservationError,
    OutputLayout,
    write_unit,
)
from schemas.embeddings import embeddings_schema
from schemas.rejects import Reason, rejects_schema

UNIT = Unit("unit-0", "/data/m.jsonl", "jsonl", Columns(), "/data", 0, 4, 0, manifest_bytes=99)
FINGERPRINT = {"checkpoint_sha256": "abc", "precision": "fp32"}


def scored(number, **changes):
    vector = np.eye(4, dtype=np.float32)[number % 4]
    return Scored(
        Embedded(make_row(number, **changes), (Vectors(vector, vector, False),), 8, 9, "00"),
        (0.5,),
    )


def reject(number, reason=Reason.NOT_FOUND):
    return Reject(make_row(number), "fetch", reason, "gone")


@pytest.fixture
def layout(tmp_path):
    return OutputLayout(str(tmp_path), embeddings_schema(4), rejects_schema(), FINGERPRINT)


def write(layout, rows, rejects, rows_read=None):
    read = len(rows) + len(rejects) if rows_read is None else rows_read
    return write_unit(
        layout,
        [UnitCount(UNIT, read)],
        [scored_batch(rows, layout.embeddings, layout.models)] if rows else [],
        [rejects_batch(rejects, layout.rejects)] if rejects else [],
    )


def test_unit_is_written_in_manifest_order(layout, tmp_path):
    result = write(layout, [scored(3), scored(0)], [reject(2), reject(1)])
    table = pq.read_table(tmp_path / "embeddings" / "unit-0.parquet")
    assert table["source_row"].to_pylist() == [0, 3]
    assert table["image_embedding"][0].as_py() == [1, 0, 0, 0]
    assert table.schema.field("image_embedding").type == pa.list_(pa.float32(), 4)
    rejects = pq.read_table(tmp_path / "rejects" / "unit-0.parquet")
    assert rejects["source_row"].to_pylist() == [1, 2]
    assert rejects["reason"].to_pylist() == ["not_found", "not_found"]
    assert (result.rows_read, result.embedded, result.rejects) == (4, 2, {"not_found": 2})


def test_file_holds_fingerprint_counts_and_checksums_and_no_vector_dictionary(layout, tmp_path):
    write(layout, [scored(0)], [reject(1)])
    path = tmp_path / "embeddings" / "unit-0.parquet"
    metadata = pq.read_metadata(path)
    assert json.loads(metadata.metadata[FINGERPRINT_KEY]) == FINGERPRINT
    assert json.loads(metadata.metadata[VERSIONS_KEY])["pyarrow"] == pa.__version__
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    vector = next(c for name, c in columns.items() if name.startswith("image_embedding"))
    assert not any("DICTIONARY" in encoding for encoding in vector.encodings)
    assert vector.compression == "ZSTD" and not vector.is_stats_set
    assert columns["similarity"].is_stats_set
    pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize("rows_read", [1, 3])
def test_lost_or_surplus_row_fails_and_writes_nothing(layout, tmp_path, rows_read):
    with pytest.raises(ConservationError, match=f"{rows_read} rows read, but 1 embedded and 1"):
        write(layout, [scored(0)], [reject(1)], rows_read)
    assert list(tmp_path.iterdir()) == []


def test_row_that_came_back_twice_fails(layout):
    with pytest.raises(ConservationError, match="a row came back twice"):
        write(layout, [scored(0), scored(0)], [])


def test_unit_without_its_count_fails(layout):
    with pytest.raises(ConservationError, match="expected one count"):
        write_unit(layout, [], [], [])


def test_unit_of_rejects_only_still_has_an_embeddings_file(layout, tmp_path):
    write(layout, [], [reject(0)])
    table = pq.read_table(tmp_path / "embeddings" / "unit-0.parquet")
    assert table.num_rows == 0 and table.schema.names == layout.embeddings.names


def test_rejects_of_an_earlier_attempt_are_removed(layout, tmp_path):
    write(layout, [], [reject(0)])
    write(layout, [scored(0)], [])
    assert not (tmp_path / "rejects" / "unit-0.parquet").exists()


def test_half_precision_and_kept_columns(tmp_path):
    kept = [pa.field("n", pa.int64()), pa.field("mixed", pa.string())]
    layout = OutputLayout(
        str(tmp_path), embeddings_schema(4, "float16", kept=kept), rejects_schema(kept), {}
    )
    write(layout, [scored(0, kept={"n": 7, "mixed": 3}), scored(1, kept={"mixed": "x"})], [])
    table = pq.read_table(tmp_path / "embeddings" / "unit-0.parquet")
    assert table["n"].to_pylist() == [7, None]
    assert table["mixed"].to_pylist() == ["3", "x"]
    assert table.schema.field("text_embedding").type.value_type == pa.float16()


def test_finished_unit_is_found_by_its_footer(layout):
    result = write(layout, [scored(0)], [reject(1)])
    found = finished_units(layout.root)
    assert [unit.result for unit in found] == [result]
    check_resumable(found, [UNIT], FINGERPRINT)


def test_nothing_is_finished_in_a_new_output(tmp_path):
    assert finished_units(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("changes", "fingerprint", "message"),
    [
        ({"unit_id": "other"}, FINGERPRINT, "holds unit 'unit-0', which this manifest"),
        ({"manifest_bytes": 5}, FINGERPRINT, "had 99 bytes when the output was begun and has 5"),
        ({"rows": 6}, FINGERPRINT, "has 4 rows from row 0 on, this run's 6 from row 0 on"),
        ({"first_row": 2}, FINGERPRINT, "begun with another `--rows_per_unit`: its unit 'unit-0'"),
        (
            {},
            FINGERPRINT | {"precision": "bf16"},
            "begun with precision 'fp32', this run has 'bf16'",
        ),
        ({}, {"precision": "fp32"}, "begun with checkpoint_sha256 'abc', this run has None"),
    ],
)
def test_output_of_another_run_is_refused(layout, changes, fingerprint, message):
    write(layout, [scored(0)], [])
    with pytest.raises(ResumeError, match=message):
        check_resumable(finished_units(layout.root), [replace(UNIT, **changes)], fingerprint)


@pytest.mark.parametrize("content", [b"", b"not parquet"])
def test_foreign_file_in_the_output_is_refused(layout, tmp_path, content):
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "x.parquet").write_bytes(content)
    with pytest.raises(ResumeError, match="x.parquet was not written by `embed`"):
        finished_units(layout.root)


def test_file_of_another_release_is_refused_in_one_sentence(layout, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(UnitResult, "to_json", lambda self: {"unit_id": "unit-0", "of_old": 1})
        write(layout, [scored(0)], [])
    with pytest.raises(ResumeError, match="was not written by `embed`"):
        finished_units(layout.root)


def retry(layout, rows, rejects, only_rows):
    """Writes what became of some retried rows of `UNIT`."""
    count = UnitCount(replace(UNIT, only_rows=only_rows), len(rows) + len(rejects))
    batches = (
        [scored_batch(rows, layout.embeddings, layout.models)] if rows else [],
        [rejects_batch(rejects, layout.rejects)] if rejects else [],
    )
    return write_unit(layout, [count], *batches)


def test_retried_rows_take_the_place_of_their_rejects_once_or_twice(layout, tmp_path):
    write(layout, [scored(0), scored(2)], [reject(1), reject(3, Reason.TOO_LARGE)])
    for _ in range(2):  # a runner may do a bundle again
        result = retry(layout, [scored(1)], [], (1,))
        assert (result.rows_read, result.embedded, result.rejects) == (4, 3, {"too_large": 1})
    table = pq.read_table(tmp_path / "embeddings" / "unit-0.parquet")
    assert table["source_row"].to_pylist() == [0, 1, 2]
    rejects = pq.read_table(tmp_path / "rejects" / "unit-0.parquet")
    assert rejects["source_row"].to_pylist() == [3]


def test_retry_that_does_not_find_its_rows_writes_nothing(layout, tmp_path):
    write(layout, [scored(0)], [reject(1), reject(2)])
    before = (tmp_path / "embeddings" / "unit-0.parquet").read_bytes()
    with pytest.raises(ConservationError, match="2 rows to retry, but 1 found in the manifest"):
        retry(layout, [scored(1)], [], (1, 2))
    assert (tmp_path / "embeddings" / "unit-0.parquet").read_bytes() == before


def test_totals_add_up(layout):
    first = write(layout, [scored(0)], [reject(1), reject(2, Reason.TOO_LARGE)])
    totals = total([first, first])
    assert (totals.units, totals.rows_read, totals.embedded, totals.rejected) == (2, 6, 2, 4)
    assert totals.rejects == Counter(not_found=2, too_large=2)
    assert totals.reject_fraction == pytest.approx(4 / 6)
    assert Totals().reject_fraction == 0
