"""The graph of `embed` is one straight line, and what it loses or doubles fails the run."""

import json
import re
import shutil

import apache_beam as beam
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.typehints.typehints import Any, Tuple

from embedding_runs import run, write_manifest
from graphs import element_types
from making import plan
from pipelines.encoding import handler, score
from pipelines.records import Chunk, Unit, UnitResult
from pipelines.runs import job, options

PRISM = shutil.which("prism")
RUNNERS = {
    "in process": (),
    "two processes": ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing"),
    "prism": ("--runner", "PrismRunner", "--prism_location", str(PRISM)),
}
here_and_prism = pytest.mark.parametrize(
    "runner",
    [
        "in process",
        pytest.param("prism", marks=pytest.mark.skipif(not PRISM, reason="asks for prism")),
    ],
)


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path / "data", rows=30)


def walk(node):
    return [node, *(deeper for part in node.parts for deeper in walk(part))]


def test_graph_is_one_line_without_grouping_and_with_types(manifest, model_dir, tmp_path):
    flags = [
        "--manifest",
        str(manifest),
        "--output",
        str(tmp_path / "out"),
        "--model",
        str(model_dir),
    ]
    config, _ = options.parse(flags)
    found = plan(manifest)
    models = job.load_run_models(config)
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    layout = job.layout_of(found, models, (), config)
    rows = job.embed_rows_of(models, (), config)
    job.build(pipeline, job.reader_of(rows, layout, found.units), rows, layout)
    leaves = [node for node in walk(pipeline.transforms_stack[0]) if not node.parts]
    names = [node.full_label for node in leaves]
    behind = names.index("ReadManifest/Read")
    assert not any("GroupByKey" in name or "Flatten" in name for name in names[behind:])
    line = [name.rpartition("/")[2] for name in names[behind:]]
    assert [part for part in line if part in ("Read", "Prepare", "Score", "Write")] == [
        "Read", "Prepare", "Score", "Write",
    ]  # fmt: skip
    for before, node in zip(leaves[behind:], leaves[behind + 1 :], strict=False):
        (given,), (made,) = list(node.inputs), list(before.outputs.values())
        assert given is made  # one output, one reader
    types = [list(node.outputs.values())[0].element_type for node in leaves[behind:]]
    assert types[0] == Chunk and types[-1] == UnitResult
    assert Any not in element_types(pipeline).values()
    assert Tuple[Unit, ...] in [list(n.outputs.values())[0].element_type for n in leaves[:behind]]


class Faulty(beam.DoFn):
    """Loses or doubles the middle chunk of each unit."""

    def __init__(self, copies):
        self.copies = copies

    def process(self, chunk):
        chunk.similarities = tuple(score.similarity(found) for found in chunk.vectors)
        for _ in range(self.copies if chunk.number == 1 else 1):
            yield chunk


@here_and_prism
@pytest.mark.parametrize(
    ("copies", "message"), [(0, "did not come"), (2, "came twice|came after the end")]
)
def test_lost_or_doubled_chunk_fails_and_nothing_of_its_unit_is_visible(
    manifest, model_dir, tmp_path, monkeypatch, capsys, runner, copies, message
):
    monkeypatch.setattr(
        score.ScorePairs,
        "expand",
        lambda self, chunks: chunks | beam.ParDo(Faulty(copies)).with_output_types(Chunk),
    )
    flags = ("--rows_per_unit", "10", "--batch_size", "4", "--device", "cpu", "--precision", "fp32")
    assert run(manifest, tmp_path / "out", model_dir, *flags, *RUNNERS[runner]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("clip-beam embed: ") and re.search(message, said)
    for path in (tmp_path / "out").glob("*/*.parquet"):  # one that was whole before the double came
        rows = pq.read_table(path)["source_row"].to_pylist()
        assert copies == 2 and len(rows) == len(set(rows))
    assert (
        not list((tmp_path / "out").glob("*/.*")) and not (tmp_path / "out" / "_SUCCESS").exists()
    )


@here_and_prism
def test_every_runner_gives_the_same_tables_and_says_nothing_of_its_own(
    manifest, model_dir, tmp_path, runner, caplog
):
    flags = ("--rows_per_unit", "7", "--device", "cpu", "--precision", "fp32")
    assert run(manifest, tmp_path / "one", model_dir, *flags, "--batch_size", "3") == 0
    assert run(manifest, tmp_path / "two", model_dir, *flags, *RUNNERS[runner]) == 0
    assert not caplog.messages
    columns = ["uid", "source_row", "sha256", "text"]
    one, two = (
        ds.dataset(tmp_path / name / "embeddings").to_table(columns=columns).sort_by("source_row")
        for name in ("one", "two")
    )
    assert one.equals(two) and one.num_rows
    counts = [json.loads((tmp_path / n / "run.json").read_text())["counts"] for n in ("one", "two")]
    assert counts[0] == counts[1]


def test_first_file_is_there_long_before_the_end(manifest, model_dir, tmp_path, monkeypatch):
    """With units of three rows, the first files are there while later batches are encoded."""
    seen = []

    whole = handler.encode_pairs

    def looking(*arguments):
        seen.append(len(list((tmp_path / "out").glob("embeddings/*.parquet"))))
        return whole(*arguments)

    monkeypatch.setattr(handler, "encode_pairs", looking)
    flags = ("--rows_per_unit", "3", "--batch_size", "3")
    assert run(manifest, tmp_path / "out", model_dir, *flags) == 0
    assert seen[0] == 0 and seen[-1] >= len(seen) // 3
