import json
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import make_row
from pipelines.output import unit_writer, write_units
from pipelines.output.layout import (
    FINGERPRINT_KEY,
    REJECTS,
    RESULT_KEY,
    VERSIONS_KEY,
    OutputLayout,
)
from pipelines.output.unit_record import NotARecordError
from pipelines.output.unit_writer import ConservationError
from pipelines.output.write_units import WrittenBy
from pipelines.ownership.finished import finished_units
from pipelines.ownership.lock import LockLostError, RunLock
from pipelines.ownership.record import Totals, total
from pipelines.runs.resume import ResumeError, check_resumable
from schemas.embeddings import embeddings_schema
from schemas.rejects import Reason, rejects_schema
from written_units import FINGERPRINT, UNIT, chunk, files, reject, rows, table, whole, written


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_unit_is_written_in_manifest_order_whatever_the_order_of_its_chunks(
    layout, tmp_path, order
):
    chunks = [
        chunk([0, reject(1), 2]),
        chunk([3, reject(4)], 1),
        chunk([reject(5, Reason.TOO_LARGE)], 2, (3, 6)),
    ]
    (result,) = written(layout, *(chunks[number] for number in order))
    assert rows(tmp_path) == [0, 2, 3] and rows(tmp_path, REJECTS) == [1, 4, 5]
    found = table(tmp_path)
    assert found["image_embedding"][0].as_py() == [1, 0, 0, 0]
    assert found.schema.field("image_embedding").type == pa.list_(pa.float32(), 4)
    assert found.schema.names == layout.embeddings.names
    assert (result.rows_read, result.embedded) == (6, 3)
    assert result.rejects == {"not_found": 2, "too_large": 1}


def test_file_holds_fingerprint_counts_and_checksums_and_no_vector_dictionary(layout, tmp_path):
    whole(layout, 0, reject(1))
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


FAULTS = {
    "a chunk is missing": (
        [chunk([0]), chunk([2], 2, (3, 3))],
        "chunks of unit unit-0 did not come",
    ),
    "the end is missing": ([chunk([0])], "chunks of unit unit-0 did not come"),
    "a chunk came twice": ([chunk([0]), chunk([0])], "chunk 0 came twice"),
    "a waiting chunk came twice": ([chunk([1], 1), chunk([1], 1)], "chunk 1 came twice"),
    "a chunk behind the end": ([chunk([0], 1, (2, 2)), chunk([1], 2)], "chunk 2 came twice or"),
    "two ends": ([chunk([0], 1, (2, 2)), chunk([1], 0, (2, 2))], "chunk 0 came twice or behind"),
    "a chunk after a whole unit": ([chunk([0], 0, (1, 1)), chunk([1], 1)], "came after the end"),
    "a row too few": ([chunk([0], 0, (1, 2))], "2 rows read, but 1 embedded or rejected"),
    "a row too many": ([chunk([0, reject(1)], 0, (1, 1))], "1 rows read, but 2 embedded or"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_unit_that_does_not_add_up_fails_and_nothing_of_it_is_visible(layout, tmp_path, name):
    chunks, message = FAULTS[name]
    with pytest.raises(ConservationError, match=message):
        written(layout, *chunks)
    left = files(tmp_path)
    assert left == (["embeddings/unit-0.parquet"] if name == "a chunk after a whole unit" else [])


def test_unit_with_other_rows_than_were_planned_fails(layout, tmp_path):
    with pytest.raises(ConservationError, match="expected 3 rows, but 2 were found"):
        whole(layout, 0, 1, unit=replace(UNIT, rows=3))
    assert files(tmp_path) == []


def test_unit_of_rejects_only_and_of_no_rows_still_have_an_embeddings_file(layout, tmp_path):
    whole(layout, reject(0))
    assert table(tmp_path).num_rows == 0 and table(tmp_path).schema.names == layout.embeddings.names
    whole(layout, unit=replace(UNIT, unit_id="empty"))
    assert rows(tmp_path, unit="empty") == []


def test_rejects_of_an_earlier_attempt_are_removed(layout, tmp_path):
    whole(layout, reject(0))
    whole(layout, 0)
    assert not (tmp_path / "rejects" / "unit-0.parquet").exists()


def test_half_precision_and_kept_columns(tmp_path):
    kept = [pa.field("n", pa.int64()), pa.field("mixed", pa.string())]
    layout = OutputLayout(
        str(tmp_path), embeddings_schema(4, "float16", kept=kept), rejects_schema(kept), {}
    )
    records = [make_row(0, kept={"n": 7, "mixed": 3}), make_row(1, kept={"mixed": "x"})]
    whole(layout, *records, reject(2), kept=kept)
    found = table(tmp_path)
    assert found["n"].to_pylist() == [7, None]
    assert found["mixed"].to_pylist() == ["3", "x"]
    assert found.schema.field("text_embedding").type.value_type == pa.float16()
    assert table(tmp_path, REJECTS)["n"].to_pylist() == [None]


def test_what_waits_for_a_row_group_is_bounded_over_all_units(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(write_units, "ROW_GROUP_BYTES", 20_000)
    units = [replace(UNIT, unit_id=f"unit-{n}") for n in range(3)]
    chunks = [
        chunk(range(10 * n, 10 * n + 10), n, (30, 300) if n == 29 else None, unit)
        for n in range(30)
        for unit in units
    ]
    written(layout, *chunks)
    for unit in units:
        assert rows(tmp_path, unit=unit.unit_id) == list(range(300))
        groups = pq.read_metadata(
            tmp_path / "embeddings" / f"{unit.unit_id}.parquet"
        ).num_row_groups
        assert 1 < groups < 20


def test_bundle_that_lets_too_much_wait_fails(layout, monkeypatch):
    monkeypatch.setattr(write_units, "MAX_WAITING_ROWS", 3)
    with pytest.raises(ConservationError, match="4 rows of 1 units wait for an earlier chunk"):
        written(layout, chunk([2, 3], 1), chunk([4, 5], 2))
    many = [chunk([0], 0, None, replace(UNIT, unit_id=f"unit-{n}")) for n in range(6)]
    with pytest.raises(ConservationError, match="of 6 units wait for an earlier chunk"):
        written(layout, *many)


def test_finished_unit_is_found_by_its_footer(layout):
    result = whole(layout, 0, reject(1))
    found = finished_units(layout.root)
    assert [unit.result for unit in found] == [result]
    check_resumable(found, [UNIT], FINGERPRINT)


def test_a_run_names_files_while_it_holds_the_lock(layout, tmp_path):
    lock = RunLock(str(tmp_path))
    lock.acquire()
    try:
        own = replace(layout, run=lock.run)
        assert not WrittenBy(own)(UNIT)
        whole(own, 0, reject(1))
        assert WrittenBy(own)(UNIT) and not WrittenBy(layout)(UNIT)
        other = replace(layout, run="another")
        assert not WrittenBy(other)(UNIT)
        with pytest.raises(LockLostError, match="another run has taken over"):
            whole(other, 0, unit=replace(UNIT, unit_id="late"))
    finally:
        lock.release()
    assert files(tmp_path) == ["embeddings/unit-0.parquet", "rejects/unit-0.parquet"]


def test_nothing_is_finished_in_a_new_output(tmp_path):
    assert finished_units(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("changes", "fingerprint", "message"),
    [
        ({"unit_id": "other"}, FINGERPRINT, "holds unit 'unit-0', which this manifest"),
        ({"manifest_bytes": 5}, FINGERPRINT, "had 99 bytes when the output was begun and has 5"),
        ({"rows": 6}, FINGERPRINT, "has None rows from row 0 on, this run's 6 from row 0 on"),
        ({"first_row": 2}, FINGERPRINT, "begun with another `rows_per_unit`: its unit 'unit-0'"),
        (
            {},
            FINGERPRINT | {"precision": "bf16"},
            "begun with precision 'fp32', this run has 'bf16'",
        ),
        ({}, {"precision": "fp32"}, "begun with checkpoint_sha256 'abc', this run has None"),
    ],
)
def test_output_of_another_run_is_refused(layout, changes, fingerprint, message):
    whole(layout, 0)
    with pytest.raises(ResumeError, match=message):
        check_resumable(finished_units(layout.root), [replace(UNIT, **changes)], fingerprint)


@pytest.mark.parametrize("content", [b"", b"not parquet"])
def test_foreign_file_in_the_output_is_refused(layout, tmp_path, content):
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "x.parquet").write_bytes(content)
    with pytest.raises(NotARecordError, match="x.parquet was not written by `embed`"):
        finished_units(layout.root)


def test_file_of_another_release_is_refused_in_one_sentence(layout, monkeypatch):
    with monkeypatch.context() as patch:
        old = {RESULT_KEY: json.dumps({"unit_id": "unit-0", "of_old": 1})}
        patch.setattr(unit_writer, "result_metadata", lambda result: old)
        whole(layout, 0)
    with pytest.raises(NotARecordError, match="was not written by `embed`"):
        finished_units(layout.root)


def test_totals_add_up(layout):
    first = whole(layout, 0, reject(1), reject(2, Reason.TOO_LARGE))
    totals = total([first, first])
    assert (totals.units, totals.rows_read, totals.embedded, totals.rejected) == (2, 6, 2, 4)
    assert totals.rejects == Counter(not_found=2, too_large=2)
    assert totals.reject_fraction == pytest.approx(4 / 6)
    assert Totals().reject_fraction == 0
