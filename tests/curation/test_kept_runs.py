"""What is kept is a run: filters chain, every command takes it, and no run is lost for it."""

import json

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from scored_runs import filtered, write_scored
from small_runs import run, write_tar

UIDS = [f"{n:032x}" for n in (255, 3, 2**127, 16, 7, 1)]
SCORES = [0.9, 0.1, 0.5, 0.3, 0.5, 0.7]


@pytest.fixture
def scored(tmp_path):
    """Six rows in two files, and two rejects."""
    rows = [{"uid": uid, "similarity": s} for uid, s in zip(UIDS, SCORES, strict=True)]
    write_scored(tmp_path / "run", [rows[:4], rows[4:]], rejects=[{"reason": "not_found"}] * 2)
    return tmp_path


def kept(output):
    table = ds.dataset(output / "embeddings", ignore_prefixes=["."]).to_table()
    return table["uid"].to_pylist()


def test_filters_chain_and_the_table_of_steps_shows_the_chain(scored, capsys):
    first, second = scored / "first", scored / "second"
    assert filtered(scored, "--output", str(first), "--min_similarity", "0.5") == 0
    flags = ("--top_fraction", "0.5", "--dry_run")
    assert cli.main(["filter", "--input", str(first), *flags]) == 0
    capsys.readouterr()
    argv = ["filter", "--input", str(first), "--output", str(second), "--where", "similarity < 0.8"]
    assert cli.main(argv) == 0
    assert kept(second) == [UIDS[2], UIDS[4], UIDS[5]]
    assert capsys.readouterr().out.splitlines()[:6] == [
        "condition                 rows left   of all",
        "read                              8   100.0%",
        "embedded                          6    75.0%",
        "similarity >= 0.5                 4    50.0%",
        "where similarity < 0.8            3    37.5%",
        "uids       3 in uids.npy",
    ]
    kept_from = json.loads((second / "run.json").read_text())["kept_from"]
    assert (kept_from["run"], kept_from["kept_from"]["run"]) == (str(first), str(scored / "run"))


COMMANDS = {
    "export": ["--format", "laion", "--output", "OUT"],
    "report": ["--output", "OUT.html"],
    "filter": ["--min_similarity", "0", "--output", "OUT"],
    "search": ["--text", "a star"],
    "classify": ["--labels", "red,green", "--output", "OUT"],
}


def test_what_is_kept_is_a_run_to_every_command(tmp_path, model_dir, capsys):
    manifest = write_tar(tmp_path / "data")
    assert run(manifest, tmp_path / "run", model_dir) == 0
    out = tmp_path / "kept"
    assert filtered(tmp_path, "--output", str(out), "--where", "source_row % 2 = 1") == 0
    rows = len(kept(out))
    for name, flags in COMMANDS.items():
        flags = [flag.replace("OUT", str(tmp_path / name)) for flag in flags]
        flags += ["--trust_run"] if name in ("search", "classify", "report") else []
        assert cli.main([name, "--input", str(out), *flags]) == 0, capsys.readouterr().err
    assert ds.dataset(tmp_path / "export" / "metadata").count_rows() == rows > 0
    assert ds.dataset(tmp_path / "classify" / "labels").count_rows() == rows
    page = (tmp_path / "report.html").read_text()
    assert "where source_row % 2 = 1" in page and f"Kept from {tmp_path / 'run'}" in page


def test_what_is_kept_is_never_taken_for_units_that_embed_has_finished(tmp_path, model_dir, capsys):
    manifest = write_tar(tmp_path / "data")
    assert run(manifest, tmp_path / "run", model_dir) == 0
    out = tmp_path / "kept"
    assert filtered(tmp_path, "--output", str(out), "--where", "source_row < 3") == 0
    before = kept(out)
    capsys.readouterr()
    assert run(manifest, out, model_dir) == 2
    assert (
        "was not written by `embed`; use another `--output`" in capsys.readouterr().err
        and kept(out) == before
    )


def test_a_run_of_embed_is_never_replaced(scored, capsys):
    other = write_scored(scored / "other", [[{}]])
    (scored / "link").symlink_to(scored / "run")
    flags = ("--min_similarity", "0", "--overwrite", "--output")
    for place, told in ((scored / "run", "to be another directory than `--input`"),
                        (scored / "link", "to be another directory than `--input`"),
                        (other, "holds a run that `embed` wrote")):  # fmt: skip
        assert filtered(scored, *flags, str(place)) == 2
        assert told in capsys.readouterr().err
    assert ds.dataset(other / "embeddings").count_rows() == 1
    assert ds.dataset(scored / "run" / "embeddings").count_rows() == 6


def test_bare_folder_of_tables_is_read_if_that_is_allowed(scored, capsys):
    bare = scored / "bare"
    bare.mkdir()
    table = ds.dataset(scored / "run" / "embeddings").to_table().replace_schema_metadata(None)
    pq.write_table(table, bare / "mine.parquet")
    argv = ["filter", "--input", str(bare), "--min_similarity", "0.5", "--output"]
    assert cli.main([*argv, str(scored / "out")]) == 2
    assert cli.main([*argv, str(scored / "out"), "--allow_incomplete"]) == 0
    assert kept(scored / "out") == [UIDS[0], UIDS[2], UIDS[4], UIDS[5]]
    pq.write_table(table.drop_columns(["sha256"]), bare / "mine.parquet")
    capsys.readouterr()
    assert cli.main([*argv, str(scored / "out"), "--allow_incomplete", "--overwrite"]) == 2
    assert "has no column 'sha256'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "record",
    [
        1,
        {},
        {"steps": 1},
        {"steps": [{"condition": "a", "rows": -1}]},
        {"steps": [], "kept_from": 1},
    ],
)
def test_record_of_a_filter_that_makes_no_sense_is_damaged(scored, capsys, record):
    path = scored / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kept_from": record}))
    assert filtered(scored, "--dry_run", "--min_similarity", "0") == 1
    assert "expected what `filter` writes as 'kept_from'" in capsys.readouterr().err


MODELS = ("b32", "l14")


@pytest.fixture
def two_models(tmp_path):
    """Four rows of two models, in two languages; one row has none."""
    rows = [{"similarity": 0.1 * n, "source": "ab"[n % 2]} for n in range(4)]
    write_scored(
        tmp_path / "run",
        [rows],
        fingerprint={"b32.architecture": "ViT-B/32", "l14.architecture": "ViT-L/14"},
    )
    path = tmp_path / "run" / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    own = ["similarity", "text_truncated", "image_embedding", "text_embedding"]
    columns = {name: table[name] for name in own}
    table = table.drop_columns(own)
    for model in MODELS:
        for name, column in columns.items():
            column = column.slice(0) if model == "b32" else column.take([3, 2, 1, 0])
            table = table.append_column(f"{model}_{name}", column)
    pq.write_table(table, path)
    return tmp_path


def test_model_is_named_only_where_one_similarity_is_asked_for(two_models, capsys):
    where = ("--where", "b32_similarity > 0.05 and l14_similarity > 0.15", "--dry_run")
    assert filtered(two_models, *where) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-2] == "1"
    assert filtered(two_models, "--dry_run", "--top_fraction", "0.5") == 2
    assert "expected `--model_name`" in capsys.readouterr().err
    assert filtered(two_models, "--dry_run", "--preset", "clip-l14-30pct") == 0
    assert "l14_similarity >= 0.2 (top 0.3)" in capsys.readouterr().out


def test_recipe_of_another_model_is_refused(two_models, capsys):
    flags = ("--dry_run", "--preset", "clip-l14-30pct", "--model_name", "b32")
    assert filtered(two_models, *flags) == 2
    assert (
        "expected embeddings of a ViT-L/14 for the preset clip-l14-30pct, the run has those of ViT-B/32"
        in capsys.readouterr().err
    )
    assert filtered(two_models, *flags, "--top_fraction", "0.3") == 0
