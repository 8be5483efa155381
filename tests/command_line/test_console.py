"""What a command finds at its start: standard streams that are closed, consoles of any encoding."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from scored_runs import write_scored

CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
WRITES_A_TABLE = """
import os, subprocess, sys
from pipelines.command_line import exits
def main():
    print("said")
    print("complained", file=sys.stderr)
    with open(sys.argv[1], "wb") as table:
        table.write(b"table")
        table.flush()
        os.write(2, b"a line of a library")
        subprocess.run(["sh", "-c", "echo child; echo child >&2"], check=True)
    return 0
exits.run(main)
"""


@pytest.fixture
def scored_run(tmp_path):
    return write_scored(tmp_path / "run", [[{"uid": "a"}, {"uid": "b"}]])


def run(*arguments, closed="", **settings):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, **settings)


@pytest.mark.parametrize("closed", CLOSED)
def test_nothing_lands_in_a_file_that_took_the_place_of_a_closed_stream(tmp_path, closed):
    done = run("-c", WRITES_A_TABLE, tmp_path / "table", closed=closed)
    assert done.returncode == 0
    assert (tmp_path / "table").read_bytes() == b"table"
    heard = b"said" in done.stdout, b"complained" in done.stderr
    assert heard == (">&-" not in closed.split(), "2>&-" not in closed)


@pytest.mark.parametrize("closed", CLOSED)
def test_command_works_with_closed_streams(tmp_path, scored_run, closed):
    flags = ["--input", scored_run, "--output", tmp_path / "kept", "--min_similarity", "-1"]
    assert run("-m", "pipelines.cli", "filter", *flags, closed=closed).returncode == 0
    assert (tmp_path / "kept" / "run.json").exists()


@pytest.mark.parametrize("command", ["embed", "check", "demo", "classify"])
def test_machine_without_temporary_directory_is_told_in_one_sentence(command):
    code = (
        "import tempfile; tempfile._candidate_tempdir_list = lambda: []\n"
        "from pipelines import cli; cli.console_script()"
    )
    flags = ["--manifest", "m.csv", "--output", "none/out", "--model", "tiny", "--labels", "a"]
    done = run("-c", code, command, *(flags if command != "demo" else ["--output", "none/out"]))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"No usable temporary directory" in done.stderr and b"TMPDIR" in done.stderr
    assert not (ROOT / "none").exists()  # it is said before anything is written


@pytest.mark.parametrize("command", ["embed", "check"])
def test_so_is_it_where_a_command_is_started_as_a_module(command):
    code = (
        "import runpy, sys, tempfile; tempfile._candidate_tempdir_list = lambda: []\n"
        f"runpy.run_module('pipelines.{command}', run_name='__main__', alter_sys=True)"
    )
    done = run("-c", code, "--manifest", "m.csv", "--output", "none/out", "--model", "tiny")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(f"clip-beam {command}: ".encode()) and b"TMPDIR" in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252:strict", "utf-8"])
@pytest.mark.parametrize("text", ["…", "目录", "name-\udce9"])
def test_what_a_console_cannot_show_is_escaped(encoding, text):
    code = f"from pipelines.command_line import exits; exits.run(lambda: print({text!r}) or 0)"
    done = run("-c", code, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    codec = encoding.partition(":")[0]
    assert done.stdout.rstrip() == text.encode(codec, "backslashreplace")


def test_path_that_a_console_cannot_show_ends_no_command(tmp_path, scored_run):
    flags = ["--input", scored_run, "--output", tmp_path / "目录", "--min_similarity", "-1"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = run("-m", "pipelines.cli", "filter", *flags, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u76ee\u5f55" in done.stdout
