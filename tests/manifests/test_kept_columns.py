"""Kept columns: the same rows have the same column, however they are cut into files."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import read_chunks
from schemas.manifest import ManifestError

LARGE = 2**53 + 1  # no float64
DAY = datetime.datetime(2020, 1, 1)


def column(folder, name="n", **more):
    """Returns the type of a kept column, its values by caption, and the rejects by caption."""
    found = plan_units(ManifestRequest((str(folder),), keep_columns=(name,), **more))
    values, rejects = {}, {}
    for unit in found.units:
        for chunk in read_chunks(unit, list(found.kept)):
            assert chunk.rows.schema.field(name).type == found.kept.field(name).type
            rows = pa.Table.from_batches([chunk.rows])
            values |= dict(zip(rows["text"].to_pylist(), rows[name].to_pylist(), strict=True))
            failed = chunk.rejects.to_pylist()
            rejects |= {row["text"]: (row["reason"], row["detail"]) for row in failed}
    return found.kept.field(name).type, values, rejects


def write_jsonl(path, values):
    rows = [{"url": "u", "text": key, "n": value} for key, value in values.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path, values):
    path.write_text("url,text,n\n" + "".join(f"u,{key},{value}\n" for key, value in values.items()))


def write_parquet(path, values, kind=None):
    rows = {"url": ["u"] * len(values), "text": list(values)}
    pq.write_table(pa.table(rows | {"n": pa.array(list(values.values()), kind)}), path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, 3], pa.float64()),
        ([None, 2, 1], pa.int64()),
        ([2**60, LARGE, 0], pa.int64()),
        ([2**60, 0.5, 0], pa.float64()),
        ([LARGE, 0.5, 0], pa.string()),
        ([1, "x", 2.5], pa.string()),
        ([True, 1, None], pa.string()),
        ([2**70, 1, None], pa.string()),
    ],
)
def test_json_lines_have_one_column_in_every_cut(tmp_path, values, kind):
    keyed = dict(zip("abc", values, strict=True))
    found = []
    for cut in (["abc"], ["ab", "c"], ["a", "bc"], ["a", "b", "c"]):
        folder = tmp_path / "-".join(cut)
        folder.mkdir()
        for part in cut:
            write_jsonl(folder / f"{part}.jsonl", {key: keyed[key] for key in part})
        found.append(column(folder))
    texts = {k: v if v is None or isinstance(v, str) else json.dumps(v) for k, v in keyed.items()}
    assert found == [(kind, texts if kind == pa.string() else keyed, {})] * 4


def test_csv_has_text_in_every_cut(tmp_path):
    keyed = {"a": "1", "b": "2.5", "c": "x"}
    for folder, cut in (("one", ["abc"]), ("many", ["a", "b", "c"])):
        (tmp_path / folder).mkdir()
        for part in cut:
            write_csv(tmp_path / folder / f"{part}.csv", {key: keyed[key] for key in part})
        assert column(tmp_path / folder) == (pa.string(), keyed, {})


@pytest.mark.parametrize(
    ("one", "other", "expected", "values"),
    [
        (pa.int64(), pa.float64(), pa.float64(), (1, 0.5)),
        (pa.int8(), pa.int32(), pa.int32(), (1, 70000)),
        (pa.float32(), pa.float64(), pa.float64(), (0.5, 0.1)),
        (pa.null(), pa.string(), pa.string(), (None, "x")),
        (pa.large_string(), pa.string(), pa.string(), ("x", "y")),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us"), (DAY, DAY)),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.float64()), ([1], [0.5])),
    ],
)
def test_parquet_has_one_column_in_every_cut(tmp_path, one, other, expected, values):
    keyed = dict(zip("ab", values, strict=True))
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    write_parquet(tmp_path / "one" / "m.parquet", keyed, expected)
    write_parquet(tmp_path / "many" / "a.parquet", {"a": values[0]}, one)
    write_parquet(tmp_path / "many" / "b.parquet", {"b": values[1]}, other)
    assert column(tmp_path / "many") == column(tmp_path / "one") == (expected, keyed, {})


def test_nanoseconds_of_one_file_are_kept_beside_seconds_of_another(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"a": 1_577_836_800_000_000_001}, pa.timestamp("ns"))
    write_parquet(tmp_path / "b.parquet", {"b": DAY}, pa.timestamp("s"))
    kind, values, _ = column(tmp_path, keep_nanoseconds=True)
    assert kind == pa.timestamp("ns")
    assert [values[key].value for key in "ab"] == [1577836800000000001, 1577836800000000000]


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_number_that_the_common_type_does_not_hold_is_a_reject(tmp_path, write):
    suffix = write.__name__.partition("_")[2]
    write(tmp_path / f"a.{suffix}", {"fits": 2**53, "large": LARGE})
    write_parquet(tmp_path / "b.parquet", {"half": 0.5})
    kind, values, rejects = column(tmp_path)
    assert (kind, values) == (pa.float64(), {"fits": 2.0**53, "half": 0.5})
    detail = "column 'n' is double, which does not hold 9007199254740993"
    assert rejects == {"large": ("malformed_row", detail)}


def test_time_that_the_finer_unit_does_not_reach_is_a_reject(tmp_path):
    long_ago = datetime.datetime(1500, 1, 1)
    write_parquet(tmp_path / "a.parquet", {"a": long_ago, "b": DAY}, pa.timestamp("s"))
    write_parquet(tmp_path / "b.parquet", {"c": 1}, pa.timestamp("ns"))
    _, values, rejects = column(tmp_path, keep_nanoseconds=True)
    assert set(values) == {"b", "c"} and rejects["a"][0] == "malformed_row"


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_what_has_no_common_type_is_refused_with_both_files(tmp_path, write):
    suffix = write.__name__.partition("_")[2]
    write_parquet(tmp_path / "a.parquet", {"a": 1})
    write_parquet(tmp_path / "b.parquet", {"b": 0.5})
    write(tmp_path / f"c.{suffix}", {"c": "x"})
    with pytest.raises(ManifestError) as refused:
        column(tmp_path)
    expected = (
        f"column 'n' is int64 in .*a.parquet and string in .*c.{suffix}, which have no type in "
        "common; convert one of them, or leave the column out of `keep_columns`"
    )
    assert refused.match(expected)
