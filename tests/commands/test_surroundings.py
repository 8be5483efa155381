"""All commands, whatever surrounds their process: the same status and the same tables."""

import json
import os
import subprocess
import sys

import pyarrow.dataset as ds
import pytest

from helpers import ROOT, encode_image, make_image
from pipelines import cli

COMMANDS = """
import json, sys
from pipelines import cli
from pipelines.command_line import exits
exits.run(lambda: max(cli.main(line) for line in json.loads(sys.argv[1])))
"""
TABLES = ("run/embeddings", "kept/kept", "labels/labels", "export/scores", "sample")
# Several at once, as none has to do with the others.
SURROUNDINGS = {
    "closed stdout, private files, a notebook's backend": {
        "closed": ">&-",
        "umask": 0o077,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    },
    "closed stderr, Latin-1, TeX in plots": {
        "closed": "2>&-",
        "PYTHONIOENCODING": "latin-1",
        "rc": "text.usetex: True\n",
    },
    "closed stdout and stderr, no home, a read-only directory": {
        "closed": ">&- 2>&-",
        "HOME": None,
        "cwd": "/proc",
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory, model_dir):
    """Three images with captions that not every console can show, and a model."""
    root = tmp_path_factory.mktemp("surroundings")
    (root / "model").symlink_to(model_dir)
    lines = []
    for number, text in enumerate(("a red cat", "eine Kätze …", "一只猫")):
        (root / f"{number}.png").write_bytes(encode_image(make_image(seed=number)))
        lines.append({"url": f"{number}.png", "text": text, "kind": ("red", "猫")[number % 2]})
    (root / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def command_lines(root, out):
    """All commands, each after those whose output it reads."""
    run = ["--input", f"{out}/run"]
    job = ["--manifest", f"{root}/m.jsonl", "--output", f"{out}/run", "--model", f"{root}/model"]
    plot = ["--truth_column", "kind", "--confusion_plot", f"{out}/plot.png"]
    labels = ["--labels", "red,猫", *plot]
    return [
        ["check", *job],
        ["embed", *job, "--keep_columns", "kind"],
        ["filter", *run, "--output", f"{out}/kept", "--top_fraction", "0.5"],
        ["classify", *run, "--output", f"{out}/labels", "--trust_run", *labels],
        ["search", *run, "--text", "a cat", "--trust_run", "--html", f"{out}/found.html"],
        ["report", *run, "--output", f"{out}/page.html"],
        ["export", *run, "--output", f"{out}/export", "--format", "tables"],
        ["convert", "--model", f"{root}/model", "--output", f"{out}/model"],
        ["sample", "--output", f"{out}/sample", "--rows", "3"],
    ]


def run_all(root, out, *, closed="", umask=0o022, cwd=None, rc="", **variables):
    """Runs every command in one process; returns its exit status."""
    out.mkdir()
    (out / "matplotlibrc").write_text(rc)
    settings = {"PYTHONPATH": str(ROOT), "MATPLOTLIBRC": str(out / "matplotlibrc"), **variables}
    both = os.environ | settings
    environment = {name: value for name, value in both.items() if value is not None}
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", COMMANDS]
    done = subprocess.run(
        [*command, json.dumps(command_lines(root, out))],
        cwd=cwd or out,
        env=environment,
        umask=umask,
        capture_output=True,
        timeout=300,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done.returncode


def tables(out):
    return [ds.dataset(out / name, ignore_prefixes=["_", "."]).to_table() for name in TABLES]


@pytest.fixture(scope="module")
def usual(root):
    (root / "目录-usual").mkdir()
    for line in command_lines(root, root / "目录-usual"):
        assert cli.main(line) == 0
    return tables(root / "目录-usual")


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_change_neither_status_nor_tables(root, usual, name):
    out = root / f"目录-{name}"
    assert run_all(root, out, **SURROUNDINGS[name]) == 0
    for found, expected in zip(tables(out), usual, strict=True):
        assert found.equals(expected)
    assert (out / "run" / "_SUCCESS").exists() and "<svg" in (out / "page.html").read_text()
    assert (out / "plot.png").read_bytes() == (root / "目录-usual" / "plot.png").read_bytes()
    umask = SURROUNDINGS[name].get("umask", 0o022)
    written = [path for path in out.rglob("*") if path.is_file() and path.name != "matplotlibrc"]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~umask}
