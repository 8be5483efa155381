"""What a command finds at its start: standard streams that are closed, consoles of any encoding."""

import json
import os
import subprocess
import sys

import pytest

from making import ROOT
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
# Each command is a process of its own, forked where torch and Beam, which take seconds to import, are
# there but for the module that asks for the directory.
WITHOUT_TEMPORARY_DIRECTORY = """
import gc, json, os, runpy, sys, tempfile
import apache_beam, torch
from pipelines import cli
tempfile._candidate_tempdir_list = lambda: []
try:
    import apache_beam.ml.inference
except FileNotFoundError:
    pass
output = ["--output", "none/out"]
job = ["--manifest", "m.csv", *output, "--model", "tiny"]
lines = {"embed": job, "check": job, "demo": output, "classify": [*job, "--labels", "a"],
         "pipelines.embed": job, "pipelines.check": job}
statuses = {}
gc.freeze()
for name, flags in lines.items():
    if child := os.fork():
        statuses[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        continue
    os.dup2(os.open(f"{sys.argv[1]}/{name}", os.O_CREAT | os.O_WRONLY), 2)
    if "." in name:
        sys.argv[1:] = flags
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    sys.argv[1:] = [name, *flags]
    cli.console_script()
print(json.dumps(statuses))
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


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The status and stderr of each command that finds no temporary directory."""
    folder = tmp_path_factory.mktemp("stderr")
    done = run("-c", WITHOUT_TEMPORARY_DIRECTORY, folder)
    statuses = json.loads(done.stdout)
    return {name: (status, (folder / name).read_text()) for name, status in statuses.items()}


@pytest.mark.parametrize("command", ["embed", "check", "demo", "classify"])
def test_machine_without_temporary_directory_is_told_in_one_sentence(ends, command):
    status, said = ends[command]
    assert (status, said.count("\n")) == (2, 1)
    assert "No usable temporary directory" in said and "TMPDIR" in said
    assert not (ROOT / "none").exists()  # it is said before anything is written


@pytest.mark.parametrize("command", ["embed", "check"])
def test_so_is_it_where_a_command_is_started_as_a_module(ends, command):
    status, said = ends[f"pipelines.{command}"]
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"clip-beam {command}: ") and "TMPDIR" in said


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
