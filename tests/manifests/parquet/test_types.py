"""Kept columns of types that not every reader takes, and ids that arrive as doubles."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import plan
from pipelines.manifests.parquet import batches
from pipelines.manifests.rows import uid_text
from pipelines.manifests.units import read_chunks, read_unit
from schemas.manifest import ManifestError

DAY = datetime.datetime(2020, 1, 2, 3, 4, 5, 678000)
UTC = DAY.replace(tzinfo=datetime.timezone.utc)


def write(path, **columns):
    rows = len(next(iter(columns.values())))
    table = pa.table({"url": ["u"] * rows, "text": [f"t{n}" for n in range(rows)], **columns})
    pq.write_table(table, path)
    return path


def kept(path, name="x", **settings):
    """Returns the type of a kept column and its rows, and the number of rejects."""
    found = plan(path, keep_columns=(name,), **settings)
    chunks = [c for unit in found.units for c in read_chunks(unit, list(found.kept))]
    rows = pa.Table.from_batches([chunk.rows for chunk in chunks])
    assert rows.schema.field(name).type == found.kept.field(name).type
    return found.kept.field(name).type, rows[name], sum(c.rejects.num_rows for c in chunks)


FIXED = pa.list_(pa.float32(), 2)
LISTS = [
    (FIXED, [[1, 2], None, [3, 4]], pa.list_(pa.float32())),
    (FIXED, [[1, 2], [0, 0], [3, 4]], pa.list_(pa.float32())),
    (
        pa.struct([("a", FIXED), ("b", pa.int64())]),
        [{"a": None, "b": 1}, None, {"a": [1, 2], "b": None}],
        pa.struct([("a", pa.list_(pa.float32())), ("b", pa.int64())]),
    ),
    (pa.list_(FIXED), [[[1, 2], None], [], None], pa.list_(pa.list_(pa.float32()))),
    (
        pa.map_(pa.string(), FIXED),
        [[("k", [1, 2])], [("k", None)], None],
        pa.map_(pa.string(), pa.list_(pa.float32())),
    ),
    (pa.list_(pa.string(), 1), [["a"], None, ["é"]], pa.list_(pa.string())),
]


@pytest.mark.parametrize(("kind", "values", "expected"), LISTS)
def test_lists_of_a_fixed_size_are_kept_as_lists_with_or_without_nulls(
    tmp_path, kind, values, expected
):
    path = write(tmp_path / "m.parquet", x=pa.array(values, kind))
    found, column, rejects = kept(path)
    assert (found, column.to_pylist(), rejects) == (expected, values, 0)
    pq.write_table(pa.table({"x": column}), tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet")["x"].to_pylist() == values


def test_fixed_lists_do_not_change_the_columns_beside_them(tmp_path):
    beside = {
        "duration": pa.array([1, None, 3], pa.duration("s")),
        "category": pa.array(["a", None, "a"]).dictionary_encode(),
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "seconds": pa.array([DAY.replace(microsecond=0), None, None], pa.timestamp("s")),
        "zone": pa.array([UTC, None, None], pa.timestamp("us", "Europe/Berlin")),
        "half": pa.array(np.array([1, 2, 3], np.float16)),
        "none": pa.nulls(3),
    }
    alone = write(tmp_path / "alone.parquet", **beside)
    path = write(tmp_path / "m.parquet", v=pa.array([[1, 2], None, [3, 4]], FIXED), **beside)
    for name in beside:
        one, other = kept(alone, name), kept(path, name)
        assert one[0] == other[0] and one[1].equals(other[1]) and other[2] == 0, name


def test_damaged_row_group_of_fixed_lists_leaves_tables_that_can_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "m.parquet", x=pa.array([[1, 2]] * 4, FIXED))
    monkeypatch.setattr(
        batches.ParquetBatches, "_pieces", lambda *a: (_ for _ in ()).throw(OSError("x"))
    )
    found = plan(path, keep_columns=("x",))
    (chunk,) = (c for unit in found.units for c in read_chunks(unit, list(found.kept)))
    pq.write_table(pa.Table.from_batches([chunk.rejects]), tmp_path / "rejects.parquet")
    assert pq.read_table(tmp_path / "rejects.parquet")["x"].to_pylist() == [None] * 4


NS = DAY.replace(microsecond=678901)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+02:00", "Nowhere/Land"])
@pytest.mark.parametrize("nested", [False, True])
def test_nanoseconds_that_are_whole_microseconds_become_those(tmp_path, zone, nested):
    whole = pa.array([NS, None], pa.timestamp("us")).cast(pa.int64())
    kind = pa.timestamp("ns", zone)
    values = pa.array([v.as_py() and v.as_py() * 1000 for v in whole], pa.int64()).cast(kind)
    expected, column = pa.timestamp("us", zone), values
    if nested:
        column = pa.StructArray.from_arrays([values], names=["a"])
        expected = pa.struct([("a", expected)])
    path = write(tmp_path / "m.parquet", x=column)
    found, rows, rejects = kept(path)
    assert (found, rejects) == (expected, 0)
    numbers = rows.combine_chunks().field(0) if nested else rows
    assert numbers.cast(pa.int64()).to_pylist() == whole.to_pylist()


def test_finer_ones_are_refused_before_work_or_kept_on_demand(tmp_path):
    finer = pa.array([1_000, 1_001, None], pa.int64()).cast(pa.timestamp("ns"))
    path = write(tmp_path / "m.parquet", x=finer)
    with pytest.raises(ManifestError, match="column 'x' has nanoseconds.*pass `keep_nanoseconds`"):
        plan(path, keep_columns=("x",))
    assert len(plan(path).units) == 1
    found, rows, rejects = kept(path, keep_nanoseconds=True)
    assert (found, rejects) == (pa.timestamp("ns"), 0)
    assert rows.cast(pa.int64()).to_pylist() == [1_000, 1_001, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_zones_are_carried_over_without_being_looked_up(tmp_path, unit):
    for zone in ("Nowhere/Land", "America/New_York", "-03:30"):
        values = pa.array([0, 86_400, None], pa.int64()).cast(pa.timestamp(unit, zone))
        path = write(tmp_path / "m.parquet", x=values)
        found, rows, rejects = kept(path)
        assert (found, rejects) == (pq.read_schema(path).field("x").type, 0)
        assert (
            rows.cast(pa.int64()).to_pylist()
            == pq.read_table(path)["x"].cast(pa.int64()).to_pylist()
        )
        json.dumps([str(unit) for unit in plan(path, keep_columns=("x",)).units])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0**53, None, -3.0], ["1", "9007199254740992", None, "-3"]),
        ([1.5, float("nan"), float("inf"), 1e20], ["1.5", None, "inf", "100000000000000000000"]),
        ([Decimal("12.00"), Decimal("1.50"), None, Decimal("0")], ["12", "1.50", None, "0"]),
        ([7, 0, -1, 2**63], ["7", "0", "-1", "9223372036854775808"]),
        (["1.0", "", b"x", True], ["1.0", None, "x", "True"]),
    ],
)
def test_ids_that_are_whole_numbers_are_written_as_such(values, expected):
    assert [uid_text(value) for value in values] == expected


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int32(), pa.decimal128(38, 2)])
def test_ids_of_every_number_are_equal(tmp_path, kind):
    path = write(tmp_path / "m.parquet", id=pa.array([1, 20, None], pa.int64()).cast(kind))
    rows = [row for unit in plan(path).units for row in read_unit(unit)]
    assert [row.uid for row in rows][:2] == ["1", "20"]
    assert len(rows[2].uid) == 32
    (tmp_path / "m.jsonl").write_text('{"id": 1.0, "url": "u", "text": "t"}\n')
    assert next(read_unit(plan(tmp_path / "m.jsonl").units[0])).uid == "1"
