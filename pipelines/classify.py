"""`clip-beam classify`: zero-shot labels for the images of a run or a manifest, from prompts.

OUTPUT/embedded                what `embed` makes of a manifest, where one is given
OUTPUT/labels/<unit>.parquet   uid, source, source_row, labels and probabilities, likeliest first
OUTPUT/accuracy.json           where the truth is known
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from clip_core import zero_shot
from pipelines import process, storage
from pipelines.accuracy import Accuracy
from pipelines.arguments import WRONG_USAGE, Parser
from pipelines.extras import MissingExtraError, require
from pipelines.label_tables import labels_batch, labels_file
from pipelines.over_files import over_files, parse_with_beam
from pipelines.overwriting import make_room
from pipelines.plots import heat_map
from pipelines.progress import meter
from pipelines.query_model import add_model_flags, load_query_model
from pipelines.scored_tables import (
    FINGERPRINT_KEY,
    ScoredTables,
    ScoredTablesError,
    check_columns,
    embedding_matrix,
    open_tables,
    row_count,
)
from pipelines.truth import TruthError, read_truth
from schemas.labels import KEY_NAMES

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from clip_core.loading import ClipModel

FAILED = 1
LABELS = "labels"
EMBEDDED = "embedded"
TOP_K = 5
BATCH_ROWS = 2048  # times a thousand labels: 8 MB of logits
MAX_TEXT_BYTES = 16 << 20  # of a file of labels or templates
PLOT_FORMATS = (".png", ".svg")
_TEMPLATES = {"none": zero_shot.BARE_TEMPLATES, "simple": zero_shot.SIMPLE_TEMPLATES}


@dataclass(frozen=True)
class Job:
    """A classification that has passed every check.

    Attributes:
        weights: [labels, dim] float32.
        logit_scale: of the model, as a factor.
        truth: class by uid from a file; None when `truth_column` is a column of the embeddings.
    """

    tables: ScoredTables
    output: str
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    weights: np.ndarray
    logit_scale: float
    top_k: int
    truth_column: str | None
    truth: Mapping[str, str] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    flags = parser()
    options, rest = flags.parse_known_args(argv)
    if options.manifest:
        return _embed_first(options, rest) or _classify(options, None)
    return _classify(*parse_with_beam(flags, argv))


def _classify(options: argparse.Namespace, beam_options: PipelineOptions | None) -> int:
    try:
        job = prepare(options)
    except (ValueError, OSError, MissingExtraError) as error:
        return _fail(str(error), WRONG_USAGE)
    try:
        accuracy = run(job, beam_options)
        if job.truth_column:
            _finish_accuracy(accuracy, job, options.confusion_plot)
    except (ScoredTablesError, TruthError, OSError) as error:
        return _fail(str(error), FAILED)
    print(f"output     {options.output}")
    return 0


def _embed_first(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Embeds the manifest into OUTPUT/embedded, which becomes the input; returns the exit status.

    Args:
        rest: flags of `embed`.
    """
    from pipelines import embed

    try:
        _prompts(options)  # what can be wrong is found before the long work
        if not options.model:
            raise ValueError("expected `--model` with `--manifest`, got none; name one")
    except (ValueError, OSError, MissingExtraError) as error:
        return _fail(str(error), WRONG_USAGE)
    options.input = storage.join(options.output, EMBEDDED)
    own = ("model", "arch", "activation", "vocab", "device")
    given = {name: getattr(options, name) for name in own if getattr(options, name)}
    argv = [part for name, value in given.items() for part in (f"--{name}", value)]
    argv += [part for uri in options.manifest for part in ("--manifest", uri)]
    return embed.main([*argv, "--output", options.input, *rest])


def parser() -> Parser:
    """Builds the command line of `clip-beam classify`."""
    flags = Parser(prog="clip-beam classify", description="Label images by prompts, zero-shot.")
    add = flags.add_argument
    rows = flags.add_mutually_exclusive_group(required=True)
    rows.add_argument("--input", metavar="URI", help="output directory of `clip-beam embed`")
    rows.add_argument(
        "--manifest",
        action="append",
        metavar="URI",
        help="rows to embed first, into OUTPUT/embedded; further flags are those of `embed`",
    )
    add("--output", required=True, metavar="URI", help="directory to write")
    add("--labels", required=True, metavar="FILE|A,B,C", help="classes, one a line in a file")
    add(
        "--templates",
        default="simple",
        metavar="FILE|none|simple",
        help="prompts with {} where the label goes, one a line; their mean is taken [simple]",
    )
    add("--top_k", type=int, default=TOP_K, help=f"labels to write for each row [{TOP_K}]")
    add("--truth_column", metavar="NAME", help="true class: a kept column, or one of `--truth`")
    add("--truth", metavar="URI", help="file with `uid` and the true class")
    add("--confusion_plot", metavar="URI", help="PNG or SVG of which class is taken for which")
    add("--overwrite", action="store_true", help="remove the labels that the output holds")
    add_model_flags(flags)
    return flags


def prepare(options: argparse.Namespace) -> Job:
    """Checks everything that can be checked before the work.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    labels, templates = _prompts(options)
    tables = open_tables(options.input).of_model(options.model_name)
    columns = [tables.column("image_embedding")]
    if options.truth_column and not options.truth:
        columns.append(options.truth_column)
    check_columns(tables.schema, columns, tables.embeddings[0])
    truth = read_truth(options.truth, options.truth_column) if options.truth else None
    make_room(options.output, [LABELS], options.overwrite)
    model = load_query_model(tables, options)
    return Job(
        tables=tables,
        output=storage.normalize(options.output),
        labels=labels,
        templates=templates,
        weights=zero_shot.zero_shot_weights(model, labels, templates),
        logit_scale=_logit_scale(model),
        top_k=min(options.top_k, len(labels)),
        truth_column=options.truth_column,
        truth=truth,
    )


def run(job: Job, options: PipelineOptions | None) -> Accuracy:
    """Labels every row, a file at a time; returns what the truth says, if there is any."""
    accuracy = Accuracy(job.labels)
    files = job.tables.embeddings
    rows = row_count(files)
    with meter(rows, "rows") as count:
        found = over_files(partial(label_file, job), files, options)
        for uri, part in zip(files, found, strict=True):
            accuracy.merge(part)
            count(row_count([uri]))
    print(f"rows       {rows}")
    print(f"labels     {len(job.labels)}, by {len(job.templates)} prompts each")
    return accuracy


def label_file(job: Job, uri: str) -> Accuracy:
    """Writes the labels of the rows of one file; returns what the truth says of them."""
    accuracy = Accuracy(job.labels)
    metadata = {
        FINGERPRINT_KEY: json.dumps(dict(job.tables.fingerprint), sort_keys=True),
        b"clip_beam.labels": json.dumps(job.labels),
        b"clip_beam.templates": json.dumps(job.templates),
    }
    data = labels_file(_labelled(uri, job, accuracy), metadata)
    storage.write_atomically(storage.join(job.output, LABELS, storage.base_name(uri)), data)
    return accuracy


def read_lines(value: str, what: str) -> tuple[str, ...]:
    """Returns the lines of a file, or the parts of a list with commas where there is no such file.

    Raises:
        ValueError: if it looks like the name of a file that is not there, or the file is no text.
    """
    if storage.exists(value):
        try:
            data = storage.read_whole(value, MAX_TEXT_BYTES)
            lines = data.decode("utf-8-sig").splitlines()
        except storage.TooLargeError as error:
            raise ValueError(f"expected less of {what} in {value!r}, got {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"expected {what} as UTF-8 text in {value!r}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    if "/" in value or value.endswith(".txt"):
        raise ValueError(f"there is no file {value!r}; expected one with {what}, one a line")
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _labelled(uri: str, job: Job, accuracy: Accuracy) -> Iterator[pa.RecordBatch]:
    columns = [*KEY_NAMES, "image_embedding"]
    if job.truth_column and job.truth is None:
        columns.append(job.truth_column)
    for batch in job.tables.batches(uri, columns, BATCH_ROWS):
        images = embedding_matrix(batch.column("image_embedding"))
        logits = zero_shot.zero_shot_logits(images, job.weights, job.logit_scale)
        if job.truth_column:
            accuracy.add(logits, _truth(batch, job))
        yield labels_batch(batch, logits, job.labels, job.top_k)


def _truth(batch: pa.RecordBatch, job: Job) -> list[str | None]:
    if job.truth is not None:
        return [job.truth.get(uid) for uid in batch.column("uid").to_pylist()]
    values = batch.column(job.truth_column).to_pylist()
    return [None if value is None else str(value) for value in values]


def _finish_accuracy(accuracy: Accuracy, job: Job, plot: str | None) -> None:
    """Prints and writes the accuracy.

    Raises:
        TruthError: if the truth of no row is among the labels.
    """
    if not accuracy.rows:
        raise TruthError(
            f"no row has one of the labels in {job.truth_column!r}; the labels were written, name "
            "the classes in `--labels` as the truth spells them"
        )
    print(accuracy.table())
    print(f"top-1      {accuracy.top_1:.3f}")
    if len(job.labels) > 5:
        print(f"top-5      {accuracy.top_5:.3f}")
    if accuracy.without_truth:
        print(f"unknown    {accuracy.without_truth} rows, their truth is not among the labels")
    record = json.dumps(accuracy.to_json(), indent=2) + "\n"
    storage.write_atomically(storage.join(job.output, "accuracy.json"), record.encode())
    if plot:
        _write_plot(accuracy, plot)


def _write_plot(accuracy: Accuracy, uri: str) -> None:
    sink = pa.BufferOutputStream()
    title = f"top-1 accuracy {accuracy.top_1:.3f}, {accuracy.rows:,} rows"
    figure = heat_map(accuracy.shares, accuracy.labels, title)
    figure.savefig(sink, format=uri.rsplit(".", 1)[1].lower(), dpi=150)
    storage.write_atomically(uri, sink.getvalue())
    print(f"plot       {uri}")


def _prompts(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns labels and templates, the flags checked."""
    _check_flags(options)
    labels = read_lines(options.labels, "labels")
    zero_shot.check_labels(labels)
    templates = _TEMPLATES.get(options.templates) or read_lines(options.templates, "templates")
    zero_shot.check_templates(templates)
    return labels, templates


def _check_flags(options: argparse.Namespace) -> None:
    if options.top_k < 1:
        raise ValueError(f"`--top_k` must be a positive int, got {options.top_k}")
    if (options.truth or options.confusion_plot) and not options.truth_column:
        raise ValueError("expected `--truth_column` with `--truth` or `--confusion_plot`")
    if options.confusion_plot:
        if not options.confusion_plot.lower().endswith(PLOT_FORMATS):
            raise ValueError(
                f"`--confusion_plot` must end in {' or '.join(PLOT_FORMATS)}, got "
                f"{options.confusion_plot!r}"
            )
        require("matplotlib", "plots")


def _logit_scale(model: ClipModel) -> float:
    return float(model.clip.logit_scale.exp())


def _fail(message: str, status: int) -> int:
    print(f"clip-beam classify: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    process.run(main)
