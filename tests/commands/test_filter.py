import json
import re
import sys
from contextlib import contextmanager

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import forked
from pipelines import cli
from pipelines import filter as command
from pipelines.command_line.exits import RunnerError
from pipelines.curation import filtering, kept_mask
from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.scored_tables import open_tables
from scored_runs import filtered, write_scored
from small_runs import run, write_parquet, write_tar

UIDS = [f"{n:032x}" for n in (255, 3, 2**127, 16, 7, 1)]
SCORES = [0.9, 0.1, 0.5, 0.3, 0.5, 0.7]


@pytest.fixture
def scored(tmp_path):
    """Six rows in two files beside an empty one, and two rejects."""
    rows = [
        {"uid": uid, "similarity": score, "sha256": f"{n % 5:064x}", "text": f"caption {n}"}
        for n, (uid, score) in enumerate(zip(UIDS, SCORES, strict=True))
    ]
    write_scored(tmp_path / "run", [rows[:4], [], rows[4:]], rejects=[{"reason": "not_found"}] * 2)
    return tmp_path


def kept(output):
    table = ds.dataset(output / "embeddings", ignore_prefixes=["."]).to_table()
    return table["uid"].to_pylist()


def test_kept_rows_have_all_columns_and_the_order_of_the_run(scored, capsys):
    out = scored / "out"
    assert filtered(scored, "--output", str(out), "--min_similarity", "0.5") == 0
    assert kept(out) == [UIDS[0], UIDS[2], UIDS[4], UIDS[5]]
    assert sorted(path.name for path in (out / "embeddings").iterdir()) == [
        "unit-0.parquet",
        "unit-2.parquet",
    ]
    before = pq.read_table(scored / "run" / "embeddings" / "unit-0.parquet")
    after = pq.read_table(out / "embeddings" / "unit-0.parquet")
    assert after.equals(before.take([0, 2])) and after.schema.equals(before.schema)
    assert json.loads(after.schema.metadata[FINGERPRINT_KEY]) == {"checkpoint_sha256": "c0ffee"}
    assert capsys.readouterr().out.splitlines() == [
        "condition            rows left   of all",
        "read                         8   100.0%",
        "embedded                     6    75.0%",
        "similarity >= 0.5            4    50.0%",
        "uids       4 in uids.npy",
        f"output     {out}",
    ]


def test_uids_are_a_sorted_structured_array_that_numpy_loads(scored):
    out = scored / "out"
    filtered(scored, "--output", str(out), "--min_similarity", "0.5")
    found = np.load(out / "uids.npy")
    expected = np.array(
        sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in kept(out)), np.dtype("u8,u8")
    )
    assert found.dtype == np.dtype("u8,u8")
    np.testing.assert_array_equal(found, expected)


def test_run_json_holds_conditions_counts_and_provenance(scored):
    out = scored / "out"
    flags = ("--where", "similarity < 0.8", "--where", "text <> 'caption 1'", "--dedup", "exact")
    assert filtered(scored, "--output", str(out), *flags, "--top_fraction", "0.5") == 0
    record = json.loads((out / "run.json").read_text())
    kept_from = record["kept_from"]
    assert [(step["condition"], step["rows"]) for step in kept_from["steps"]] == [
        ("read", 8),
        ("embedded", 6),
        ("where similarity < 0.8", 5),
        ("where text <> 'caption 1'", 4),
        ("similarity >= 0.5 (top 0.5)", 3),
        ("one row for each image", 3),
    ]
    assert kept_from["options"]["top_fraction"] == 0.5 and kept_from["run"] == str(scored / "run")
    assert record["counts"] == {
        "units": 2,
        "rows_read": 3,
        "records": 3,
        "embedded": 3,
        "rejected": 0,
        "rejects_by_reason": {},
    }
    assert record["fingerprint"] == {"checkpoint_sha256": "c0ffee"}


def test_fraction_is_of_all_embedded_rows_and_keeps_ties(scored):
    """Index int(6 * 0.4) = 2 of 0.9 0.7 0.5 0.5 0.3 0.1, whatever other conditions drop."""
    out = scored / "out"
    flags = ("--top_fraction", "0.4", "--where", "similarity < 0.8")
    assert filtered(scored, "--output", str(out), *flags) == 0
    assert kept(out) == [UIDS[2], UIDS[4], UIDS[5]]


def test_dry_run_says_the_same_and_writes_nothing(scored, capsys):
    flags = ("--min_similarity", "0.5", "--dedup", "near")
    assert filtered(scored, "--dry_run", *flags) == 0
    said = capsys.readouterr().out
    assert filtered(scored, "--dry_run", "--output", str(scored / "out"), *flags) == 0
    assert capsys.readouterr().out == said
    assert re.search(r"no better row within cosine 0.95 +1 ", said)
    assert not (scored / "out").exists()


def test_output_is_kept_unless_it_may_be_overwritten(scored, capsys):
    out = str(scored / "out")
    assert filtered(scored, "--output", out, "--min_similarity", "0.5") == 0
    assert filtered(scored, "--output", out, "--min_similarity", "0.8") == 2
    assert "is there already; pass `--overwrite`" in capsys.readouterr().err
    assert filtered(scored, "--output", out, "--min_similarity", "0.8", "--overwrite") == 0
    assert kept(scored / "out") == [UIDS[0]]
    assert len(list((scored / "out" / "embeddings").iterdir())) == 1


def test_lists_are_steps_before_all_others_and_those_of_another_kind_are_told(scored, capsys):
    keep, drop, other = (scored / name for name in ("keep.txt", "drop.txt", "other.txt"))
    keep.write_text("\n".join(UIDS[:4]))
    drop.write_text(f"# the second image\n{1:064x}\n")
    other.write_text("https://host/a.jpg\n")
    flags = ["--keep_list", str(keep), "--drop_list", str(drop), "--drop_list", str(other)]
    out = scored / "out"
    assert filtered(scored, "--output", str(out), *flags, "--min_similarity", "0.4") == 0
    assert kept(out) == [UIDS[0], UIDS[2]]
    said = capsys.readouterr().out
    assert f"no match   no line of {other} named a row; is it of another kind?" in said
    assert said.count("no match") == 1
    record = json.loads((out / "run.json").read_text())["kept_from"]
    assert [(step["condition"], step["rows"]) for step in record["steps"]] == [
        ("read", 8),
        ("embedded", 6),
        (f"in keep list {keep}", 4),
        (f"not in drop list {drop}", 3),
        (f"not in drop list {other}", 3),
        ("similarity >= 0.4", 2),
    ]
    assert record["options"]["drop_list"] == [str(drop), str(other)]
    runner = ["--runner", "FnApiRunner"]
    assert filtered(scored, "--dry_run", *flags, *runner) == 0
    assert re.search(r"in keep list .* 4 ", capsys.readouterr().out)


def test_nothing_kept_is_no_error(scored, capsys):
    out = scored / "out"
    assert filtered(scored, "--output", str(out), "--min_similarity", "1") == 0
    assert not (out / "embeddings").exists() and len(np.load(out / "uids.npy")) == 0
    assert json.loads((out / "run.json").read_text())["counts"]["embedded"] == 0
    argv = ["filter", "--input", str(out), "--dry_run", "--min_similarity", "0"]
    assert cli.main(argv) == 2 and "has no rows" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--top_fraction", "0.3"), ("--dedup", "near")])
def test_run_without_a_scored_row_can_be_filtered(tmp_path, flags):
    write_scored(tmp_path / "run", [[]], rejects=[{"reason": "not_found"}])
    assert filtered(tmp_path, "--output", str(tmp_path / "out"), *flags) == 0


def test_uids_of_other_kinds_are_told_and_cost_only_the_subset(tmp_path, capsys):
    write_scored(tmp_path / "run", [[{"uid": UIDS[0]}, {"uid": "img-7"}]])
    out = tmp_path / "out"
    assert filtered(tmp_path, "--output", str(out), "--min_similarity", "0") == 0
    assert (
        "no uids.npy: expected 32 hex digits as in DataComp, got 'img-7'" in capsys.readouterr().out
    )
    assert kept(out) == [UIDS[0], "img-7"] and not (out / "uids.npy").exists()


def test_scores_alone_can_be_filtered_but_not_for_near_duplicates(tmp_path, capsys):
    write_scored(tmp_path / "run", [[{}, {"similarity": 0.1}]])
    path = tmp_path / "run" / "embeddings" / "unit-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["image_embedding", "text_embedding"]), path)
    assert filtered(tmp_path, "--dry_run", "--min_similarity", "0.3") == 0
    assert filtered(tmp_path, "--dry_run", "--dedup", "near") == 2
    assert "embed again without `scores_only`" in capsys.readouterr().err


def test_kept_columns_can_be_asked_for(tmp_path):
    rows = [{"uid": uid, "language": language} for uid, language in zip(UIDS, "eefe", strict=False)]
    write_scored(tmp_path / "run", [rows], kept=[pa.field("language", pa.string())])
    out = tmp_path / "out"
    assert filtered(tmp_path, "--output", str(out), "--where", "language = 'e'") == 0
    assert kept(out) == [UIDS[0], UIDS[1], UIDS[3]]


def test_condition_given_replaces_the_one_of_the_preset(scored, capsys):
    assert filtered(scored, "--dry_run", "--preset", "laion400m") == 0
    assert "similarity >= 0.3 " in capsys.readouterr().out
    assert filtered(scored, "--dry_run", "--preset", "laion400m", "--top_fraction", "0.5") == 0
    assert "similarity >= 0.5 (top 0.5)" in capsys.readouterr().out


def test_one_of_several_models_is_named(tmp_path, capsys):
    write_scored(tmp_path / "run", [[{"similarity": 0.2}, {"similarity": 0.8}]])
    path = tmp_path / "run" / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    for name in ("b32", "l14"):
        for column in ("similarity", "text_truncated", "image_embedding"):
            table = table.append_column(f"{name}_{column}", table[column])
    own = ["similarity", "text_truncated", "image_embedding", "text_embedding"]
    pq.write_table(table.drop_columns(own), path)
    flags = ("--dry_run", "--min_similarity", "0.5")
    assert filtered(tmp_path, *flags) == 2
    assert "expected `--model_name`, as the run has models b32, l14" in capsys.readouterr().err
    assert filtered(tmp_path, *flags, "--model_name", "l14", "--dedup", "near") == 0
    assert re.search(r"l14_similarity >= 0.5 +1 ", capsys.readouterr().out)


@pytest.mark.parametrize("write", [write_tar, write_parquet])
def test_kept_rows_are_a_manifest_again(tmp_path, model_dir, write):
    """Members of tars and inline images have no file of their own: they are read where they were."""
    manifest = write(tmp_path / "data")
    assert run(manifest, tmp_path / "run", model_dir) == 0
    assert (
        filtered(tmp_path, "--output", str(tmp_path / "out"), "--where", "source_row % 2 = 1") == 0
    )
    assert run(tmp_path / "out" / "embeddings", tmp_path / "again", model_dir) == 0
    again, first = (
        ds.dataset(root, ignore_prefixes=["."]).to_table().sort_by("source_row")
        for root in (tmp_path / "again" / "embeddings", tmp_path / "out" / "embeddings")
    )
    columns = ["uid", "source", "source_row", "text", "sha256"]
    assert again.num_rows > 0 and again.select(columns).equals(first.select(columns))


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--dry_run",), "expected a condition, got none"),
        (("--min_similarity", "0.3"), "expected `--output`, or `--dry_run`"),
        (("--dry_run", "--min_similarity", "1.5"), "`--min_similarity` must be between -1 and 1"),
        (("--dry_run", "--top_fraction", "0"), "`--top_fraction` must be above 0 and at most 1"),
        (("--dry_run", "--dedup", "near", "--dedup_threshold", "0.5"), "at least 0.8 and below 1"),
        (("--dry_run", "--min_similarity", "0", "--top_fraction", "1"), "not allowed with"),
        (
            ("--dry_run", "--where", "smilarity > 1"),
            "names 'smilarity', which is no column; there are uid",
        ),
        (("--dry_run", "--drop_list", "no/such"), "expected a list as `--drop_list`, got"),
        (("--dry_run", "--model_name", "b32", "--top_fraction", "1"), "the run has one, unnamed"),
        (("--dry_run", "--top_fractoin", "1"), "did you mean --top_fraction?"),
    ],
)
def test_wrong_usage_is_one_sentence(scored, capsys, flags, told):
    status = filtered(scored, *flags)
    error = capsys.readouterr().err
    assert status == 2 and told in error and error.count("\n") == 1


def test_predicate_that_fails_on_the_data_fails_the_command(scored, capsys):
    assert filtered(scored, "--dry_run", "--where", "cast(text AS int) > 1") == 1
    assert "Could not convert string 'caption 0'" in capsys.readouterr().err


def test_predicate_does_not_depend_on_how_rows_lie_in_files(scored, capsys):
    predicate = "row_number() OVER (ORDER BY similarity DESC) <= 3"
    assert filtered(scored, "--dry_run", "--where", predicate) == 2
    assert "it has a window function, but may look at one row alone" in capsys.readouterr().err


def test_float16_embeddings_can_be_asked_for(tmp_path, capsys):
    write_scored(tmp_path / "run", [[{}, {"image_embedding": [0, 1, 0, 0]}]])
    path = tmp_path / "run" / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index("image_embedding")
    half = table["image_embedding"].cast(pa.list_(pa.float16(), 4))
    pq.write_table(table.set_column(index, "image_embedding", half), path)
    assert filtered(tmp_path, "--dry_run", "--where", "image_embedding[2] = 1") == 0
    assert re.search(r"where image_embedding.* 1 ", capsys.readouterr().out)


def test_progress_reaches_its_total_though_a_file_keeps_nothing(scored, monkeypatch):
    """Rows of the first file alone are above 0.8, and three passes are made."""
    seen = []

    @contextmanager
    def meter(total, unit):
        seen.append(total)
        yield seen.append

    monkeypatch.setattr(filtering, "meter", meter)
    flags = ("--output", str(scored / "out"), "--min_similarity", "0.3", "--where", "text < 'd'")
    assert filtered(scored, *flags, "--where", "source_row < 4", "--dedup", "near") == 0
    assert seen[0] == sum(seen[1:]) == 18


def test_credentials_reach_neither_messages_nor_files(scored, capsys):
    files = fsspec.filesystem("memory")
    files.put(str(scored / "run"), "/user:secret@filter", recursive=True)
    root = "memory://user:secret@filter"
    argv = ["filter", "--input", root, "--output", f"{root}/out", "--min_similarity", "0.5"]
    assert cli.main(argv) == 0
    assert cli.main([*argv[:2], f"{root}/absent", *argv[3:]]) == 2
    said = capsys.readouterr()
    record = files.cat_file("/user:secret@filter/out/run.json").decode()
    assert "output     memory://…@filter/out" in said.out and "…filter/absent" in said.err
    assert "secret" not in said.out + said.err + record


def test_beam_flags_that_do_not_suffice_are_wrong_usage(scored, capsys, monkeypatch):
    def refuse(*arguments):
        raise RunnerError("Beam refuses its flags: no region")

    monkeypatch.setattr(kept_mask, "over_files", refuse)
    flags = ("--dry_run", "--min_similarity", "0.5", "--runner", "FnApiRunner")
    assert filtered(scored, *flags) == 2
    assert capsys.readouterr().err == "clip-beam filter: Beam refuses its flags: no region\n"


def test_damaged_table_fails_the_command(scored, capsys):
    (scored / "run" / "embeddings" / "unit-2.parquet").write_bytes(b"PAR1 cut")
    assert filtered(scored, "--output", str(scored / "out"), "--min_similarity", "0") == 1
    assert "unit-2.parquet is damaged" in capsys.readouterr().err


def test_memory_stays_flat_from_twenty_to_eighty_thousand_rows(tmp_path):
    """Python's own allocations, of which the columns read would be most."""
    code = (
        "import sys, tracemalloc; from pipelines import filter\n"
        "tracemalloc.start(); filter.main(sys.argv[1:])\n"
        "print(tracemalloc.get_traced_memory()[1])"
    )
    peaks = []
    for rows in (20_000, 80_000):
        root = tmp_path / str(rows)
        _write_scores(root, rows)
        flags = ["--input", str(root), "--dry_run", "--top_fraction", "0.3", "--dedup", "exact"]
        done = forked.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
        assert "similarity >= 0.29" in done.stdout, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 100 * 60_000 / 2  # half of what a digest as a str takes


def _write_scores(root, rows):
    write_scored(root, [[{}]])
    path = root / "embeddings" / "unit-0.parquet"
    generator = np.random.default_rng(0)
    one = pq.read_table(path)
    table = pa.concat_tables([one.take(pa.array(np.zeros(rows, np.int64)))])
    scores = generator.normal(0.25, 0.08, rows).astype(np.float32)
    digests = [f"{number:064x}" for number in generator.permutation(rows)]
    for name, values in (("similarity", scores), ("sha256", digests)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values))
    pq.write_table(table, path)
    record = {"counts": {"embedded": rows, "rejected": 0}}
    (root / "run.json").write_text(json.dumps(record))


def test_waterfall_of_nothing_at_all_divides_by_nothing(tmp_path):
    write_scored(tmp_path / "run", [[]])
    tables = open_tables(str(tmp_path / "run"))
    assert "embedded             0     0.0%" in command.waterfall(
        tables, kept_mask.Selection(tables)
    )
