"""Pipelines that others build: from the docs, with formats and columns from outside."""

import json
import os
import re

import pyarrow.dataset as ds
import pytest
from apache_beam.runners.portability import local_job_service

import forked
from embedding_runs import run, write_manifest
from making import ROOT, encode_image, make_image
from outside import ASPECT, LINES
from pipelines import cli, register_format, register_image_column
from pipelines.images import columns
from pipelines.manifests import formats
from pipelines.sample import write_sample
from pipelines.samples.rows import SampleConfig
from schemas.embeddings import embeddings_schema

GUIDE = (ROOT / "docs" / "guides" / "own-pipelines.md").read_text(encoding="utf-8")
PIPELINES = [
    block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "beam.P" in block
]
TWO_PROCESSES = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")


@pytest.fixture
def from_outside(monkeypatch):
    monkeypatch.setattr(formats, "_FORMATS", dict(formats._FORMATS))
    monkeypatch.setattr(columns, "_added", {})
    register_format(LINES)
    register_image_column(ASPECT)


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_sample(SampleConfig(12), tmp_path / "data", "parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_guide_has_its_pipelines():
    assert len(PIPELINES) == 2


def test_first_pipeline_of_the_guide_counts_what_fits(here):
    exec(PIPELINES[0], {})
    (count,) = (path.read_text().strip() for path in here.glob("kept*"))
    assert 6 <= int(count) <= 12


def test_second_pipeline_of_the_guide_writes_tables_that_commands_read(here, capsys):
    exec(PIPELINES[1], {})
    table = ds.dataset(here / "run" / "embeddings").to_table()
    assert table.num_rows == 12 and table.schema.remove_metadata() == embeddings_schema(128)
    flags = ["--input", str(here / "run"), "--min_similarity", "0", "--dry_run"]
    assert cli.main(["filter", *flags]) == 2
    assert cli.main(["filter", *flags, "--allow_incomplete"]) == 0


@pytest.mark.parametrize("workers", [(), TWO_PROCESSES], ids=["in process", "two processes"])
def test_format_and_column_from_outside_reach_the_workers(
    tmp_path, model_dir, from_outside, workers, monkeypatch
):
    monkeypatch.setattr(local_job_service, "subprocess", forked.as_subprocess())
    path = [str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))  # where workers find the module
    lines = []
    for number in range(5):
        image = make_image(60 + number, 30, seed=number)
        (tmp_path / f"{number}.png").write_bytes(encode_image(image))
        lines.append(f"{number}.png a red circle number {number}")
    (tmp_path / "m.lst").write_text("\n".join(lines))
    flags = ("--device", "cpu", "--precision", "fp32") if workers else ()
    assert run(tmp_path / "m.lst", tmp_path / "out", model_dir, *flags, *workers) == 0
    table = ds.dataset(tmp_path / "out" / "embeddings").to_table().sort_by("source_row")
    assert table["aspect"].to_pylist() == [(60 + number) / 30 for number in range(5)]
    assert table.schema.names.index("aspect") == table.schema.names.index("sha256") + 1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["fingerprint"]["image_columns"] == ["aspect"]


def test_run_without_the_column_does_not_go_on_in_the_output(
    tmp_path, model_dir, from_outside, monkeypatch, capsys
):
    manifest = write_manifest(tmp_path / "data", 4)
    assert run(manifest, tmp_path / "out", model_dir) == 0
    monkeypatch.setattr(columns, "_added", {})
    assert run(manifest, tmp_path / "out", model_dir) == 2
    assert "begun with image_columns ['aspect'], this run has None" in capsys.readouterr().err


def test_names_that_are_taken_are_refused(from_outside):
    for form in (LINES.__class__("csv", (), LINES.plan, LINES.read),
                 LINES.__class__("own", (".csv",), LINES.plan, LINES.read)):  # fmt: skip
        with pytest.raises(ValueError, match="already"):
            register_format(form)
    for name in ("sha256", "uid", "similarity"):
        with pytest.raises(ValueError, match="choose another name"):
            register_image_column(ASPECT.__class__(ASPECT.field.with_name(name), ASPECT.compute))
    register_format(LINES)  # again does no harm
    register_image_column(ASPECT)
