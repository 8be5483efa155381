import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import plan
from pipelines.engine.chunks import make_chunk
from pipelines.manifests.parquet.reader import DamagedParquet, read_footer
from pipelines.manifests.units import read_unit
from pipelines.records import Reject, Row, RowFault
from schemas.manifest import ManifestError
from schemas.rejects import Reason


def write(path, columns, **settings):
    pq.write_table(pa.table(columns), path, **settings)
    return path


def records(path, **settings):
    return [record for unit in plan(path, **settings).units for record in read_unit(unit)]


def columns_of(rows):
    return {"url": [f"{n}.jpg" for n in range(rows)], "text": [f"caption {n}" for n in range(rows)]}


@pytest.mark.parametrize("row_group_size", [1, 3, 10, 100])
@pytest.mark.parametrize("rows_per_unit", [1, 4, 100])
def test_slices_hold_every_row_once_whatever_the_row_groups(
    tmp_path, row_group_size, rows_per_unit
):
    path = write(tmp_path / "m.parquet", columns_of(10), row_group_size=row_group_size)
    found = records(path, rows_per_unit=rows_per_unit)
    assert [row.source_row for row in found] == list(range(10))
    assert [row.text for row in found] == columns_of(10)["text"]


def test_inline_bytes_and_hugging_face_struct_give_image_bytes(tmp_path):
    path = write(tmp_path / "a.parquet", {"jpg": [b"abc"], "url": ["u"], "text": ["x"]})
    row = records(path)[0]
    assert (row.image_bytes, row.url) == (b"abc", "u")
    path = write(
        tmp_path / "b.parquet", {"image": [{"bytes": b"abc", "path": "p.jpg"}], "text": ["x"]}
    )
    row = records(path)[0]
    assert (row.image_bytes, row.url) == (b"abc", "p.jpg")


def test_null_image_bytes_are_a_missing_image(tmp_path):
    path = write(
        tmp_path / "m.parquet",
        {"image_bytes": pa.array([None, b"x"], pa.binary()), "text": ["a", "b"]},
    )
    found = records(path)
    assert found[0].reason is Reason.MISSING_IMAGE and found[0].row.text == "a"
    assert isinstance(found[1], Row)


def test_ids_hashes_and_kept_columns_come_along(tmp_path):
    more = {"id": [7], "sha256": ["ab"], "license": [{"name": "cc", "year": 2020}]}
    path = write(tmp_path / "m.parquet", columns_of(1) | more)
    found = plan(path, keep_columns=("license",))
    row = next(iter(read_unit(found.units[0])))
    assert (row.uid, row.expected_sha256) == ("7", "ab")
    assert row.kept == {"license": {"name": "cc", "year": 2020}}
    assert pa.types.is_struct(found.kept.field("license").type)


def test_binary_ids_are_text_and_others_are_malformed(tmp_path):
    ids = {"key": ["é".encode(), b"", None, b"\xff"]}
    first, empty, absent, malformed = records(
        write(tmp_path / "m.parquet", columns_of(4) | ids), keep_columns=("key",)
    )
    assert first.uid == "é" and first.kept == {"key": "é".encode()}
    assert len(empty.uid) == len(absent.uid) == 32
    assert malformed.reason is Reason.MALFORMED_ROW
    assert malformed.detail == "the id is not valid UTF-8"
    assert len(malformed.row.uid) == 32 and malformed.row.kept == {"key": b"\xff"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("ns"), 1),
        (pa.timestamp("ns", "Europe/Berlin"), -(2**62)),
        (pa.timestamp("ns"), None),
        (pa.duration("ns"), 10**9 + 1),
        (pa.time64("ns"), 86_399_999_999_999),
        (pa.list_(pa.timestamp("ns")), [1, None, 2**62]),
        (pa.list_(pa.struct([("at", pa.duration("ns"))])), [{"at": 1}]),
        (pa.struct([("at", pa.timestamp("ns")), ("n", pa.int8())]), {"at": 1, "n": 2}),
        (pa.timestamp("us"), 1),
        (pa.date32(), 1),
    ],
)
def test_kept_times_are_exact(tmp_path, kind, value):
    when = pa.array([value], kind)
    path = write(tmp_path / "m.parquet", columns_of(1) | {"when": when})
    found = plan(path, keep_columns=("when",), keep_nanoseconds=True)
    row = next(iter(read_unit(found.units[0])))
    reject = RowFault("fetch", Reason.NOT_FOUND, "").to_reject(row)
    chunk = make_chunk([row, reject], found.kept)
    assert chunk.rejects.column("when").equals(when) and chunk.rows.column("when").equals(when)


def test_kept_nanoseconds_need_no_pandas(tmp_path):
    """In a process of its own, as Arrow looks for pandas once."""
    when = pa.array([1], pa.timestamp("ns"))
    write(tmp_path / "m.parquet", columns_of(1) | {"when": when})
    code = """if True:
        import sys
        from importlib.abc import MetaPathFinder

        class Absent(MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "pandas":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Absent())
        import pyarrow as pa
        from pipelines.manifests.planning import ManifestRequest, plan_units
        from pipelines.manifests.units import read_unit

        request = ManifestRequest(
            (sys.argv[1],), keep_columns=("when",), keep_nanoseconds=True
        )
        plan = plan_units(request)
        (row,) = read_unit(plan.units[0])
        found = pa.array([row.kept["when"]], plan.kept.field("when").type)
        assert found.cast(pa.int64()).to_pylist() == [1]
        assert "pandas" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_rows_without_an_id_are_named_by_their_content(tmp_path):
    path = write(tmp_path / "m.parquet", {"url": ["a", "ab", "a"], "text": ["bc", "c", "bc"]})
    first, second, third = (row.uid for row in records(path))
    assert first == third != second
    assert len(first) == 32 and int(first, 16) >= 0


def test_dictionary_columns_are_read(tmp_path):
    texts = pa.array(["a", "b", "a"]).dictionary_encode()
    path = write(tmp_path / "m.parquet", {"url": ["1", "2", "3"], "text": texts})
    assert [row.text for row in records(path)] == ["a", "b", "a"]


def test_invalid_utf8_costs_its_row(tmp_path):
    texts = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    path = write(tmp_path / "m.parquet", {"url": ["1", "2", "3"], "text": texts})
    found = records(path)
    assert [getattr(record, "reason", None) for record in found] == [
        None,
        Reason.MALFORMED_ROW,
        None,
    ]


def test_damaged_row_group_costs_its_own_rows(tmp_path):
    path = write(
        tmp_path / "m.parquet",
        columns_of(30),
        row_group_size=10,
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[data.find(b"caption 15") + 4] ^= 1
    path.write_bytes(data)
    found = records(path, rows_per_unit=7)
    lost = [r.row.source_row for r in found if isinstance(r, Reject)]
    assert len(found) == 30
    assert lost == list(range(10, 20))
    assert {r.reason for r in found if isinstance(r, Reject)} == {Reason.MANIFEST_UNREADABLE}


def test_cut_file_is_one_reject_among_good_files(tmp_path):
    write(tmp_path / "a.parquet", columns_of(3))
    whole = write(tmp_path / "b.parquet", columns_of(3)).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-10])
    found = records(tmp_path)
    assert plan(tmp_path).rows == len(found) == 4
    assert found[-1].reason is Reason.MANIFEST_UNREADABLE


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>", b"PAR1" + bytes(50) + b"PAR1"])
def test_manifest_of_which_nothing_is_readable_is_refused(tmp_path, content):
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(ManifestError, match="no manifest file is readable; .*m.parquet"):
        plan(tmp_path / "m.parquet")


def test_file_without_rows_has_no_units(tmp_path):
    empty = pa.array([], pa.string())
    path = write(tmp_path / "m.parquet", {"url": empty, "text": empty})
    assert plan(path).units == ()
    assert plan(path).rows == 0


def test_column_without_values_in_one_file_takes_its_type_from_another(tmp_path):
    write(tmp_path / "a.parquet", columns_of(1) | {"license": pa.nulls(1)})
    write(tmp_path / "b.parquet", columns_of(1) | {"license": ["cc"]})
    found = plan(tmp_path, keep_columns=("license",))
    assert found.kept.field("license").type == pa.string()


def test_time_that_python_cannot_tell_costs_its_row(tmp_path):
    when = pa.array([0, 2**62], pa.timestamp("ms"))
    path = write(tmp_path / "m.parquet", columns_of(2) | {"when": when})
    first, second = records(path, keep_columns=("when",))
    assert isinstance(first, Row) and second.reason is Reason.MALFORMED_ROW


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["a"], ["b"], ["c"]], names=["url", "text", "text"])
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="expected one column 'text'"):
        plan(tmp_path / "m.parquet")


def test_damaged_footer_is_told_in_one_line(tmp_path):
    path = write(tmp_path / "m.parquet", columns_of(10))
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for position in range(start, len(whole) - 8, 7):
        path.write_bytes(whole[:position] + b"\x7f" * 9 + whole[position + 9 :])
        try:
            read_footer(str(path))
        except DamagedParquet as error:
            assert "\n" not in str(error) and str(error).strip() == str(error)
