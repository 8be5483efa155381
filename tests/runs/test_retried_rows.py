"""Rejected rows are retried from their own manifest, elsewhere or in place, and none is lost."""

import json
import shutil
import socket

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipelines import embed
from pipelines.command_line.exits import Terminated
from pipelines.manifests import run_tables
from pipelines.manifests.units import read_unit
from pipelines.output.layout import RESULT_KEY
from pipelines.output.unit_record import UNIT_KEY, Author, unit_from_json, unit_to_json
from pipelines.ownership.finished import finished_units
from pipelines.records import Selection, Unit
from pipelines.storage import writing
from pipelines.storage.partial_files import PartialFile
from schemas.manifest import Columns, ManifestError
from small_runs import BAD, ROWS, picture, run, write_jsonl, write_parquet, write_tar


def rows(output, table):
    if not list((output / table).glob("*.parquet")):
        return []
    found = ds.dataset(output / table, ignore_prefixes=["."]).to_table().sort_by("source_row")
    return found["source_row"].to_pylist()


def counts(output):
    return json.loads((output / "run.json").read_text())["counts"]


def assert_consistent(output, rejected):
    """Every manifest row is in exactly one table, and all counts say so."""
    assert rows(output, "rejects") == sorted(rejected)
    assert rows(output, "embeddings") == sorted(set(range(ROWS)) - set(rejected))
    assert counts(output)["rows_read"] == ROWS
    assert counts(output)["rejected"] == len(rejected)
    for found in finished_units(str(output)):
        assert found.result.rows_read == found.result.embedded + sum(found.result.rejects.values())
    assert (output / "_SUCCESS").exists()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, model_dir):
    """Where a run with three rejects lies, whose images have been mended since, and a copy of it."""
    folder = tmp_path_factory.mktemp("run")
    root, copy = folder / "root", folder / "copy"
    root.mkdir()
    assert run(write_jsonl(root / "data"), root / "out", model_dir, "--keep_columns", "n") == 0
    assert_consistent(root / "out", BAD)
    write_jsonl(root / "data", mended=True)
    return root, shutil.copytree(root, copy)


@pytest.fixture
def failed(first_run):
    """That run, as it was at first: its files name the place where it lies."""
    root, copy = first_run
    shutil.rmtree(root)
    shutil.copytree(copy, root)
    return root / "data" / "m.jsonl", root / "out", ("--keep_columns", "n")


def test_retried_rows_are_merged_in_place(failed, model_dir, capsys):
    manifest, output, flags = failed
    assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 0
    assert "retried    3 (3 embedded now)" in capsys.readouterr().out
    assert_consistent(output, [])
    assert not list((output / "rejects").iterdir())
    run(manifest, output.parent / "whole", model_dir, *flags)
    names = ["uid", "source_row", "sha256", "n", "text"]
    one, two = (
        ds.dataset(root / "embeddings").to_table(columns=names).sort_by("source_row")
        for root in (output, output.parent / "whole")
    )
    assert one.equals(two)


def test_rows_that_a_killed_run_still_owed_are_not_counted_as_retried(failed, model_dir, capsys):
    manifest, output, flags = failed
    next((output / "embeddings").glob("m-*-00000.parquet")).unlink()
    assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 0
    assert "retried    2 (2 embedded now)" in capsys.readouterr().out
    assert_consistent(output, [])


def test_only_some_reasons_are_retried(failed, model_dir):
    manifest, output, flags = failed
    retry = (*flags, "--retry_rejects", "--only_reasons", "not_found,forbidden")
    assert run(manifest, output, model_dir, *retry) == 0
    assert_consistent(output, [2, 5])
    assert counts(output)["rejects_by_reason"] == {"not_an_image": 2}


def test_retry_that_fails_again_changes_nothing_but_the_reason(failed, model_dir):
    manifest, output, flags = failed
    for number in BAD:
        (output.parent / "data" / f"{number}.png").write_bytes(b"worse")
    assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 0
    assert_consistent(output, BAD)
    assert counts(output)["rejects_by_reason"] == {"not_an_image": 3}


def test_retry_of_a_run_without_rejects_does_nothing(failed, model_dir, capsys):
    manifest, output, flags = failed
    run(manifest, output, model_dir, *flags, "--retry_rejects")
    before = {path: path.stat().st_mtime_ns for path in (output / "embeddings").iterdir()}
    capsys.readouterr()
    assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 0
    assert "retried    0 (0 embedded now)" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (output / "embeddings").iterdir()}


@pytest.mark.parametrize("write", [0, 1, 2, 3])
def test_retry_killed_at_any_write_is_completed_by_the_next_run(
    failed, model_dir, monkeypatch, write
):
    """The files of two units are rewritten: embeddings, then rejects removed, of each."""
    manifest, output, flags = failed
    done = []

    def kill(patch, owner, name):
        original = getattr(owner, name)

        def killed(target, *looks):
            if isinstance(target, PartialFile) or "/rejects/" in target:
                if len(done) >= write:  # what comes later does not happen either
                    raise Terminated
                done.append(target)
            return original(target, *looks)

        patch.setattr(owner, name, killed)

    with monkeypatch.context() as patch:
        kill(patch, PartialFile, "publish")
        kill(patch, writing, "remove")
        assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 143
        assert len(done) == write and not (output / "_SUCCESS").exists()
    assert set(rows(output, "embeddings")) | set(rows(output, "rejects")) == set(range(ROWS))
    assert run(manifest, output, model_dir, *flags) == 0  # sorts out what was torn, no more
    assert counts(output)["rows_read"] == ROWS
    assert run(manifest, output, model_dir, *flags, "--retry_rejects") == 0
    assert_consistent(output, [])


@pytest.mark.parametrize("write", [write_jsonl, write_tar, write_parquet])
def test_rejects_are_a_manifest_of_the_same_rows(write, tmp_path, model_dir):
    run(write(tmp_path / "data"), tmp_path / "out", model_dir)
    rejects = ds.dataset(tmp_path / "out" / "rejects").to_table().sort_by("source_row").to_pylist()
    assert [row["source_row"] for row in rejects] == sorted(BAD)
    assert run(tmp_path / "out" / "rejects", tmp_path / "again", model_dir) == 1  # none is better
    again = ds.dataset(tmp_path / "again" / "rejects").to_table().sort_by("source_row").to_pylist()
    assert again == rejects
    assert counts(tmp_path / "again")["rows_read"] == 3


def test_mended_rejects_are_embedded_into_another_output(failed, model_dir):
    _, output, _ = failed
    flags = ("--only_reasons", "not_found,not_an_image")
    assert run(output / "rejects", output.parent / "again", model_dir, *flags) == 0
    table = ds.dataset(output.parent / "again" / "embeddings").to_table().sort_by("source_row")
    assert table["uid"].to_pylist() == ["u2", "u5", "u8"]
    assert table["n"].to_pylist() == [2, 5, 8]  # kept as in the first run, without its flag
    assert (
        run(output / "rejects", output.parent / "none", model_dir, "--only_reasons", "too_large")
        == 0
    )
    assert counts(output.parent / "none")["rows_read"] == 0


def test_what_makes_no_sense_is_refused_in_one_sentence(failed, model_dir, capsys):
    manifest, output, flags = failed
    cases = [
        ((output / "rejects", output), "names a table of `--output` itself"),
        ((output / "embeddings", output), "names a table of `--output` itself"),
        (
            (output / "embeddings", output.parent / "b", "--only_reasons", "not_found"),
            "leave it out",
        ),
        (
            (output / "rejects", output.parent / "b", "--text_column", "text"),
            "leave out `--image_col",
        ),
        ((manifest, output.parent / "b", "--only_reasons", "not_found"), "needs `--retry_rejects`"),
        ((manifest, output, "--retry_rejects", "--only_reasons", "notfound"), "mean not_found?"),
        ((manifest, output, "--retry_rejects", "--overwrite"), "leave one out"),
    ]
    for (source, target, *more), expected in cases:
        assert run(source, target, model_dir, *more) == 2
        message = capsys.readouterr().err
        assert expected in message and message.count("\n") == 1, message


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda path: path.unlink(), "is not there any more"), (lambda p: p.write_text("{}"), "anew")],
)
def test_rejects_of_a_manifest_that_changed_are_refused(failed, model_dir, capsys, change, message):
    manifest, output, _ = failed
    change(manifest)
    assert run(output / "rejects", output.parent / "again", model_dir) == 2
    assert message in capsys.readouterr().err


def test_unit_survives_its_json():
    unit = Unit("u", "m", "csv", Columns(uid="id", kept=("a", "b")), "/", 5, None, 7, 99, "cut")
    text = unit_to_json(unit, Author("output", "run", "attempt"))
    assert unit_from_json(text) == unit
    later = json.dumps(json.loads(text) | {"version": 9, "new": 1, "columns": {"kept": [], "x": 2}})
    assert unit_from_json(later).uri == "m"  # a later release may say more


def test_files_say_which_attempt_of_which_run_wrote_them(failed):
    _, output, _ = failed
    records = finished_units(str(output))
    attempts = json.loads((output / "_attempts.json").read_text())["attempts"]
    assert {record.by.run for record in records} == {
        json.loads((output / "run.json").read_text())["run"]
    }
    assert attempts == {
        record.result.unit_id: {"run": record.by.run, "attempt": record.by.attempt}
        for record in records
    }
    for record in finished_units(str(output), "rejects"):
        assert record.by.attempt == attempts[record.result.unit_id]["attempt"]


def test_unit_whose_files_are_of_two_attempts_is_done_again(failed, model_dir):
    manifest, output, flags = failed
    path = next((output / "rejects").glob("m-*-00000.parquet"))
    table = pq.read_table(path)
    about = dict(table.schema.metadata)
    about[UNIT_KEY] = json.dumps(json.loads(about[UNIT_KEY]) | {"attempt": "other"})
    record = pq.read_metadata(path).metadata
    about[RESULT_KEY] = record[RESULT_KEY]
    pq.write_table(table.replace_schema_metadata(about), path)
    assert run(manifest, output, model_dir, *flags) == 0
    assert_consistent(output, [5, 8])  # the image of row 2 has been mended meanwhile


def test_unit_is_written_down_without_credentials_and_then_asked_for():
    uri = "https://user:word@host/m.jsonl?sig=1234"
    unit = Unit("u", uri, "jsonl", Columns(), "https://host/?sig=1234", 0, 1)
    text = unit_to_json(unit)
    assert "word" not in text and "1234" not in text and "host/m.jsonl" in text
    with pytest.raises(ManifestError, match="credentials, which are not kept; pass that manifest"):
        run_tables.unit_of_table(
            "r.parquet", pa.schema([], {UNIT_KEY: text}), unit_from_json(text), ()
        )


def test_both_tables_of_a_run_are_one_manifest(failed, model_dir):
    _, output, _ = failed
    assert run(output, output.parent / "again", model_dir) == 0
    assert_consistent(output.parent / "again", [])


def test_output_may_lie_in_the_directory_of_its_manifest(tmp_path, model_dir):
    write_jsonl(tmp_path / "data")
    for flags in ((), (), ("--overwrite",)):
        assert run(tmp_path / "data", tmp_path / "data" / "out", model_dir, *flags) == 0
        assert_consistent(tmp_path / "data" / "out", BAD)


def test_resuming_with_other_units_is_refused(tmp_path, model_dir, capsys):
    manifest = write_tar(tmp_path / "data").parent
    write_jsonl(tmp_path / "data")
    assert run(manifest, tmp_path / "out", model_dir) == 0
    for uri in (tmp_path / "out" / "embeddings").glob("m-*-00002.parquet"):
        uri.unlink()
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "6") == 2
    assert "was begun with another `--rows_per_unit`" in capsys.readouterr().err


def test_only_the_wanted_rows_are_read_and_no_further(tmp_path):
    unit = Unit("u", str(write_jsonl(tmp_path / "d")), "jsonl", Columns(), "/", 0, ROWS, 0)
    assert [r.row.source_row for r in read_unit(unit)] == list(range(ROWS))
    table = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"source_row": [7, 3], "caption_index": [0, 0]}), table)
    some = Unit("u", unit.uri, "jsonl", Columns(), "/", 0, ROWS, 0, only=Selection((table,)))
    assert [record.row.source_row for record in read_unit(some)] == [3, 7]


def test_table_without_a_source_is_a_plain_manifest():
    assert not run_tables.is_output_table(pa.schema([("url", pa.string())]))
    with pytest.raises(ManifestError, match="not there any more"):
        unit = Unit("u", "/none/m.csv", "csv", Columns(), "/", 0, 1)
        schema = pa.schema([], {UNIT_KEY: unit_to_json(unit)})
        run_tables.unit_of_table("r.parquet", schema, unit, ())


HOSTILE = {
    "a private file": {"uri": "{private}/m.jsonl", "image_root": "{private}"},
    "with dots": {"uri": "{run}/../private/m.jsonl", "image_root": "{run}"},
    "as a URI": {"uri": "file://{private}/m.jsonl", "image_root": "{private}"},
    "chained": {"uri": "simplecache::file://{private}/m.jsonl", "image_root": "{private}"},
    "through a link": {"uri": "{run}/link/m.jsonl", "image_root": "{run}"},
    "an address": {"uri": "http://127.0.0.1:{port}/m.jsonl", "image_root": "{run}"},
    "a neighbour by prefix": {"uri": "{run}-private/m.jsonl", "image_root": "{run}"},
    "images of others": {"uri": "{run}/m.jsonl", "image_root": "{private}"},
    "images from anywhere": {"uri": "{run}/m.jsonl", "image_root": "/"},
    "images at an address": {"uri": "{run}/m.jsonl", "image_root": "http://127.0.0.1:{port}/"},
    "a file of the output": {"uri": "{run}/m.jsonl", "unit_id": "../../escaped"},
    "nonsense": {"uri": None, "columns": 3},
}


@pytest.fixture
def listener():
    """A port of this machine that notes who calls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("name", HOSTILE)
def test_table_of_a_stranger_opens_nothing_elsewhere(tmp_path, model_dir, capsys, listener, name):
    """The canary is a caption that must not come out anywhere."""
    private, root = tmp_path / "private", tmp_path / "run"
    for folder in (private, root / "rejects", tmp_path / "run-private"):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(private)
    line = json.dumps({"url": "0.png", "text": "canary"}) + "\n"
    for folder in (private, root, tmp_path / "run-private"):
        (folder / "m.jsonl").write_text(line if folder != root else line.replace("canary", "own"))
        (folder / "0.png").write_bytes(picture(0))
    port = listener.getsockname()[1]
    changes = {
        key: value.format(private=private, run=root, port=port) if isinstance(value, str) else value
        for key, value in HOSTILE[name].items()
    }
    unit = Unit("m-0-00000", str(root / "m.jsonl"), "jsonl", Columns(image_uri="url", text="text"),
                str(root), 0, 1, 0, len(line))  # fmt: skip
    about = json.dumps(json.loads(unit_to_json(unit)) | changes)
    table = pa.table({"source_row": [0], "reason": ["x"]}, metadata={UNIT_KEY: about})
    pq.write_table(table, root / "rejects" / "m-0-00000.parquet")
    argv = ["--manifest", str(root / "rejects"), "--output", str(tmp_path / "out")]
    assert embed.main([*argv, "--model", str(model_dir)]) == 2
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err and said.err.count("\n") == 1
    if name not in ("nonsense", "a file of the output"):
        assert "pass `--allow_manifests_from " in said.err
    assert not list(tmp_path.glob("out/*/*.parquet")) and not list(tmp_path.glob("escaped*"))
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_what_is_allowed_by_name_or_trusted_is_replayed(failed, model_dir):
    _, output, _ = failed
    argv = ["--manifest", str(output / "rejects"), "--model", str(model_dir)]
    assert embed.main([*argv, "--output", str(output.parent / "one")]) == 2
    assert embed.main([*argv, "--output", str(output.parent / "two"), "--trust_run"]) == 0
    allowed = ("--allow_manifests_from", str(output.parent / "data"))
    assert embed.main([*argv, "--output", str(output.parent / "three"), *allowed]) == 0
    assert (
        rows(output.parent / "two", "embeddings")
        == rows(output.parent / "three", "embeddings")
        == [2, 5, 8]
    )
