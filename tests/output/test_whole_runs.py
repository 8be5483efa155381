"""A run that is not whole is refused, and the page about it says so."""

import json

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.output.scored_tables import open_tables
from pipelines.output.whole_runs import IncompleteRunError, open_whole, what_is_missing
from pipelines.pages import plots
from scored_runs import write_scored

ROWS = [{"text": f"caption {n}", "similarity": n / 10} for n in range(4)]
COMMANDS = {
    "filter": ["--min_similarity", "0.1", "--output", "OUT"],
    "filter --dry_run": ["--min_similarity", "0.1", "--dry_run"],
    "export": ["--format", "laion", "--output", "OUT"],
    "search": ["--text", "a star"],
    "classify": ["--labels", "red,green", "--output", "OUT"],
}


def without_success(root):
    (root / "_SUCCESS").unlink()


def without_record(root):
    (root / "run.json").unlink()


def bare(root):
    without_success(root)
    without_record(root)


def without_a_file(root):
    (root / "embeddings" / "unit-1.parquet").unlink()


def with_a_file_of_another_run(root):
    data = (root / "embeddings" / "unit-0.parquet").read_bytes()
    (root / "embeddings" / "other.parquet").write_bytes(data)


def with_a_shorter_file(root):
    path = root / "embeddings" / "unit-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def without_rejects(root):
    (root / "rejects" / "unit-0.parquet").unlink()


def with_counts_of(counts):
    def change(root):
        (root / "run.json").write_text(json.dumps({"counts": counts}))

    return change


BREAKAGES = [
    (without_success, "there is no _SUCCESS"),
    (without_record, "there is no run.json"),
    (bare, "there is no run.json"),
    (without_a_file, "run.json counts 4 rows in embeddings/ and its files hold 2"),
    (with_a_file_of_another_run, "run.json counts 4 rows in embeddings/ and its files hold 6"),
    (with_a_shorter_file, "run.json counts 4 rows in embeddings/ and its files hold 3"),
    (without_rejects, "run.json counts 1 rows in rejects/ and its files hold 0"),
    (with_counts_of({}), "run.json counts no rows in embeddings/"),
    (with_counts_of({"embedded": 4}), "run.json counts no rows in rejects/"),
    (with_counts_of({"embedded": 400, "rejected": 1}), "run.json counts 400 rows"),
]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take longer than all else here."""
    for name in ("bars", "curve"):
        monkeypatch.setattr(plots, name, lambda *arguments, **settings: "")


@pytest.fixture
def whole(tmp_path):
    return write_scored(tmp_path / "run", [ROWS[:2], ROWS[2:]], rejects=[{"reason": "not_found"}])


def run(root, command, *more):
    output = str(root.parent / "out")
    flags = [output if flag == "OUT" else flag for flag in COMMANDS[command]]
    return cli.main([command.split()[0], "--input", str(root), *flags, *more])


def test_whole_run_is_taken(whole):
    assert what_is_missing(open_tables(str(whole))) is None
    assert open_whole(str(whole), False).counts["embedded"] == 4


@pytest.mark.parametrize("change, told", BREAKAGES)
def test_what_is_missing_is_told_and_may_be_allowed(whole, change, told):
    change(whole)
    with pytest.raises(IncompleteRunError, match="pass `allow_incomplete`") as error:
        open_whole(str(whole), False)
    assert told in str(error.value) and "run `embed` again" in str(error.value)
    assert open_whole(str(whole), True).embeddings


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change, told", [BREAKAGES[0], BREAKAGES[2], BREAKAGES[3]])
def test_commands_refuse_what_is_not_whole_and_write_nothing(whole, capsys, command, change, told):
    change(whole)
    assert run(whole, command) == 2
    error = capsys.readouterr().err
    assert told in error and "`--allow_incomplete`" in error and error.count("\n") == 1
    assert not (whole.parent / "out").exists()


@pytest.mark.parametrize("command", ["filter", "filter --dry_run", "export"])
def test_commands_take_it_where_that_is_asked_for(whole, capsys, command):
    without_a_file(whole)
    assert run(whole, command, "--allow_incomplete") == 0
    assert "2" in capsys.readouterr().out


@pytest.mark.parametrize("change, told", BREAKAGES)
def test_page_of_such_a_run_says_so(whole, change, told):
    change(whole)
    page = whole.parent / "page.html"
    assert cli.main(["report", "--input", str(whole), "--output", str(page)]) == 0
    assert "This run is not whole:" in page.read_text() and told in page.read_text()


def test_page_of_a_whole_run_says_nothing_of_it(whole):
    page = whole.parent / "page.html"
    assert cli.main(["report", "--input", str(whole), "--output", str(page)]) == 0
    assert "not whole" not in page.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_advice_about_a_damaged_unit_is_one(whole, capsys, command):
    path = whole / "embeddings" / "unit-1.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert run(whole, command) == 1
    error = capsys.readouterr().err
    assert f"{path} is damaged (" in error and "; remove it and run `embed` again\n" in error
