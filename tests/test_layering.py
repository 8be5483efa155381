"""Holds the house: imports go one way, and torch stays where models are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for package in ("clip_core", "pipelines", "schemas")
    for path in (ROOT / package).glob("*.py")
)
# The entry points and the composite see all stages; the others see records and plain helpers.
STAGES = {"read", "fetch", "decode", "prepare", "encode", "score", "write"}
ENTRY_POINTS = {
    "check", "classify", "cli", "convert", "demo", "embed", "embed_rows", "export", "filter",
    "pretrain", "report", "sample", "search", "verify",
}  # fmt: skip
TORCH_ALLOWED = {"encode", "pretrain"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_names(path):
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_module_imports_only_what_its_place_allows(path):
    found = top_names(path)
    if path.parent.name == "clip_core":
        assert not found & {"pipelines", "schemas", "apache_beam", "pyarrow"}
    if path.parent.name == "schemas":
        assert not found & {"pipelines", "clip_core", "apache_beam", "torch", "numpy"}
    if path.parent.name == "pipelines" and path.stem not in TORCH_ALLOWED:
        assert "torch" not in found


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_import_each_other(stage):
    found = set(imports(ROOT / "pipelines" / f"{stage}.py"))
    others = {f"pipelines.{name}" for name in (STAGES | ENTRY_POINTS) - {stage}}
    assert not found & others


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    "module",
    ["clip_core", "clip_core.tokenizer", "pipelines", "pipelines.cli", "pipelines.sample"]
    + ["pipelines.images.decode_worker", "pipelines.images.decode_pool"],
)
def test_light_modules_import_neither_torch_nor_beam(module):
    code = f"import sys, {module}; assert not {{'torch', 'apache_beam'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
