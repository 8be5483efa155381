"""Embeds the units of a run in slots, each of which runs the line over what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.encoding.embed_rows import EmbedRows
from pipelines.engine import counters
from pipelines.engine.beam_options import LOCAL_RUNNER, new_pipeline, use_local_threads
from pipelines.engine.slots.board import Patience, Seat
from pipelines.engine.slots.choice import Share
from pipelines.engine.slots.desk import Desk, current
from pipelines.engine.slots.engines import started
from pipelines.engine.slots.messages import Failed, Task
from pipelines.engine.slots.supervisor import Supervisor
from pipelines.manifests.read import READERS
from pipelines.manifests.units import together
from pipelines.output.layout import EMBEDDINGS, REJECTS, OutputLayout
from pipelines.ownership.lock import Part, RunLock, living_runs
from pipelines.records import Unit, UnitResult
from pipelines.runs import faults
from pipelines.runs.job import build, reader_of
from pipelines.runs.options import EmbedConfig
from pipelines.runs.progress import Progress, on_slots
from pipelines.runs.starting import Job
from pipelines.storage import uris
from pipelines.storage.partial_files import remove_partials


class DeskUnits:
    """Units that the supervisor of this slot gives."""

    def take(self, holder: object, held: int) -> tuple[Unit, ...] | None:
        """Asks for units."""
        task = current().take(holder, held)
        return None if task is None else tuple(unit for _, unit in task.items)

    def begun(self, unit: Unit) -> None:
        """Tells that work on a unit has begun."""
        current().begun(unit.unit_id)

    def found(self, result: UnitResult) -> None:
        """Tells of a unit that was whole already."""
        tell_done(result)


def tell_done(result: UnitResult) -> None:
    """Tells the supervisor of this slot that a unit is whole."""
    current().done(result.unit_id, result)


@dataclass(frozen=True, eq=False)
class EmbedUnits:
    """What a slot does: it loads the models once and runs the line, as often as it is sent to work.

    Attributes:
        part: whose lock is looked at before a file gets its name.
    """

    embed_rows: EmbedRows
    layout: OutputLayout
    part: Part | None

    def load(self) -> None:
        """Loads the models, which all later pipelines of this process share."""
        self.embed_rows.handler.load_model()

    def run(self, desk: Desk, isolated: bool) -> Mapping[str, float]:
        """Runs one pipeline; returns seconds by stage."""
        options = PipelineOptions(["--runner", LOCAL_RUNNER])
        use_local_threads(options, READERS)
        pipeline = new_pipeline(options)
        transform = self.embed_rows.isolated() if isolated else self.embed_rows
        read = reader_of(transform, self.layout, source=DeskUnits())
        build(pipeline, read, transform, self.layout, self.part, tell_done)
        result = pipeline.run()
        result.wait_until_finish()
        return counters.stage_seconds(result)

    def failed(self, error: BaseException) -> Failed:
        """Says what went wrong."""
        return faults.failed(error)


def embed_on_slots(
    job: Job, config: EmbedConfig, lock: RunLock
) -> tuple[Mapping[str, float], Share]:
    """Embeds the pending units of a job; returns seconds by stage, and what the slots had.

    Raises:
        SlotsFailedError: if that cannot be, or some cannot be, after all others are.
    """
    work = EmbedUnits(job.embed_rows, job.layout, config.part)
    tasks = [Task(tuple((u.unit_id, u) for u in group)) for group in together(job.pending)]
    patience = Patience()
    try:
        with started(config.engine, work, len(tasks), job.models.gpus) as (engine, share):

            def done(seat: Seat, name: str, result: UnitResult) -> None:
                supervisor.board.note_done(seat, result.rows_read, result.rejects)

            supervisor = Supervisor(engine, share.slots, tasks, done, patience)
            count = on_slots(supervisor.board)
            with Progress(job.rows, job.done_rows, count) as progress:
                lock.about, patience.say = progress.snapshot, progress.say
                supervisor.run()
    finally:  # no slot lives any more
        living = living_runs(config.output) - {lock.run}
        for name in (EMBEDDINGS, REJECTS):
            remove_partials(uris.join(config.output, name), living)
    return supervisor.board.seconds, share
