"""The attempts at the units of a run, on whatever engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines.command_line import exits
from pipelines.engine import counters, failures
from pipelines.engine.beam_options import job_under_way, new_pipeline, use_local_threads
from pipelines.engine.cores import usable_cores
from pipelines.engine.slots.choice import LOCAL, Share
from pipelines.engine.tally import added
from pipelines.manifests.read import READERS
from pipelines.output.unit_record import UnitRecord
from pipelines.output.unit_writer import ConservationError
from pipelines.ownership import record as run_record
from pipelines.ownership.lock import RunLock
from pipelines.ownership.planned import PlannedRun
from pipelines.runs.job import build, reader_of
from pipelines.runs.on_slots import embed_on_slots
from pipelines.runs.options import EmbedConfig
from pipelines.runs.progress import Progress, in_output, in_this_process
from pipelines.runs.starting import Job

ATTEMPTS = 2  # at the units of a run; the second at what a runner that tries bundles again has torn


@dataclass(frozen=True)
class Outcome:
    """What a run has done.

    Attributes:
        seconds: by stage.
        records: what the files of the embeddings say, all of the output's.
        share: what each process with a line had of its machine; None if that is elsewhere.
    """

    seconds: Mapping[str, float]
    records: tuple[UnitRecord, ...]
    share: Share | None


Attempt = Callable[[Job], tuple[Mapping[str, float], Share | None]]


def run(job: Job, config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> Outcome:
    """Embeds the pending units."""
    run_record.remove_success(job.layout.root)
    if config.engine.has_slots:
        return _until_whole(job, lock, lambda job: embed_on_slots(job, config, lock))
    if config.engine.name == LOCAL:
        return _here(job, config, options, lock)
    count = in_output(job.planned, config.output)
    with Progress(job.rows, job.done_rows, count) as progress:
        lock.about = progress.snapshot
        return _until_whole(job, lock, lambda job: (_run_pipeline(job, config, options), None))


def _here(job: Job, config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> Outcome:
    use_local_threads(options, READERS)
    share = Share(1, usable_cores())
    with (
        Progress(job.rows, job.done_rows, in_this_process()) as progress,
        exits.at_signal(lambda error: failures.stop(lock.run, error)),
    ):
        lock.about = progress.snapshot
        try:
            return _until_whole(job, lock, lambda job: (_run_pipeline(job, config, options), share))
        finally:  # what still writes does so under the lock
            failures.close(lock.run)


def _until_whole(job: Job, lock: RunLock, attempt: Attempt) -> Outcome:
    """Embeds the pending units, and once more those whose two files are of two attempts.

    Args:
        attempt: embeds the pending units of a job; returns seconds by stage, and the share.

    Raises:
        ConservationError: if units are not whole after that.
    """
    seconds: Mapping[str, float] = {}
    share: Share | None = None
    pending = job.pending
    for _ in range(ATTEMPTS):
        if pending:
            more, share = attempt(job.attempt_at(pending))
            seconds = added(seconds, more)
        lock.check()
        records = job.own_records()
        pending = tuple(job.left_to_do(records))
        if not pending:
            return Outcome(seconds, tuple(records), share)
    raise ConservationError(
        f"{len(pending)} of {len(job.units)} units are not whole, among them "
        f"{pending[0].unit_id!r}; run again to complete them"
    )


def _run_pipeline(job: Job, config: EmbedConfig, options: PipelineOptions) -> dict[str, float]:
    pipeline = new_pipeline(options)
    read = reader_of(job.embed_rows, job.layout, job.pending)
    build(pipeline, read, job.embed_rows, job.layout, config.part)
    with job_under_way():
        result = pipeline.run()
        try:
            result.wait_until_finish()
        except (KeyboardInterrupt, exits.Terminated):
            exits.calm()
            _cancel(result, job.planned)
            raise
        return counters.stage_seconds(result)


def _cancel(result: PipelineResult, planned: PlannedRun) -> None:
    """Asks a runner elsewhere to end the job; whatever it does, none of its files gets a name once
    this run's lock is gone."""
    try:
        result.cancel()
    except Exception as error:  # each runner has its own
        what = f"the job {planned.job} could not be cancelled ({error}); cancel it yourself"
        print(f"clip-beam embed: {what}; it can name no further file", file=sys.stderr)
