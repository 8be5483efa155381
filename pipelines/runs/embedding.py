"""A run of `embed` from its start to its end: whatever happens becomes a sentence and a status."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.command_line import exits
from pipelines.command_line.exits import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    RunnerError,
    Terminated,
)
from pipelines.command_line.flag_names import in_flags
from pipelines.engine.memory import return_freed_memory
from pipelines.engine.slots.choice import Share
from pipelines.images.web_flags import of_the_web
from pipelines.manifests.files import left_out_line
from pipelines.ownership import record as run_record
from pipelines.ownership.closing import close, judged
from pipelines.ownership.lock import RunLock
from pipelines.ownership.record import Totals
from pipelines.records import UnitResult
from pipelines.runs import faults, summary
from pipelines.runs.execution import Outcome, run
from pipelines.runs.job import image_prefixes
from pipelines.runs.options import EmbedConfig
from pipelines.runs.starting import Job, prepare
from pipelines.storage.redaction import redact
from pipelines.storage.stores import StoreFault

_GO_ON = "finished units are kept, run again to go on"


def embed(config: EmbedConfig, options: PipelineOptions) -> int:
    """Embeds a manifest into the output; returns the exit status.

    Args:
        options: Beam's own.
    """
    exits.mute("gcsfs")  # it logs what it then raises
    if exits.is_own():
        return_freed_memory()
    lock = RunLock(config.output, part=config.part)
    try:
        return _embedded(config, options, lock)
    finally:
        exits.calm()
        lock.release()


def _embedded(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> int:
    started_at = time.monotonic()
    if unused := config.unused_proxy(image_prefixes(config)):
        print(f"clip-beam embed: {in_flags(unused)}", file=sys.stderr)
    try:
        job = prepare(config, options, lock)
    except StoreFault as error:
        return _fail(str(error), FAILED)
    except (ValueError, OSError) as error:
        return _fail(str(error), exits.status_before(error))
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)
    try:
        start = time.monotonic() - started_at
        outcome = run(job, config, options, lock)
        about = {"start": start, "wall": time.monotonic() - started_at}
        return _finish(job, config, outcome, {**outcome.seconds, **about})
    except RunnerError as error:
        return _fail(str(error), WRONG_USAGE)
    except (RuntimeError, OSError, KeyboardInterrupt, Terminated) as error:
        for cause in faults.causes(error):  # the runner wraps even what a signal raises
            if isinstance(cause, KeyboardInterrupt):
                return _fail(f"interrupted; {_GO_ON}", INTERRUPTED)
            if isinstance(cause, Terminated):
                return _fail(f"terminated; {_GO_ON}", TERMINATED)
        told = faults.sentence(error)
        if told is None:
            raise  # a fault of this program, for which the traceback is the message
        if traceback := getattr(error, "told", ""):
            print(traceback, file=sys.stderr)
        return _fail(told, FAILED)


def _finish(job: Job, config: EmbedConfig, outcome: Outcome, seconds: Mapping[str, float]) -> int:
    """Records the run, prints the summary and judges it; returns the exit status.

    One part of several records nothing: `finish_planned` does that when all have ended.

    Args:
        seconds: by stage, and of the whole.
    """
    own = {unit.unit_id for unit in job.units}
    results = [record.result for record in outcome.records if record.result.unit_id in own]
    totals = run_record.total(results)
    if config.part is None:
        close(config.output, job.planned, outcome.records, seconds)
    _print_summary(job, totals, seconds, outcome.share)
    if of_the_web(image_prefixes(config)):
        print("".join(f"{line}\n" for line in summary.web_lines(config.output, results)), end="")
    if config.retry_rejects:
        print(f"retried    {_retried(job, results)}")
    if config.part is not None:
        print(f"part       {config.part} is whole; `clip-beam finish` closes the run of all parts")
    print(f"output     {redact(config.output)}")
    return judged("embed", totals, config.output, config.max_reject_fraction)


def _print_summary(
    job: Job, totals: Totals, seconds: Mapping[str, float], share: Share | None
) -> None:
    rows = totals.rows_read - job.done_rows
    for line in [*run_record.count_lines(totals), *summary.time_lines(seconds, rows)]:
        print(line)
    if share is not None:
        print(summary.threads_line(job.models.threads_on(share.cores), share.slots))
    if changed := job.changed.line():
        print(f"changed    {changed}")
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


def _fail(message: str, status: int) -> int:
    return exits.fail("embed", message, status)
