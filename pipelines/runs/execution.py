"""One run of `embed`: what it checks before any worker starts, and the attempts at its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.command_line import exits
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.engine import counters, failures
from pipelines.engine.beam_options import new_pipeline, runs_here, use_local_threads
from pipelines.engine.cores import Threads
from pipelines.engine.per_file import workers_that_read
from pipelines.manifests.planning import Plan
from pipelines.output import overwriting
from pipelines.output.layout import EMBEDDINGS, OUTPUTS, REJECTS, OutputLayout
from pipelines.output.unit_record import UnitRecord
from pipelines.output.unit_writer import ConservationError
from pipelines.ownership import record as run_record
from pipelines.ownership.lock import RunLock
from pipelines.records import Unit, UnitResult
from pipelines.runs.job import build, embed_rows_of, layout_of, load_run_models, plan_of
from pipelines.runs.options import EmbedConfig
from pipelines.runs.progress import Progress
from pipelines.runs.resume import (
    Changed,
    changed_units,
    check_resumable,
    finished_units,
    pending_of,
    retried_reasons,
)
from pipelines.storage import uris
from pipelines.storage.partial_files import remove_partials

ATTEMPTS = 2  # at the units of a run; the second at what a runner that tries bundles again has torn
# While one bundle scores and writes, another keeps the model busy.
BUNDLES = 2


@dataclass(frozen=True)
class Job:
    """A run that has passed every check: what is left to do and with what.

    Attributes:
        finished: what the output says of its units, among them those whose rejects are pending.
        changed: which of them have other rows in the manifest now.
        threads: that the run's process shares its cores among; None if the workers are elsewhere.
    """

    plan: Plan
    pending: tuple[Unit, ...]
    finished: tuple[UnitResult, ...]
    embed_rows: EmbedRows
    layout: OutputLayout
    threads: Threads | None
    changed: Changed = Changed()

    def left_to_do(self, finished: Sequence[UnitRecord]) -> list[Unit]:
        """Returns the units of the plan that are not whole in the output.

        Args:
            finished: what the files of the embeddings say.
        """
        old = {record.result.unit_id for record in finished if record.run != self.layout.run}
        changed = self.changed.units & old
        return pending_of(self.plan.units, finished, self.layout.root, changed=changed)

    @property
    def done_rows(self) -> int:
        """Rows of the plan that are not touched again."""
        again = {unit.unit_id: unit.rows_to_read for unit in self.pending}
        rows = 0
        for result in self.finished:
            to_read = again.get(result.unit_id, 0)
            rows += result.rows_read - (result.rows_read if to_read is None else to_read)
        return rows


def prepare(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> Job:
    """Plans the units, loads the model and looks at the output, before any worker starts.

    Args:
        options: Beam's; they say whether this process's device is the workers'.
        lock: taken before the output is looked at.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    here = runs_here(options)
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
    check_resumable(finished, plan.units, layout.fingerprint, plan.kept)
    changed = changed_units(finished, plan.units, workers_that_read(options))
    pending = pending_of(
        plan.units, finished, config.output, retried_reasons(config), changed.units
    )
    return Job(
        plan=plan,
        pending=tuple(pending),
        finished=tuple(record.result for record in finished),
        embed_rows=embed_rows_of(models, config, lock.run),
        layout=layout,
        threads=models.threads if here else None,
        changed=changed,
    )


@dataclass(frozen=True)
class Outcome:
    """What a run has done.

    Attributes:
        seconds: by stage.
        records: what the files of the embeddings say, all of the output's.
    """

    seconds: Mapping[str, float]
    records: tuple[UnitRecord, ...]


def run(job: Job, options: PipelineOptions, lock: RunLock) -> Outcome:
    """Embeds the pending units."""
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


def _until_whole(job: Job, options: PipelineOptions, lock: RunLock) -> Outcome:
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
        records = finished_units(job.layout.root)
        pending = tuple(job.left_to_do(records))
        if not pending:
            return Outcome(seconds, tuple(records))
    raise ConservationError(
        f"{len(pending)} of {len(job.plan.units)} units are not whole, among them "
        f"{pending[0].unit_id!r}; run again to complete them"
    )


def _run_pipeline(job: Job, options: PipelineOptions) -> dict[str, float]:
    pipeline = new_pipeline(options)
    build(pipeline, job.pending, job.embed_rows, job.layout)
    result = pipeline.run()
    result.wait_until_finish()
    return counters.stage_seconds(result)
