"""All commands in every surrounding that a process can have: the same status and the same tables.

Each surrounding is one process, in which all commands run; it is forked unless packages are to be
found at its start. A directory without the bits for writing refuses root nothing, so `/proc` stands
for one: nobody can write a file there.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.dataset as ds
import pytest

import forked
from making import ROOT, encode_image, make_image

# What a new process does of itself before a program begins.
FORKED = """
import os, sys
closed, umask = sys.argv.pop(1), sys.argv.pop(1)
os.umask(int(umask, 8))
for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    getattr(sys, name).reconfigure(encoding=encoding, errors=errors)
for number in map(int, closed):
    os.close(number)
    name = ("stdin", "stdout", "stderr")[number]
    setattr(sys, name, None)
    setattr(sys, f"__{name}__", None)
"""
PROGRAM = """
import json, sys
import clip_beam
from pipelines import cli
from pipelines.command_line import exits
root, out = sys.argv[1:]
run = ["--input", out + "/run"]
job = ["--manifest", root + "/m.jsonl", "--output", out + "/run", "--model", "tiny"]
plot = ["--truth_column", "kind", "--confusion_plot", out + "/plot.png"]
LINES = [
    ["sample", "--output", out + "/sample", "--rows", "3"],
    ["convert", "--model", "tiny", "--output", out + "/model"],
    ["verify", "--model", "tiny"],
    ["check", *job],
    ["embed", *job, "--keep_columns", "kind"],
    ["filter", *run, "--output", out + "/kept", "--top_fraction", "0.5"],
    ["classify", *run, "--output", out + "/labels", "--trust_run", "--labels", "red,猫", *plot],
    ["search", *run, "--text", "a cat", "--trust_run", "--html", out + "/found.html"],
    ["report", *run, "--output", out + "/page.html"],
    ["export", *run, "--output", out + "/export", "--format", "tables"],
]

def main():
    statuses = {line[0]: cli.main(line) for line in LINES}
    with open(out + "/statuses", "w") as file:
        json.dump(statuses, file)
    return max(statuses.values())

exits.run(main)
"""
COMMANDS = ("sample", "convert", "verify", "check", "embed",
            "filter", "classify", "search", "report", "export")  # fmt: skip
TABLES = {
    "sample": "sample",
    "embed": "run/embeddings",
    "filter": "kept/embeddings",
    "classify": "labels/labels",
    "export": "export/scores",
}
FILES = {"convert": "model/open_clip_model.safetensors", "classify": "plot.png"}
FOREIGN = "raise AssertionError('a package of another project')\n"

BACKEND = "module://matplotlib_inline.backend_inline"  # of a notebook
NAMES = ("pipelines", "schemas", "clip_core")
# Several at once where none can hide what another does: the statuses and tables are in files.
SURROUNDINGS = {
    "as usual": {},
    "closed stdout, TeX in plots, no home, private files": {
        "closed": "1", "rc": "text.usetex: True\n", "HOME": None, "umask": 0o077},
    "closed stderr, packages of the same names, unwritable directory": {
        "closed": "2", "packages": NAMES, "cwd": "/proc"},
    "closed stdout and stderr": {"closed": "12"},
    "ASCII console, a notebook's backend": {"PYTHONIOENCODING": "ascii", "MPLBACKEND": BACKEND},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three images with captions that not every console can show."""
    root = tmp_path_factory.mktemp("surroundings")
    lines = []
    for number, text in enumerate(("a red cat", "eine Kätze …", "一只猫")):
        (root / f"{number}.png").write_bytes(encode_image(make_image(seed=number)))
        lines.append({"url": f"{number}.png", "text": text, "kind": ("red", "猫")[number % 2]})
    (root / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def run_all(root, out, *, closed="", umask=0o022, cwd=None, rc="", packages=(), **changed):
    """Runs every command in one process; returns what went wrong with the process itself."""
    for folder in (out, out / "cwd"):
        folder.mkdir()
    (out / "rc").write_text(rc)
    for name in packages:
        (out / "packages" / name).mkdir(parents=True)
        (out / "packages" / name / "__init__.py").write_text(FOREIGN)
    path = f"{out / 'packages'}:{ROOT}"
    settings = {"PYTHONPATH": path, "MATPLOTLIBRC": str(out / "rc"), "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in {**os.environ, **settings, **changed}.items() if v is not None}
    program = [str(root), str(out)]
    settings = {
        "cwd": cwd or out / "cwd",
        "env": environment,
        "capture_output": True,
        "timeout": 300,
    }
    if packages:
        shell = 'exec "$@" ' + " ".join(f"{number}>&-" for number in closed)
        command = ["sh", "-c", shell, "sh", sys.executable, "-c", PROGRAM, *program]
        done = subprocess.run(command, umask=umask, **settings)
    else:
        command = [sys.executable, "-c", FORKED + PROGRAM, closed, oct(umask), *program]
        done = forked.run(command, **settings)
    is_clean = done.returncode == 0 and b"Traceback" not in done.stderr
    return "" if is_clean else done.stderr.decode(errors="replace")


def results(out):
    """Returns for each command its status, its table and its file."""
    statuses = json.loads((out / "statuses").read_text()) if (out / "statuses").exists() else {}
    found = {name: {"status": statuses.get(name)} for name in COMMANDS}
    for name, place in TABLES.items():
        found[name]["table"] = ds.dataset(out / place, ignore_prefixes=["_", "."]).to_table()
    for name, place in FILES.items():
        found[name]["file"] = (out / place).read_bytes()
    return found


@pytest.mark.timeout(300)  # for a busy machine
def test_surroundings_change_neither_status_nor_tables(root):
    folders = {name: root / f"目录 {name}" for name in SURROUNDINGS}
    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(lambda name: run_all(root, folders[name], **SURROUNDINGS[name]), folders)
        assert dict(zip(folders, ends, strict=True)) == dict.fromkeys(folders, "")
    usual = results(folders["as usual"])
    assert {name: about["status"] for name, about in usual.items()} == dict.fromkeys(COMMANDS, 0)
    assert all(about["table"].num_rows for about in usual.values() if "table" in about)
    for name, out in folders.items():
        differing = [command for command, found in results(out).items() if found != usual[command]]
        assert (name, differing) == (name, [])
        assert (out / "run" / "_SUCCESS").exists() and "<svg" in (out / "page.html").read_text()
        assert {path.stat().st_mode & 0o777 for path in written(out)} == {
            0o666 & ~SURROUNDINGS[name].get("umask", 0o022)
        }


def written(out):
    """Returns the files that the commands wrote."""
    ours = {out / "rc", *(out / "packages").rglob("*")}
    return [path for path in out.rglob("*") if path.is_file() and path not in ours]


def test_nobody_can_write_in_the_directory_that_stands_for_such():
    with pytest.raises(OSError):
        (Path("/proc") / "written-by-a-test").write_text("")


@pytest.mark.parametrize("command", COMMANDS)
def test_directory_that_was_removed_is_told_in_one_sentence(tmp_path, command):
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, "-m", "clip_beam", command],
        cwd=tmp_path / "cwd",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "clip-beam: the working directory was removed; change to another one\n"
