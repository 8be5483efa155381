"""Holds the house: rooms of some files, small files, and light modules that stay light.

What may import what, `lint-imports` checks; but it knows packages only.
"""

import ast
import subprocess
import sys

import pytest

from helpers import ROOT
from pipelines.cli import COMMANDS

ROOMS = sorted({path.parent for name in ("clip_core", "pipelines", "schemas", "tests")
                for path in (ROOT / name).rglob("*.py")})  # fmt: skip
FILES = [path for room in ROOMS for path in sorted(room.glob("*.py"))]


def of_root(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("room", ROOMS, ids=of_root)
def test_room_holds_some_files(room):
    limit = 14 if of_root(room).startswith("tests") else 13
    if room != ROOT / "pipelines":
        assert len(list(room.glob("*.py"))) <= limit


def test_pipelines_itself_holds_the_commands_and_what_passes_between_rooms():
    found = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    assert found == {*COMMANDS, "cli", "records", "__init__"}


@pytest.mark.parametrize("path", FILES, ids=of_root)
def test_files_stay_small(path):
    limit = 430 if of_root(path).startswith("tests") else 300
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if room.parent == ROOT / "pipelines"], ids=of_root
)
def test_no_file_repeats_the_name_of_its_room(room):
    assert room.name not in {path.stem for path in room.glob("*.py")}


def imported(path):
    """Returns the modules that a file imports."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    nodes = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    return {getattr(node, "module", None) or node.names[0].name for node in nodes}


def test_nothing_imports_the_module_that_stands_before_the_packages():
    own = [path for path in FILES if not of_root(path).startswith("tests")]
    assert [of_root(path) for path in own if "clip_beam" in imported(path)] == []
    assert len((ROOT / "clip_beam.py").read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize(
    "module",
    [
        "clip_beam",
        "clip_core",
        "clip_core.tokenizer",
        "pipelines",
        "pipelines.cli",
        "pipelines.sample",
    ]
    + ["pipelines.images.decode_worker", "pipelines.images.decode_pool"],
)
def test_light_modules_import_neither_torch_nor_beam(module):
    code = f"import sys, {module}; assert not {{'torch', 'apache_beam'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Rooms whose messages name parameters, which the command line turns into flags for the shell.
WITHOUT_FLAGS = ("curation", "output")


@pytest.mark.parametrize("room", WITHOUT_FLAGS)
def test_messages_of_a_room_name_parameters_and_no_flags(room):
    paths = sorted((ROOT / "pipelines" / room).rglob("*.py"))
    found = [f"{path.name}: {text}" for path in paths for text in texts_of(path) if "`--" in text]
    assert paths and found == []


def texts_of(path):
    """Returns the strings of a file, but for the help of the flags that it adds."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    adding = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    of_flags = {id(node) for call in adding for node in ast.walk(call)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in of_flags
    ]
