import gzip
import json
import re
import threading
import time
from concurrent.futures import wait
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import plan
from pipelines.engine import failures
from pipelines.engine.slots.choice import EngineChoice
from pipelines.manifests import planning
from pipelines.manifests.files import left_out_line
from pipelines.manifests.formats import format_of
from pipelines.manifests.planning import merged_units, plan_units
from pipelines.manifests.read import UNITS_AHEAD, _Read
from pipelines.manifests.request import ManifestRequest, unit_id
from pipelines.manifests.units import read_unit
from pipelines.records import Selection, Unit
from schemas.manifest import Columns, ManifestError

LINE = json.dumps({"url": "a.jpg", "text": "x"}) + "\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", "parquet"),
        ("A.JSONL", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.csv.zst", "csv"),
        ("a.tsv.bz2", "tsv"),
        ("a.tar", "webdataset"),
        ("a.tgz", "webdataset"),
        ("a.json", None),
        ("a.txt", None),
    ],
)
def test_format_shows_in_the_name(name, kind):
    assert format_of(name) == kind


def test_unit_ids_are_readable_and_tell_files_apart():
    first, other = unit_id("gs://a/part 1.jsonl.gz", 3), unit_id("gs://b/part 1.jsonl.gz", 3)
    assert first.startswith("part-1-") and first.endswith("-00003")
    assert first != other


@pytest.mark.parametrize(
    "name",
    [
        "_train", ".hidden", "-rf", "--_.x", "训练", "n" * 240, "é" * 120, "...", "a b\n", "con:|?*",
        "\udce9t\udce9", "_", "\u202e", "🙂" * 60,
    ],
)  # fmt: skip
def test_unit_ids_are_names_that_every_reader_and_disk_takes(name):
    found = unit_id(f"gs://bucket/{name}.jsonl", 0)
    assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,90}", found)
    assert found != unit_id(f"gs://bucket/{name}x.jsonl", 0)


def test_file_of_a_name_that_is_not_utf8_is_planned_and_read(tmp_path):
    try:
        (tmp_path / "caf\udce9.jsonl").write_text(LINE)
    except OSError:
        pytest.skip("this disk takes no such name")
    (tmp_path / "m.jsonl").write_text(LINE * 2)
    (tmp_path / "\udce8.csv").write_text("url,text\na.jpg,\n")
    found = [record for unit in plan(tmp_path).units for record in read_unit(unit)]
    rows = [getattr(record, "row", record) for record in found]
    names = ["caf\\xe9.jsonl", "m.jsonl", "m.jsonl", "\\xe8.csv"]
    assert sorted(row.source for row in rows) == sorted(f"{tmp_path}/{name}" for name in names)
    for row in rows:
        f"{row.uid}{row.source}".encode()


def test_units_do_not_depend_on_how_the_manifest_is_named(tmp_path, monkeypatch):
    (tmp_path / "m.jsonl").write_text(LINE * 5)
    monkeypatch.chdir(tmp_path)
    named = [
        plan(name, rows_per_unit=2).units
        for name in ("m.jsonl", "*.jsonl", ".", f"file://{tmp_path}")
    ]
    assert all(units == named[0] for units in named)
    assert [unit.rows for unit in named[0]] == [2, 2, 1]


def test_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    from pipelines.manifests.planning import plan_units
    from pipelines.manifests.request import ManifestRequest

    found = plan_units(ManifestRequest(patterns=(str(tmp_path), str(tmp_path / "m.jsonl"))))
    assert len(found.units) == 1


def test_other_files_of_a_directory_are_left_alone(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "_truth.jsonl").write_text("{}")
    assert len(plan(tmp_path).units) == 1


def test_relative_images_start_at_the_manifest_or_image_root(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    assert plan(tmp_path).units[0].image_root == str(tmp_path)
    assert plan(tmp_path, image_root="gs://images/").units[0].image_root == "gs://images"


@pytest.mark.parametrize("pattern", ["none.jsonl", "*.parquet", "empty"])
def test_nothing_matched_is_refused(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no manifest files matched"):
        plan(tmp_path / pattern)


def test_unknown_format_asks_for_the_flag(tmp_path):
    (tmp_path / "m.txt").write_text("url,text\na.jpg,a star\n")
    with pytest.raises(ManifestError, match="does not show in its name; pass `format`"):
        plan(tmp_path / "m.txt")
    assert plan(tmp_path / "m.txt", format="csv").rows == 1


@pytest.mark.parametrize("name", ["part-00000", "rows.json", "rows", "part-00000.gz"])
def test_json_lines_are_told_by_their_content(tmp_path, name):
    data = (LINE * 3).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = plan(tmp_path)
    assert found.rows == 3 and not found.left_out
    assert {unit.format for unit in found.units} == {"jsonl"}


@pytest.mark.parametrize(
    "content",
    ['{"count": 3}\n', '[{"name": "a.jpg"}]', "[3, 4]", '{"url": "a', "", "url text\n", "\xff\xfe"],
)
def test_other_content_is_no_manifest(tmp_path, content):
    (tmp_path / "stats.json").write_text(content)
    (tmp_path / "notes").write_text("some words")
    with pytest.raises(ManifestError, match="no manifest files matched"):
        plan(tmp_path)


def test_content_decides_nothing_beside_a_name_that_is_known(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    (tmp_path / "index.json").write_text(LINE * 5)
    found = plan(tmp_path)
    assert found.rows == 1 and [uri.rsplit("/", 1)[1] for uri in found.left_out] == ["index.json"]


def test_column_error_names_the_file(tmp_path):
    (tmp_path / "m.csv").write_text("picture,title\na.jpg,x\n")
    with pytest.raises(ManifestError, match="m.csv: no image column found.*columns picture, title"):
        plan(tmp_path / "m.csv")
    assert plan(tmp_path / "m.csv", image_column="picture", text_column="title").rows == 1


def test_kept_columns_are_told_apart_by_more_than_case(tmp_path):
    names = ["url", "text", "tag", "tag"]
    pq.write_table(pa.table([["u"], ["t"], [1], [2]], names=names), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="`keep_columns` names 'tag', which two columns are"):
        plan(tmp_path / "m.parquet", keep_columns=("tag",))
    assert plan(tmp_path / "m.parquet").rows == 1


def test_what_only_saves_memory_is_no_part_of_a_kept_type(tmp_path):
    tags = pa.array(["en", "de"]).dictionary_encode()
    columns = {
        "url": pa.array(["u", "v"], pa.string_view()),
        "text": ["t", "t"],
        "tag": tags,
        "tags": pa.ListArray.from_arrays([0, 1, 2], tags),
        "both": pa.StructArray.from_arrays([tags, tags], names=["a", "b"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    kept = plan(tmp_path / "m.parquet", keep_columns=("tag", "tags", "both")).kept
    pair = pa.struct([("a", pa.string()), ("b", pa.string())])
    assert kept.types == [pa.string(), pa.list_(pa.string()), pair]


def test_tables_of_the_output_are_no_manifests(tmp_path):
    for name in ("m.jsonl", "out/embeddings/a.jsonl", "out/rejects/a.jsonl", "out/other.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINE)
    assert plan(tmp_path).rows == 4
    found = plan(tmp_path, output=str(tmp_path / "out"))
    assert sorted(unit.uri.rpartition("/")[2] for unit in found.units) == ["m.jsonl", "other.jsonl"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(("e",), ("r",), ("e", "r")), (None, ("e",), None), (("e",), None, None), (None, None, None)],
)
def test_units_of_tables_of_one_run_become_one(one, other, expected):
    def unit(only, rows=9):
        selection = only and Selection(only, count=2)
        return Unit("a", "m", "jsonl", Columns(), "/", 0, rows, only=selection)

    (found,) = merged_units([unit(one), unit(other)])
    assert found.only == (expected and Selection(expected))
    assert merged_units([unit(one)]) == [unit(one)]
    with pytest.raises(ManifestError, match="two manifests have a unit 'a' of m, cut or read in"):
        merged_units([unit(one), unit(other, rows=5)])


def test_what_is_left_out_is_named(tmp_path):
    for name in ("a.jsonl", "b.json", "part-00000", "0.png", "_hidden", "deep/c.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(LINE)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d.jsonl").write_text(LINE)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "more")
    found = plan(tmp_path / "data")
    assert found.rows == 1
    assert sorted(uri.rpartition("/")[2] for uri in found.left_out) == [
        "b.json", "c.txt", "linked", "part-00000",
    ]  # fmt: skip
    assert left_out_line(found.left_out).startswith("4 files that are no manifests, by name: ")
    assert left_out_line(found.left_out).endswith(" and 1 more")
    assert plan(tmp_path / "more").left_out == ()


def test_units_are_opened_while_an_earlier_one_is_handed_out(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE * 5)
    units = plan(tmp_path / "m.jsonl", rows_per_unit=1).units
    opened = []
    reader = _Read(pa.schema([]), 64, lambda unit: opened.append(unit.unit_id), None, "")
    reader.setup()
    reader.start_bundle()
    held = [chunks for unit in units[:3] for chunks in reader.process((unit,))]
    read = [next(iter(future.result().chunks)) for future in reader._held]
    reader.teardown()
    assert held == [] and opened == [unit.unit_id for unit in units[:3]]
    assert [chunk.unit for chunk in read] == list(units[:3])


def test_more_units_are_opened_ahead_once_the_line_waits_for_one(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE * 30)
    units = plan(tmp_path / "m.jsonl", rows_per_unit=1).units
    may_open = threading.Event()

    def is_there(unit):
        if unit is units[0]:
            may_open.wait()

    def let_the_first_open():  # once it is waited for
        while reader._ahead == UNITS_AHEAD:
            time.sleep(0.001)
        may_open.set()

    reader = _Read(pa.schema([]), 64, is_there, None, "")
    reader.setup()
    reader.start_bundle()
    threading.Thread(target=let_the_first_open, daemon=True).start()
    chunks = []
    for unit in units[:10]:
        chunks += reader.process((unit,))
        wait(list(reader._held)[1:])  # so that no other is waited for
    assert len(chunks) == 4 and len(reader._held) == 6  # the first of four was waited for
    chunks += [one.value for one in reader.finish_bundle()]
    reader.teardown()
    assert [chunk.unit for chunk in chunks] == list(units[:10])


def test_reader_that_is_torn_down_from_another_thread_goes_no_further(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE * 30)
    units = plan(tmp_path / "m.jsonl", rows_per_unit=1).units
    reader = _Read(pa.schema([]), 64, None, None, "")
    reader.setup()
    reader.start_bundle()
    assert not list(reader.process((units[0],)))
    reader.teardown()  # as Beam does, when a sibling failed
    for going_on in (reader.process((units[1],)), reader.finish_bundle()):
        with pytest.raises(failures.RunStoppedError, match="another bundle of the run failed"):
            list(going_on)


def test_first_chunk_is_read_where_a_unit_is_opened(tmp_path, monkeypatch):
    (tmp_path / "m.jsonl").write_text(LINE)
    read = []
    monkeypatch.setattr(
        "pipelines.manifests.read.read_chunks",
        lambda unit, *rest: read.append(unit) or iter([SimpleNamespace(nbytes=0)]),
    )
    units = plan(tmp_path / "m.jsonl").units
    reader = _Read(pa.schema([]), 64, None, None, "")
    reader.setup()
    reader._open(units)
    assert read == list(units)


def test_large_text_manifests_are_read_by_workers_with_the_same_plan(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"url": "a.jpg", "text": "a"}\n' * 5)
    (tmp_path / "b.csv").write_text("url,text\n" + "b.jpg,b\n" * 3)
    pq.write_table(pa.table({"url": ["c.jpg"], "text": ["c"]}), tmp_path / "c.parquet")
    request = ManifestRequest((str(tmp_path),), rows_per_unit=2)
    expected = plan_units(request)
    monkeypatch.setattr(planning, "SCAN_BYTES", 1)
    given = []

    def over(work, items, workers):
        given.extend(file for (file, _, _), _ in items)
        return map(work, items)

    monkeypatch.setattr(planning, "over_files", over)
    assert plan_units(request, EngineChoice("processes")) == expected
    assert [uri.rpartition("/")[2] for uri in given] == ["a.jsonl", "b.csv"]


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("csv_delimiter", ";", "m.csv"),
        ("csv_quoting", "none", "m.tsv"),
        ("column_names", ("url", "text"), "m.csv"),
        ("key_until", "last_dot", "m.tar"),
    ],
)
def test_what_is_said_of_no_file_that_is_there_is_refused(tmp_path, name, value, taken):
    (tmp_path / "m.jsonl").write_text('{"url": "a.jpg", "text": "x"}\n')
    with pytest.raises(ManifestError, match=f"`{name}` is about .*, and the manifest is jsonl"):
        plan(tmp_path, **{name: value})
    mark = ";" if name == "csv_delimiter" else "\t" if taken == "m.tsv" else ","
    (tmp_path / taken).write_bytes(b"" if taken == "m.tar" else f"url{mark}text\n".encode())
    plan(tmp_path, **{name: value})
