"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import options as flags
from pipelines import process, run_record, storage, summary, timings
from pipelines.allocator import return_freed_memory
from pipelines.beam_flags import (
    local_threads,
    new_pipeline,
    runs_here,
    use_local_threads,
)
from pipelines.cores import Threads
from pipelines.embed_rows import EmbedRows
from pipelines.encode import EncoderFailedError, ModelChangedError
from pipelines.filesystems import StoreFault
from pipelines.isolation import WorkerLostError
from pipelines.job_parts import (
    embed_rows_of,
    layout_of,
    load_run_models,
    plan_of,
)
from pipelines.layout import EMBEDDINGS, REJECTS, RUN_JSON, SUCCESS
from pipelines.manifest import Plan
from pipelines.options import EmbedConfig
from pipelines.process import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    RunnerError,
    Terminated,
)
from pipelines.progress import Progress
from pipelines.read import ReadManifest
from pipelines.records import Unit, UnitResult
from pipelines.redaction import redact, redacted
from pipelines.resume import check_resumable, finished_units, pending_of
from pipelines.run_lock import LockLostError, RunLock
from pipelines.run_record import Totals
from pipelines.write import ConservationError, OutputLayout, WriteUnits

# The in-process runner keeps everything that passes between stages in memory, so a local run takes
# one pipeline after the other, each over about this many rows for each of its threads; what is
# written stays written.
SLICE_ROWS = 10_000
GPU_THREADS = 2
TAR_BYTES_PER_ROW = 6_500  # less than a web picture has, so that slices become rather too small
# Errors that say in one sentence what is wrong; any other is a fault of this program.
_GO_ON = "finished units are kept, run again to go on"
_OF_THE_MACHINE = (
    ConservationError,
    EncoderFailedError,
    LockLostError,
    ModelChangedError,
    OSError,
    WorkerLostError,
)


@dataclass(frozen=True)
class Job:
    """A run that has passed every check: what is left to do and with what.

    Attributes:
        finished: what the output says of its units, among them those whose rejects are pending.
        threads: that the run's process shares its cores among; None if the workers are elsewhere.
    """

    plan: Plan
    pending: tuple[Unit, ...]
    finished: tuple[UnitResult, ...]
    embed_rows: EmbedRows
    layout: OutputLayout
    threads: Threads | None

    @property
    def done_rows(self) -> int:
        """Rows of the plan that are not touched again."""
        again = {unit.unit_id: unit.rows_to_read for unit in self.pending}
        rows = 0
        for result in self.finished:
            to_read = again.get(result.unit_id, 0)
            rows += result.rows_read - (result.rows_read if to_read is None else to_read)
        return rows


@process.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # The in-process runner and gcsfs log what they then raise; once is enough.
    process.mute("apache_beam.runners", "gcsfs")
    if process.is_own():
        return_freed_memory()
    try:
        config, options = flags.parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return _fail(str(error), WRONG_USAGE)
    lock = RunLock(config.output)
    try:
        return _main(config, options, lock)
    finally:
        process.calm()
        lock.release()


def _main(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> int:
    started_at = time.monotonic()
    try:
        job = prepare(config, lock, here=runs_here(options))
    except StoreFault as error:
        return _fail(str(error), FAILED)
    except (ValueError, OSError) as error:
        return _fail(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)
    try:
        start = time.monotonic() - started_at
        seconds = run(job, options, lock)
        seconds |= {"start": start, "wall": time.monotonic() - started_at}
        in_turn = runs_here(options) and local_threads(options) == 1
        return finish(job, config, summary.shares_of_wall(seconds) if in_turn else seconds)
    except RunnerError as error:
        return _fail(str(error), WRONG_USAGE)
    except (RuntimeError, OSError, KeyboardInterrupt, Terminated) as error:
        for cause in _causes(error):  # the runner wraps even what a signal raises
            if isinstance(cause, KeyboardInterrupt):
                return _fail(f"interrupted; {_GO_ON}", INTERRUPTED)
            if isinstance(cause, Terminated):
                return _fail(f"terminated; {_GO_ON}", TERMINATED)
        return _fail(_one_sentence(error), FAILED)


def prepare(config: EmbedConfig, lock: RunLock, *, here: bool) -> Job:
    """Plans the units, loads the model and looks at the output, before any worker starts.

    Args:
        lock: taken before the output is looked at.
        here: whether the runner keeps the job in this process, so that this process's device is
            the workers'.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    plan = plan_of(config)
    models = load_run_models(config, here)
    layout = layout_of(plan, models, config)
    lock.acquire()
    for name in ("", EMBEDDINGS, REJECTS):
        storage.remove_partials(storage.join(config.output, name))
    if config.overwrite:
        _remove_tables(config.output)
    finished = finished_units(config.output)
    check_resumable(finished, plan.units, layout.fingerprint)
    return Job(
        plan=plan,
        pending=tuple(pending_of(plan.units, finished, config)),
        finished=tuple(unit.result for unit in finished),
        embed_rows=embed_rows_of(models, config),
        layout=layout,
        threads=models.threads if here else None,
    )


def run(job: Job, options: PipelineOptions, lock: RunLock) -> dict[str, float]:
    """Embeds the pending units; returns seconds by stage."""
    run_record.remove_success(job.layout.root)
    seconds: dict[str, float] = {}
    if not runs_here(options):
        seconds = _run_pipeline(job, job.pending, options)
        lock.check()
        return seconds
    if job.embed_rows.handler.on_gpu:  # while one thread waits for it, another feeds it
        use_local_threads(options, GPU_THREADS)
    rows = SLICE_ROWS * local_threads(options)
    with Progress(job.plan.rows, job.done_rows), _collected_quickly():
        for number, units in enumerate(slices(job.pending, rows)):
            lock.check()
            if number:
                gc.collect()  # a pipeline is full of cycles, and holds what its stages exchanged
            with tempfile.TemporaryDirectory() as scratch:
                here = replace(job, layout=replace(job.layout, scratch=scratch))
                seconds = timings.add(seconds, _run_pipeline(here, units, options))
    lock.check()
    return seconds


@contextlib.contextmanager
def _collected_quickly() -> Iterator[None]:
    """Lets the garbage collector pass over what is there already: libraries and the models."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
    if job.plan.rows not in (None, totals.rows_read):
        raise ConservationError(
            f"the manifest has {job.plan.rows} rows and the output {totals.rows_read}; "
            "run again with `--overwrite`, and report this as a bug"
        )
    _print_summary(job, totals, seconds)
    if config.retry_rejects:
        print(f"retried    {_retried(job, results)}")
    print(f"output     {redact(config.output)}")
    if totals.reject_fraction > config.max_reject_fraction:
        return _fail(
            f"{totals.reject_fraction:.4f} of the rows were rejected, more than "
            f"`--max_reject_fraction` {config.max_reject_fraction}; see {config.output}/rejects",
            FAILED,
        )
    run_record.mark_success(config.output)
    return 0


def slices(units: Sequence[Unit], rows: int) -> Iterator[list[Unit]]:
    """Groups units, in order, into slices of at least so many rows, as far as is known."""
    taken: list[Unit] = []
    found = 0
    for unit in units:
        taken.append(unit)
        found += unit.rows_to_read or unit.manifest_bytes // TAR_BYTES_PER_ROW + 1
        if found >= rows:
            yield taken
            taken, found = [], 0
    if taken:
        yield taken


def _run_pipeline(job: Job, units: Sequence[Unit], options: PipelineOptions) -> dict[str, float]:
    pipeline = new_pipeline(options)
    build(pipeline, units, job)
    result = pipeline.run()
    result.wait_until_finish()
    return timings.stage_seconds(result)


def _remove_tables(output: str) -> None:
    for name in (EMBEDDINGS, REJECTS, RUN_JSON, SUCCESS):
        storage.remove_tree(storage.join(output, name))


def _print_summary(job: Job, totals: Totals, seconds: Mapping[str, float]) -> None:
    rows = totals.rows_read - job.done_rows
    for line in [*summary.count_lines(totals), *summary.time_lines(seconds, rows)]:
        print(line)
    if job.threads is not None:
        print(summary.threads_line(job.threads))


def _retried(job: Job, results: Sequence[UnitResult]) -> str:
    """Says how many rejects were retried, and how many of them are embedded now."""
    retried = {unit.unit_id: unit.only_rows for unit in job.pending if unit.only_rows is not None}
    before = sum(result.embedded for result in job.finished if result.unit_id in retried)
    now = sum(result.embedded for result in results if result.unit_id in retried)
    return f"{sum(map(len, retried.values()))} ({now - before} embedded now)"


def _one_sentence(error: BaseException) -> str:
    """Finds the fault of the machine or the data that the runner has wrapped.

    Raises:
        BaseException: `error` itself when there is none in it: a fault of this program, for which
            the traceback is the message.
    """
    for cause in _causes(error):
        if isinstance(cause, _OF_THE_MACHINE):
            return str(cause)
    raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fail(message: str, status: int) -> int:
    return process.fail("embed", message, status)


if __name__ == "__main__":
    process.run(main)
