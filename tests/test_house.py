"""Holds the house: rooms of some files, small files, and light modules that stay light.

What may import what, `lint-imports` checks; but it knows packages only.
"""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from importlib import import_module

import pytest

from making import ROOT
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


LIGHT = (
    "clip_beam",
    "clip_core",
    "clip_core.tokenizer",
    "pipelines",
    "pipelines.cli",
    "pipelines.classify",
    "pipelines.filter",
    "pipelines.report",
    "pipelines.sample",
    "pipelines.search",
    "pipelines.images.decode_worker",
    "pipelines.images.decode_pool",
)


@pytest.fixture(scope="module")
def brought():
    """What of torch and Beam each light module brings, imported one after the other."""
    code = (
        "import json, sys; from importlib import import_module\n"
        "heavy = lambda name: import_module(name) and {'torch', 'apache_beam'} & set(sys.modules)\n"
        "print(json.dumps({name: sorted(heavy(name)) for name in sys.argv[1:]}))"
    )
    command = [sys.executable, "-c", code, *LIGHT]
    return json.loads(subprocess.run(command, check=True, cwd=ROOT, capture_output=True).stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_neither_torch_nor_beam(module, brought):
    assert brought[module] == []


# What the parsers of commands are made of.
OF_FLAGS = "pipelines/command_line/"
_FLAG = re.compile(r"(?<![\w-])--([a-z_]+)(?![\w-])|`--(?=$|`)")  # or one that is put in later


def may_name_flags(path):
    name = of_root(path)
    is_command = path.parent == ROOT / "pipelines"
    return is_command or name.startswith(OF_FLAGS) or name.endswith("flags.py")


@pytest.fixture(scope="module")
def flags():
    """Returns the flags of all commands, and nothing, which is a name that is put in later."""
    parsers = [import_module(f"pipelines.{command}").parser() for command in COMMANDS]
    return {""} | {flag.lstrip("-") for parser in parsers for flag in parser._option_string_actions}


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if not of_root(room).startswith("tests")], ids=of_root
)
def test_rooms_name_parameters_and_no_flags(room, flags):
    """The command line turns them into flags for the shell. Flags of Beam have no parameter."""
    paths = [path for path in sorted(room.glob("*.py")) if not may_name_flags(path)]
    found = [f"{path.name}: {text}" for path in paths for text in texts_of(path)
             if flags.intersection(_FLAG.findall(text))]  # fmt: skip
    assert found == []


def texts_of(path):
    """Yields the strings and comments of a file, but for those of the flags that it adds."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    adding = [call for call in calls if called(call) in ("add", "add_argument", "Parser")]
    of_flags = {id(node) for call in adding for node in ast.walk(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in of_flags:
            yield str(node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))
