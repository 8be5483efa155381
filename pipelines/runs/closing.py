"""How a run ends: its files are counted, it is recorded, and it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pipelines.command_line import exits
from pipelines.command_line.exits import (
    FAILED,
)
from pipelines.manifests.files import left_out_line
from pipelines.output.unit_record import UnitRecord
from pipelines.output.unit_writer import ConservationError
from pipelines.ownership import record as run_record
from pipelines.ownership.record import Totals
from pipelines.records import UnitResult
from pipelines.runs import summary
from pipelines.runs.execution import Job
from pipelines.runs.options import EmbedConfig
from pipelines.storage.redaction import redact, redacted


def finish(
    job: Job, config: EmbedConfig, seconds: Mapping[str, float], records: Sequence[UnitRecord]
) -> int:
    """Adds up what the files say, records the run, prints the summary; returns the exit status.

    Args:
        seconds: by stage.
        records: what the files of the embeddings say.
    """
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
    # The counts add up, whatever they are; before the summary, whose reader may close the pipe.
    run_record.mark_success(config.output)
    _print_summary(job, totals, seconds)
    if config.retry_rejects:
        print(f"retried    {_retried(job, results)}")
    print(f"output     {redact(config.output)}")
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


def _print_summary(job: Job, totals: Totals, seconds: Mapping[str, float]) -> None:
    rows = totals.rows_read - job.done_rows
    for line in [*summary.count_lines(totals), *summary.time_lines(seconds, rows)]:
        print(line)
    if job.threads is not None:
        print(summary.threads_line(job.threads))
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
