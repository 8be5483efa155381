"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from clip_core.loading import ClipModel
from pipelines import options as flags
from pipelines import run_record, storage, timings
from pipelines.embed_rows import EmbedRows
from pipelines.encode import (
    BATCH_SIZE,
    ClipHandler,
    ModelChangedError,
    ModelSpec,
    load_model,
    resolve_device,
    resolve_precision,
)
from pipelines.fetch import FetchPolicy
from pipelines.filesystems import StoreFault
from pipelines.manifest import ManifestRequest, Plan, plan_units
from pipelines.options import EmbedConfig
from pipelines.progress import Progress
from pipelines.read import ReadManifest
from pipelines.records import Unit, UnitResult
from pipelines.redaction import redact, redacted, scrub, start_logging
from pipelines.resume import check_resumable, finished_units
from pipelines.run_record import Totals
from pipelines.write import ConservationError, OutputLayout, WriteUnits
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

# The in-process runner keeps everything that passes between stages in memory, so a local run takes
# one pipeline after the other, each over about this many rows; what is written stays written.
SLICE_ROWS = 10_000


class Terminated(BaseException):
    """SIGTERM arrived."""


@dataclass(frozen=True)
class Job:
    """A run that has passed every check: what is left to do and with what."""

    plan: Plan
    pending: tuple[Unit, ...]
    finished: tuple[UnitResult, ...]
    embed_rows: EmbedRows
    layout: OutputLayout


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    start_logging()
    # The in-process runner logs what it then raises; once is enough.
    logging.getLogger("apache_beam.runners").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _terminate)
    argv = sys.argv[1:] if argv is None else argv
    try:
        config, options = flags.parse(argv)
        started_at = time.monotonic()
        job = prepare(config, here=flags.runs_here(options))
    except StoreFault as error:
        return _fail(str(error), FAILED)
    except (ValueError, OSError) as error:
        return _fail(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)
    try:
        seconds = run(job, options)
        return finish(job, config, seconds | {"wall": time.monotonic() - started_at})
    except (RuntimeError, OSError) as error:
        return _fail(_one_sentence(error), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; finished units are kept, run again to go on", INTERRUPTED)
    except Terminated:
        return _fail("terminated; finished units are kept, run again to go on", TERMINATED)


def prepare(config: EmbedConfig, *, here: bool) -> Job:
    """Plans the units, loads the model and looks at the output, before any worker starts.

    Args:
        here: whether the runner keeps the job in this process, so that this process's device is
            the workers'.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    plan = plan_units(_manifest_request(config))
    spec = _model_spec(config, here)
    model = load_model(spec)
    fingerprint = _fingerprint(model, config)
    kept = list(plan.kept)
    dim = model.config.embed_dim
    layout = OutputLayout(
        root=config.output,
        embeddings=embeddings_schema(
            dim, config.embedding_dtype, scores_only=config.scores_only, kept=kept
        ),
        rejects=rejects_schema(kept),
        fingerprint=fingerprint,
    )
    if config.overwrite:
        _remove_tables(config.output)
    finished = finished_units(config.output)
    check_resumable(finished, plan.units, fingerprint)
    done = {unit.result.unit_id for unit in finished}
    return Job(
        plan=plan,
        pending=tuple(unit for unit in plan.units if unit.unit_id not in done),
        finished=tuple(unit.result for unit in finished),
        embed_rows=_embed_rows(model, spec, config),
        layout=layout,
    )


def run(job: Job, options: PipelineOptions) -> dict[str, float]:
    """Embeds the pending units; returns seconds by stage."""
    run_record.remove_success(job.layout.root)
    seconds: dict[str, float] = {}
    if not flags.runs_here(options):
        return _run_pipeline(job, job.pending, options)
    done = sum(result.rows_read for result in job.finished)
    with Progress(job.plan.rows, done):
        for units in slices(job.pending):
            seconds = timings.add(seconds, _run_pipeline(job, units, options))
    return seconds


def build(pipeline: beam.Pipeline, units: Sequence[Unit], job: Job) -> None:
    """Wires the three transforms."""
    read = pipeline | "Units" >> beam.Create(units) | "Spread" >> beam.Reshuffle()
    rows = read | "ReadManifest" >> ReadManifest()
    embedded = rows.rows | "EmbedRows" >> job.embed_rows
    rejects = (rows.rejects, embedded["rejects"]) | "AllRejects" >> beam.Flatten()
    found = {"scored": embedded["scored"], "rejects": rejects, "counts": rows.counts}
    _ = found | "WriteUnits" >> WriteUnits(job.layout)


def finish(job: Job, config: EmbedConfig, seconds: Mapping[str, float]) -> int:
    """Adds up what the files say, records the run, prints the summary; returns the exit status."""
    results = [found.result for found in finished_units(config.output)]
    missing = {unit.unit_id for unit in job.plan.units} - {result.unit_id for result in results}
    if missing:
        raise ConservationError(
            f"{len(missing)} of {len(job.plan.units)} units were not written, among them "
            f"{min(missing)!r}; run again to complete them"
        )
    totals = run_record.total(results)
    run_record.write_run_record(
        config.output,
        totals=totals,
        fingerprint=job.layout.fingerprint,
        options=redacted(asdict(config)),
        timings=seconds,
    )
    new = totals.rows_read - sum(result.rows_read for result in job.finished)
    _print_summary(config.output, totals, new, seconds)
    if totals.reject_fraction > config.max_reject_fraction:
        return _fail(
            f"{totals.reject_fraction:.4f} of the rows were rejected, more than "
            f"`--max_reject_fraction` {config.max_reject_fraction}; see {config.output}/rejects",
            FAILED,
        )
    run_record.mark_success(config.output)
    return 0


def slices(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Groups units, in order, into slices of at least `SLICE_ROWS` rows; a tar stands alone."""
    taken: list[Unit] = []
    rows = 0
    for unit in units:
        taken.append(unit)
        rows += SLICE_ROWS if unit.rows is None else unit.rows
        if rows >= SLICE_ROWS:
            yield taken
            taken, rows = [], 0
    if taken:
        yield taken


def _run_pipeline(job: Job, units: Sequence[Unit], options: PipelineOptions) -> dict[str, float]:
    pipeline = beam.Pipeline(options=options)
    build(pipeline, units, job)
    result = pipeline.run()
    result.wait_until_finish()
    return timings.stage_seconds(result)


def _manifest_request(config: EmbedConfig) -> ManifestRequest:
    return ManifestRequest(
        patterns=config.manifest,
        format=config.manifest_format,
        image_column=config.image_column,
        text_column=config.text_column,
        id_column=config.id_column,
        keep_columns=config.keep_columns,
        image_root=config.image_root,
        rows_per_unit=config.rows_per_unit,
    )


def _model_spec(config: EmbedConfig, here: bool) -> ModelSpec:
    if not here and "auto" in (config.device, config.precision):
        raise ValueError(
            "expected `--device` and `--precision` to be named when the workers run elsewhere, got "
            "`auto`; pass, for example, `--device cuda --precision bf16`"
        )
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return ModelSpec(config.model, device, precision, config.arch, config.activation, config.vocab)


def _embed_rows(model: ClipModel, spec: ModelSpec, config: EmbedConfig) -> EmbedRows:
    batch_size = config.batch_size or BATCH_SIZE.get(spec.device, BATCH_SIZE["cuda"])
    handler = ClipHandler(spec, model.fingerprint["checkpoint_sha256"], batch_size)
    allowed = config.allow_images_from + ((config.image_root,) if config.image_root else ())
    return EmbedRows(handler, model.preprocessing, model.tokenizer, FetchPolicy(allowed=allowed))


def _fingerprint(model: ClipModel, config: EmbedConfig) -> dict[str, Any]:
    """Everything that decides the values in the tables, and nothing else."""
    names = (
        "allow_images_from",
        "decode",
        "embedding_dtype",
        "id_column",
        "image_column",
        "image_root",
        "keep_columns",
        "scores_only",
        "text_column",
    )
    values = {name: getattr(config, name) for name in names}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return redacted(dict(model.fingerprint) | values | lists)


def _remove_tables(output: str) -> None:
    for name in ("embeddings", "rejects", run_record.RUN_JSON, run_record.SUCCESS):
        storage.remove_tree(storage.join(output, name))


def _print_summary(
    output: str, totals: Totals, new_rows: int, seconds: Mapping[str, float]
) -> None:
    reasons = ", ".join(f"{name} {count}" for name, count in totals.rejects.items())
    rate = new_rows / seconds["wall"]
    print(f"rows read  {totals.rows_read}")
    print(f"embedded   {totals.embedded}")
    print(f"rejected   {totals.rejected}" + (f" ({reasons})" if reasons else ""))
    print(f"time       {seconds['wall']:.1f} s, {rate:.1f} rows/s")
    print(f"output     {redact(output)}")


def _one_sentence(error: BaseException) -> str:
    """Finds the fault of the machine or the data that the runner has wrapped.

    Raises:
        BaseException: `error` itself when there is none in it: a fault of this program, for which
            the traceback is the message.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConservationError | ModelChangedError | OSError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    raise error


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def _fail(message: str, status: int) -> int:
    print(f"clip-beam embed: {scrub(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
