"""What the README says can be typed is typed here."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import duckdb
import pytest

from pipelines import check, cli
from pipelines.engine import beam_options
from pipelines.runs import options
from scored_runs import write_scored

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
STATEMENTS = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    for statement in block.split(";")
    if statement.strip()
]
COMMANDS = [
    line.split("#")[0].replace("$ ", "").strip()
    for line in README.replace("\\\n", "").splitlines()
    if re.match(r" {4}(\$ )?clip-beam ", line)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rows = [{"similarity": n / 100, "text": f"caption {n % 7}"} for n in range(100)]
    rejects = [
        {"reason": "not_found", "stage": "fetch", "source_row": 100 + n, "source": "m"}
        for n in range(3)
    ]
    return write_scored(tmp_path_factory.mktemp("run"), [rows[:50], rows[50:]], rejects=rejects)


def answer(statement, run):
    """Runs a statement in DuckDB; Spark's way to name files is put into DuckDB's."""
    text = re.sub(r"parquet\.`([^`]+)`", r"'\1/*.parquet'", statement).replace("OUTPUT", str(run))
    return duckdb.sql(text).fetchall()


def test_every_statement_is_found():
    assert len(STATEMENTS) == 5
    assert [statement.split(":")[0] for statement in STATEMENTS] == ["-- DuckDB"] * 3 + [
        "-- Spark"
    ] * 2


def test_statements_give_what_their_comments_say(run):
    rejects, best, nearest, captions, together = (answer(text, run) for text in STATEMENTS)
    assert rejects == [("fetch", "not_found", 3)]
    ((source, rows, mean),) = best
    assert source == "/data/manifest.jsonl" and 30 <= rows <= 31 and mean > 0.8
    assert len(nearest) == 10 and nearest[0][1] == pytest.approx(1.0)
    assert [row[1] for row in captions] == [15, 15, 14, 14, 14, 14, 14]
    assert [row[0] for row in together] == list(range(103))
    assert together[-1] == (102, None, "not_found")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: True)
    name, *flags = shlex.split(command)[1:]
    assert name in cli.COMMANDS
    if name == "embed":  # those two go on to Beam's flags
        options.parse(flags)
    elif name == "check":
        options.parse(flags, check.parser())
    else:
        import_module(f"pipelines.{name}").parser().parse_args(flags)
