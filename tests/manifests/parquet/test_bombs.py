"""Parquet files of some kB that would take GB, and how much is held of honest ones."""

import json
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import forked
import torture_bombs
from making import plan
from pipelines.manifests.parquet import limited, pages, reader
from pipelines.manifests.parquet.limited import limited_batches
from pipelines.manifests.parquet.pages import page_header
from pipelines.manifests.parquet.reader import DamagedParquet, read_footer
from pipelines.manifests.units import read_unit
from pipelines.records import Reject
from schemas.manifest import ManifestError
from schemas.rejects import Reason
from torture_bombs import LONG, peak_mib, repeated, rows_of, write_table


def write(path, columns, **settings):
    pq.write_table(pa.table(columns), path, compression="zstd", **settings)
    return path


def records(path, **settings):
    return [record for unit in plan(path, **settings).units for record in read_unit(unit)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["captions", "prefixes", "lists"])  # torture has the others
def test_kilobytes_do_not_take_gigabytes(tmp_path, name, monkeypatch):
    monkeypatch.setattr(torture_bombs, "subprocess", forked.as_subprocess())
    kept = write_table(tmp_path / "m.parquet", name)
    assert peak_mib(tmp_path / "m.parquet", kept) < 400


def test_caption_that_is_too_long_leaves_its_beginning(tmp_path):
    texts = ["é" * (3 << 20), "short", "x" * (60 << 20)]
    found = records(write(tmp_path / "m.parquet", rows_of(text=texts)))
    assert [getattr(record, "reason", None) for record in found] == [
        Reason.TOO_LARGE,
        None,
        Reason.TOO_LARGE,
    ]
    assert found[0].row.text == "é" * 1000 and found[2].row.text == "x" * 1000
    assert found[0].detail.startswith("the caption has more than 1048576 characters")


@pytest.mark.parametrize("name", ["uid", "url", "kept"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_other_texts_are_bounded_too(tmp_path, name, kind):
    table = pa.table(rows_of(uid=["u"], kept=["k"]) | {name: ["x" * (2 << 20)]})
    if kind == "parquet":
        pq.write_table(table, tmp_path / "m.parquet")
    else:
        (tmp_path / "m.jsonl").write_text(json.dumps(table.to_pylist()[0]) + "\n")
    (found,) = records(tmp_path, keep_columns=("kept",))
    assert found.reason is Reason.TOO_LARGE and repr(name) in found.detail
    assert max(len(str(value)) for value in found.row) < 1100


def test_path_beside_a_picture_is_bounded(tmp_path):
    image = [{"bytes": b"abc", "path": "x" * (2 << 20)}]
    path = write(tmp_path / "m.parquet", {"image": image, "text": ["t"]})
    (found,) = records(path)
    assert found.reason is Reason.TOO_LARGE and found.row.url == "x" * 1000


def everything_is_suspicious(monkeypatch):
    monkeypatch.setattr(pages, "MAX_HEAVY_BYTES", -1)


def test_process_with_a_limit_reads_the_same(tmp_path, monkeypatch):
    columns = rows_of(
        text=[f"caption {n}" for n in range(60)],
        image_bytes=[bytes([n]) * 50 for n in range(60)],
        when=pa.array(range(60), pa.timestamp("ns")),
        kept=[[{"a": n}] for n in range(60)],
    )
    path = write(tmp_path / "m.parquet", columns, row_group_size=40)
    settings = {"keep_columns": ("when", "kept"), "rows_per_unit": 25, "keep_nanoseconds": True}
    expected = records(path, **settings)
    everything_is_suspicious(monkeypatch)
    assert records(path, **settings) == expected


def test_process_with_a_limit_tells_what_is_damaged(tmp_path, monkeypatch):
    columns = {"url": ["u"] * 30, "text": [f"caption {n}" for n in range(30)]}
    path = tmp_path / "m.parquet"
    settings = {"compression": "none", "use_dictionary": False, "row_group_size": 10}
    pq.write_table(pa.table(columns), path, write_page_checksum=True, **settings)
    data = bytearray(path.read_bytes())
    data[data.find(b"caption 15") + 4] ^= 1
    path.write_bytes(data)
    everything_is_suspicious(monkeypatch)
    found = records(path)
    assert [isinstance(r, Reject) for r in found] == [False] * 10 + [True] * 10 + [False] * 10
    assert "row group 1 is damaged" in found[10].detail


def test_what_needs_more_than_the_limit_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "MAX_MEMORY_BYTES", 60 << 20)
    path = write(tmp_path / "m.parquet", rows_of(text=repeated(LONG * 2, 3, pa.string())))
    found = records(path)
    assert [record.reason for record in found] == [Reason.MANIFEST_UNREADABLE] * 3
    assert "it unfolds to more than 60 MB of memory" in found[0].detail


def test_file_of_a_store_is_copied_for_the_process(tmp_path):
    path = write(tmp_path / "m.parquet", rows_of(text=["a", "b", "c"]))
    with path.open("rb") as file:
        batches = list(limited_batches("memory://m.parquet", file, 0, range(1, 3), ["text"], ()))
    assert [value for batch in batches for value in batch["text"].to_pylist()] == ["b", "c"]


def test_large_footer_is_tried_in_a_process_with_a_limit(tmp_path, monkeypatch):
    path = write(tmp_path / "m.parquet", rows_of(**{f"column {n}": [n] for n in range(1000)}))
    assert read_footer(str(path)).rows == 1
    monkeypatch.setattr(limited, "MAX_MEMORY_BYTES", 1 << 20)
    assert read_footer(str(path)).rows == 1
    monkeypatch.setattr(reader, "MAX_FOOTER_BYTES", 10)
    with pytest.raises(DamagedParquet, match="more than 1 MB"):
        read_footer(str(path))


def test_file_cannot_have_more_rows_than_its_bytes_allow(tmp_path, monkeypatch):
    path = write(tmp_path / "m.parquet", rows_of(text=["a"] * 5000))
    monkeypatch.setattr(reader, "MAX_ROWS_PER_BYTE", 1)
    with pytest.raises(ManifestError, match="cannot have 5000 rows in"):
        plan(path)


@pytest.mark.parametrize("rows_per_unit", [3, 10, 100])
def test_no_unit_crosses_the_end_of_a_row_group(tmp_path, rows_per_unit):
    path = write(tmp_path / "m.parquet", rows_of(text=["a"] * 25), row_group_size=10)
    units = plan(path, rows_per_unit=rows_per_unit).units
    assert all(u.first_row // 10 == (u.first_row + u.rows - 1) // 10 for u in units)
    assert sum(unit.rows for unit in units) == 25
    assert [unit.unit_id[-5:] for unit in units] == [f"{n:05d}" for n in range(len(units))]


def test_row_group_is_not_held_as_a_whole(tmp_path):
    """Pages are read one after the other: reading one row reads little of a large group."""
    pictures = [bytes([n]) * (1 << 20) for n in range(64)]
    columns = rows_of(image_bytes=pictures)
    path = tmp_path / "m.parquet"
    pq.write_table(
        pa.table(columns), path, use_dictionary=False, compression="none", write_batch_size=1
    )
    before = pa.total_allocated_bytes()
    reading = read_unit(plan(path).units[0])
    next(reading)
    assert pa.total_allocated_bytes() - before < 32 << 20
    reading.close()


def test_manifest_that_was_replaced_since_it_was_planned_gives_rejects(tmp_path):
    path = write(tmp_path / "m.parquet", rows_of(text=["a"] * 5))
    unit = replace(plan(path).units[0], manifest_version="")  # in a store that tells none
    for content in (b"", b"PAR1" * 9):
        path.write_bytes(content)
        found = list(read_unit(unit))
        assert [record.reason for record in found] == [Reason.MANIFEST_UNREADABLE] * 5
    write(path, rows_of(text=["a"] * 3))
    assert [isinstance(record, Reject) for record in read_unit(unit)] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("error", [TimeoutError("stalled"), MemoryError()])
def test_faults_that_are_not_the_files_stay_what_they_are(tmp_path, monkeypatch, error):
    unit = plan(write(tmp_path / "m.parquet", rows_of(text=["a"]))).units[0]

    def failing(*_):
        raise error

    monkeypatch.setattr("pipelines.manifests.parquet.pages.WatchedFile.read", failing)
    with pytest.raises(type(error)):
        list(read_unit(unit))


def test_page_headers_are_read_as_they_are_written():
    whole = bytes.fromhex("1504154e155a4c150215001200 00".replace(" ", ""))
    header = page_header(whole + b"rest")
    assert (header.kind, header.unfolded_bytes, header.packed_bytes) == (2, 39, 45)
    assert header.header_bytes == len(whole) and header.values == 1
    assert all(page_header(whole[:n]) is None for n in range(len(whole)))
    for odd in (b"", b"\0", b"\x1c" * 70, b"\x19" + whole, b"\x15" + b"\xff" * 20, b"\x05" + whole):
        assert page_header(odd) is None
