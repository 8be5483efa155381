"""`clip-beam classify`: zero-shot labels for the images of a run or a manifest, from prompts.

OUTPUT/embedded                what `embed` makes of a manifest, where one is given
OUTPUT/labels/<unit>.parquet   uid and key, labels and probabilities, likeliest first
OUTPUT/accuracy.json           where the truth is known
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from clip_core import zero_shot
from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.engine.per_file import Workers, chosen_slots, over_files, parse_with_engine
from pipelines.images.trust import IMAGES, MANIFESTS, TRUST
from pipelines.images.web_flags import web_argv
from pipelines.output.overwriting import check_room, make_room
from pipelines.output.scored_tables import (
    FINGERPRINT_KEY,
    ScoredTables,
    ScoredTablesError,
    check_columns,
    embedding_matrix,
)
from pipelines.output.whole_runs import open_whole
from pipelines.pages.plots import heat_map
from pipelines.queries.accuracy import Accuracy
from pipelines.queries.labels import labels_batch, labels_file
from pipelines.queries.prompts import parser, read_prompts
from pipelines.queries.query_model import load_query_model
from pipelines.queries.true_classes import TruthError, classes_of, read_truth
from pipelines.storage import uris, writing
from pipelines.storage.redaction import redact
from schemas.embeddings import row_fields
from schemas.labels import LABELLED_NAMES

if TYPE_CHECKING:
    from clip_core.loading import ClipModel
    from pipelines.runs.options import EmbedConfig

LABELS = "labels"
EMBEDDED = "embedded"
ACCURACY = "accuracy.json"
OVERWRITE = "--overwrite"
BATCH_ROWS = 2048
BATCH_LOGITS = BATCH_ROWS * 1000  # 8 MB, and a few times as much to sort them


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


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    flags = parser()
    options, rest = flags.parse_known_args(argv)
    if options.manifest:
        slots = chosen_slots(flags, options, None)
        return _embed_first(options, rest) or _classify(options, slots)
    return _classify(*parse_with_engine(flags, argv))


def _classify(options: argparse.Namespace, workers: Workers | None) -> int:
    try:
        job = prepare(options)
    except (ValueError, OSError, MissingExtraError) as error:
        return exits.fail("classify", str(error), exits.status_before(error))
    try:
        accuracy = run(job, workers)
        if accuracy is not None:
            _finish_accuracy(accuracy, job, options.confusion_plot)
    except (ScoredTablesError, TruthError, OSError) as error:
        return exits.fail("classify", str(error), exits.status_of(error))
    print(f"output     {redact(options.output)}")
    return 0


def _embed_first(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Embeds the manifest into OUTPUT/embedded, which becomes the input; returns the exit status.

    Args:
        rest: flags of `embed`.
    """
    from pipelines.runs.embedding import embed
    from pipelines.runs.options import parse

    options.input = uris.join(options.output, EMBEDDED)
    try:  # what can be wrong is found before the long work
        read_prompts(options)
        config, beam_options = parse(_embed_flags(options, rest))
        _check_before_embedding(options, config)
    except (ValueError, OSError, MissingExtraError) as error:
        return exits.fail("classify", str(error), exits.WRONG_USAGE)
    return embed(config, beam_options)


def _embed_flags(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    if not options.model:
        raise ValueError("expected `--model` with `--manifest`, got none; name one")
    own = ["model", "arch", "activation", "vocab", "model_cache", "device"]
    own += ["engine", "slots", "ray_address"]
    given = {name: str(getattr(options, name)) for name in own if getattr(options, name)}
    argv = [part for name, value in given.items() for part in (f"--{name}", value)]
    argv += [part for uri in options.manifest for part in ("--manifest", uri)]
    argv += [part for uri in options.allow_images_from for part in (f"--{IMAGES}", uri)]
    argv += [part for uri in options.allow_manifests_from for part in (f"--{MANIFESTS}", uri)]
    argv += web_argv(options)
    # What is refused is refused as the user said it.
    others = any(word.startswith(("--text_column", "--scores_only")) for word in rest)
    if not others and options.truth_column != "text":
        argv += ["--pairs", "images"]  # labels need no captions; what `rest` says comes later
    argv += [flag for flag in (OVERWRITE, f"--{TRUST}") if getattr(options, flag.lstrip("-"))]
    return [*argv, "--output", options.input, *rest]


def _check_before_embedding(options: argparse.Namespace, config: EmbedConfig) -> None:
    if not isinstance(config.model, str):
        raise ValueError(f"expected one `--model` without a name, got {options.model!r}")
    if options.model_name:
        raise ValueError("the one model has no name; leave out `--model_name`")
    if config.scores_only:
        raise ValueError("labels are told from embeddings; leave out `--scores_only`")
    columns = (None, *(field.name for field in row_fields(config.pairs)), *config.keep_columns)
    if options.truth:
        read_truth(options.truth, options.truth_column)
    elif options.truth_column not in columns:
        raise ValueError(
            f"`--truth_column {options.truth_column}` is in no file of `--truth` and not among "
            "`--keep_columns`; name it there"
        )
    check_room(options.output, [LABELS, ACCURACY], options.overwrite)


def prepare(options: argparse.Namespace) -> Job:
    """Checks everything that can be checked before the work.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    labels, templates = read_prompts(options)
    tables = open_whole(options.input, options.allow_incomplete).of_model(options.model_name)
    columns = [tables.column("image_embedding")]
    if options.truth_column and not options.truth:
        columns.append(options.truth_column)
    check_columns(tables.schema, columns, tables.embeddings[0])
    truth = read_truth(options.truth, options.truth_column) if options.truth else None
    model = load_query_model(tables, options)
    weights = zero_shot.zero_shot_weights(model, labels, templates)
    make_room(options.output, [LABELS, ACCURACY], options.overwrite)
    return Job(
        tables=tables,
        output=uris.normalize(options.output),
        labels=labels,
        templates=templates,
        weights=weights,
        logit_scale=_logit_scale(model),
        top_k=min(options.top_k, len(labels)),
        truth_column=options.truth_column,
        truth=truth,
    )


def run(job: Job, options: Workers | None) -> Accuracy | None:
    """Labels every row, a file at a time; returns what the truth says, if there is any."""
    accuracy = _no_rows_yet(job)
    files = job.tables.embeddings
    rows = job.tables.rows_of(files)
    with meter(rows, "rows") as count:
        found = over_files(partial(label_file, job), files, options)
        for uri, part in zip(files, found, strict=True):
            if accuracy is not None and part is not None:
                accuracy.merge(part)
            count(job.tables.rows_of([uri]))
    print(f"rows       {rows}")
    print(f"labels     {len(job.labels)}, by {len(job.templates)} prompts each")
    return accuracy


def label_file(job: Job, uri: str) -> Accuracy | None:
    """Writes the labels of the rows of one file; returns what the truth says, if there is any."""
    accuracy = _no_rows_yet(job)
    metadata = {
        FINGERPRINT_KEY: json.dumps(dict(job.tables.fingerprint), sort_keys=True),
        b"clip_beam.labels": json.dumps(job.labels),
        b"clip_beam.templates": json.dumps(job.templates),
    }
    data = labels_file(_labelled(uri, job, accuracy), metadata)
    writing.write_atomically(uris.join(job.output, LABELS, uris.base_name(uri)), data)
    return accuracy


def _no_rows_yet(job: Job) -> Accuracy | None:
    return Accuracy(job.labels) if job.truth_column else None


def _labelled(uri: str, job: Job, accuracy: Accuracy | None) -> Iterator[pa.RecordBatch]:
    columns = [*LABELLED_NAMES, "image_embedding"]
    if job.truth_column and job.truth is None:
        columns.append(job.truth_column)
    rows = max(1, min(BATCH_ROWS, BATCH_LOGITS // len(job.labels)))
    for batch in job.tables.batches(uri, columns, rows):
        images = embedding_matrix(batch.column("image_embedding"))
        logits = zero_shot.zero_shot_logits(images, job.weights, job.logit_scale)
        if accuracy is not None:
            accuracy.add(logits, _truth(batch, job))
        yield labels_batch(batch, logits, job.labels, job.top_k)


def _truth(batch: pa.RecordBatch, job: Job) -> list[str | None]:
    if job.truth is not None:
        return classes_of(job.truth, batch)
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
    if accuracy.by_number:
        print(f"numbered   {accuracy.by_number} rows, whose truth is a label's number, from 0")
    if accuracy.without_truth:
        print(f"unknown    {accuracy.without_truth} rows, their truth is not among the labels")
    record = json.dumps(accuracy.to_json(), indent=2) + "\n"
    writing.write_atomically(uris.join(job.output, ACCURACY), record.encode())
    if plot:
        _write_plot(accuracy, plot)


def _write_plot(accuracy: Accuracy, uri: str) -> None:
    title = f"top-1 accuracy {accuracy.top_1:.3f}, {accuracy.rows:,} rows"
    kind = uri.rsplit(".", 1)[1].lower()
    writing.write_atomically(uri, heat_map(accuracy.shares(), accuracy.labels, title, kind))
    print(f"plot       {redact(uri)}")


def _logit_scale(model: ClipModel) -> float:
    return float(model.clip.logit_scale.exp())


if __name__ == "__main__":
    exits.run(main)
