"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import options as flags
from pipelines import run_record, summary
from pipelines.command_line import exits
from pipelines.command_line.exits import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    RunnerError,
    Terminated,
)
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.handler import EncoderFailedError, ModelChangedError
from pipelines.engine import counters, failures
from pipelines.engine.beam_options import new_pipeline, runs_here, use_local_threads
from pipelines.engine.cores import Threads
from pipelines.engine.memory import return_freed_memory
from pipelines.images.decode_pool import WorkerLostError
from pipelines.job_parts import (
    build,
    embed_rows_of,
    layout_of,
    load_run_models,
    plan_of,
)
from pipelines.manifests.files import left_out_line
from pipelines.manifests.planning import Plan
from pipelines.options import EmbedConfig
from pipelines.output import overwriting
from pipelines.output.layout import EMBEDDINGS, OUTPUTS, REJECTS
from pipelines.output.unit_record import NotARecordError
from pipelines.output.unit_writer import ConservationError, OutputLayout
from pipelines.progress import Progress
from pipelines.records import Unit, UnitResult
from pipelines.resume import check_resumable, finished_units, pending_of, retried_reasons
from pipelines.run_lock import LockLostError, RunLock
from pipelines.run_record import Totals
from pipelines.storage import uris
from pipelines.storage.partial_files import remove_partials
from pipelines.storage.redaction import redact, redacted
from pipelines.storage.stores import StoreFault

ATTEMPTS = 2  # at the units of a run; the second at what a runner that tries bundles again has torn
# While one bundle scores and writes, another keeps the model busy.
BUNDLES = 2
# Errors that say in one sentence what is wrong; any other is a fault of this program.
_GO_ON = "finished units are kept, run again to go on"
_OF_THE_MACHINE = (
    ConservationError,
    EncoderFailedError,
    LockLostError,
    ModelChangedError,
    NotARecordError,
    OSError,
    WorkerLostError,
)


# A runner in another process tells an error as the text of its traceback.
_TOLD_BY_A_RUNNER = re.compile(
    rf"^(?:[\w.]+\.)?(?:{'|'.join(kind.__name__ for kind in _OF_THE_MACHINE)}): "
    r"(.*?)(?: \[while running .*)?$",
    re.MULTILINE,
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

    def left_to_do(self) -> list[Unit]:
        """Returns the units of the plan that are not whole in the output."""
        return pending_of(self.plan.units, finished_units(self.layout.root), self.layout.root)

    @property
    def done_rows(self) -> int:
        """Rows of the plan that are not touched again."""
        again = {unit.unit_id: unit.rows_to_read for unit in self.pending}
        rows = 0
        for result in self.finished:
            to_read = again.get(result.unit_id, 0)
            rows += result.rows_read - (result.rows_read if to_read is None else to_read)
        return rows


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # The in-process runner and gcsfs log what they then raise; once is enough.
    exits.mute("apache_beam.runners", "gcsfs")
    if exits.is_own():
        return_freed_memory()
    try:
        config, options = flags.parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return _fail(str(error), WRONG_USAGE)
    lock = RunLock(config.output)
    try:
        return _main(config, options, lock)
    finally:
        exits.calm()
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
        return finish(job, config, seconds)
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
    layout = layout_of(plan, models, config, lock.run)
    lock.acquire()
    overwriting.remove_partials(config.output)
    for name in (EMBEDDINGS, REJECTS):
        remove_partials(uris.join(config.output, name), lock.run)
    if config.overwrite:
        overwriting.make_room(config.output, OUTPUTS, overwrite=True)
    finished = finished_units(config.output)
    check_resumable(finished, plan.units, layout.fingerprint)
    return Job(
        plan=plan,
        pending=tuple(pending_of(plan.units, finished, config.output, retried_reasons(config))),
        finished=tuple(record.result for record in finished),
        embed_rows=embed_rows_of(models, config, lock.run),
        layout=layout,
        threads=models.threads if here else None,
    )


def run(job: Job, options: PipelineOptions, lock: RunLock) -> dict[str, float]:
    """Embeds the pending units; returns seconds by stage."""
    run_record.remove_success(job.layout.root)
    if not runs_here(options):
        return _until_whole(job, options, lock)
    use_local_threads(options, BUNDLES)
    with (
        Progress(job.plan.rows, job.done_rows),
        exits.at_signal(lambda error: failures.stop(lock.run, error)),
    ):
        try:
            return _until_whole(job, options, lock)
        finally:  # what still writes does so under the lock
            failures.close(lock.run)


def _until_whole(job: Job, options: PipelineOptions, lock: RunLock) -> dict[str, float]:
    """Runs the pipeline, and once more over the units whose two files are of two attempts.

    Raises:
        ConservationError: if units are not whole after that.
    """
    seconds: dict[str, float] = {}
    pending = job.pending
    for _ in range(ATTEMPTS):
        if pending:
            seconds = counters.add(seconds, _run_pipeline(replace(job, pending=pending), options))
        lock.check()
        pending = tuple(job.left_to_do())
        if not pending:
            return seconds
    raise ConservationError(
        f"{len(pending)} of {len(job.plan.units)} units are not whole, among them "
        f"{pending[0].unit_id!r}; run again to complete them"
    )


def finish(job: Job, config: EmbedConfig, seconds: Mapping[str, float]) -> int:
    """Adds up what the files say, records the run, prints the summary; returns the exit status."""
    records = finished_units(config.output)
    results = [record.result for record in records]
    totals = run_record.total(results)
    run_record.write_run_record(
        config.output,
        totals=totals,
        fingerprint=job.layout.fingerprint,
        options=redacted(asdict(config)),
        timings=seconds,
        run=job.layout.run,
    )
    run_record.write_attempts(config.output, job.layout.run, records)
    if job.plan.rows not in (None, totals.rows_read):
        raise ConservationError(
            f"the manifest has {job.plan.rows} rows and the output {totals.rows_read}; "
            "run again with `--overwrite`, and report this as a bug"
        )
    _print_summary(job, totals, seconds)
    if config.retry_rejects:
        print(f"retried    {_retried(job, results)}")
    print(f"output     {redact(config.output)}")
    run_record.mark_success(config.output)  # the counts add up, whatever they are
    return _judged(totals, config)


def _judged(totals: Totals, config: EmbedConfig) -> int:
    """Returns the exit status of a whole run, and says why it is not 0."""
    if totals.rows_read and not totals.embedded:
        reason = max(totals.rejects, key=lambda name: totals.rejects[name])
        return _fail(
            f"none of {totals.rows_read} rows could be embedded, most were rejected as {reason}; "
            f"see {config.output}/rejects, and what `clip-beam check` says",
            FAILED,
        )
    if totals.reject_fraction > config.max_reject_fraction:
        return _fail(
            f"{totals.reject_fraction:.4f} of the rows were rejected, more than "
            f"`--max_reject_fraction` {config.max_reject_fraction}; see {config.output}/rejects",
            FAILED,
        )
    return 0


def _run_pipeline(job: Job, options: PipelineOptions) -> dict[str, float]:
    pipeline = new_pipeline(options)
    build(pipeline, job.pending, job.embed_rows, job.layout)
    result = pipeline.run()
    result.wait_until_finish()
    return counters.stage_seconds(result)


def _print_summary(job: Job, totals: Totals, seconds: Mapping[str, float]) -> None:
    rows = totals.rows_read - job.done_rows
    for line in [*summary.count_lines(totals), *summary.time_lines(seconds, rows)]:
        print(line)
    if job.threads is not None:
        print(summary.threads_line(job.threads))
    if job.plan.left_out:
        print(f"left out   {left_out_line(job.plan.left_out)}")


def _retried(job: Job, results: Sequence[UnitResult]) -> str:
    """Says how many rejects were retried, and how many of them are embedded now."""
    retried = {
        unit.unit_id: unit.only.count or 0 for unit in job.pending if unit.only and unit.only.count
    }
    before = sum(result.embedded for result in job.finished if result.unit_id in retried)
    now = sum(result.embedded for result in results if result.unit_id in retried)
    return f"{sum(retried.values())} ({now - before} embedded now)"


def _one_sentence(error: BaseException) -> str:
    """Finds the fault of the machine or the data that the runner has wrapped.

    Raises:
        BaseException: `error` itself when there is none in it: a fault of this program, for which
            the traceback is the message.
    """
    for cause in _causes(error):
        if isinstance(cause, _OF_THE_MACHINE):
            return str(cause)
    told = _TOLD_BY_A_RUNNER.findall(str(error))
    if told:
        return str(told[-1])
    raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fail(message: str, status: int) -> int:
    return exits.fail("embed", message, status)


if __name__ == "__main__":
    exits.run(main)
