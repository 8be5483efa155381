"""What a run of `embed` checks and writes down before any worker starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.models import RunModels
from pipelines.engine.beam_options import name_job
from pipelines.engine.per_file import workers_that_read
from pipelines.engine.slots.choice import LOCAL
from pipelines.manifests.planning import Plan
from pipelines.output import overwriting
from pipelines.output.layout import EMBEDDINGS, OUTPUTS, REJECTS, OutputLayout
from pipelines.output.unit_record import UnitRecord
from pipelines.ownership.finished import files_there, own_units
from pipelines.ownership.lock import RunLock, living_runs
from pipelines.ownership.planned import PlannedRun, begin, begin_part, read_planned
from pipelines.records import Unit, UnitResult, known_sum
from pipelines.runs.job import embed_rows_of, heads_for, layout_of, load_run_models, plan_of
from pipelines.runs.options import EmbedConfig
from pipelines.runs.resume import (
    Changed,
    changed_units,
    check_resumable,
    pending_of,
    retried_reasons,
)
from pipelines.storage import uris
from pipelines.storage.partial_files import remove_partials
from pipelines.storage.redaction import redacted


@dataclass(frozen=True)
class Job:
    """A run that has passed every check: what is left to do and with what.

    Attributes:
        units: of the plan that this launcher is to do: all, or those of its part.
        finished: what the output says of these, among them those whose rejects are pending.
        models: that are to be used.
        changed: which of the finished have other rows in the manifest now.
    """

    plan: Plan
    units: tuple[Unit, ...]
    pending: tuple[Unit, ...]
    finished: tuple[UnitResult, ...]
    embed_rows: EmbedRows
    layout: OutputLayout
    planned: PlannedRun
    models: RunModels
    changed: Changed = Changed()

    def left_to_do(self, records: Sequence[UnitRecord]) -> list[Unit]:
        """Returns this launcher's units that are not whole in the output.

        Args:
            records: what the files of the embeddings say that are this output's.
        """
        old = {record.result.unit_id for record in records if record.by.run != self.layout.run}
        changed = self.changed.units & old
        return pending_of(self.units, records, self.planned, self.layout.root, changed=changed)

    def attempt_at(self, pending: Sequence[Unit]) -> Job:
        """Returns the job with what is to be attempted now, and what the output has of it."""
        there = files_there(self.layout.root, pending)
        return replace(self, pending=tuple(pending), layout=replace(self.layout, there=there))

    def own_records(self) -> list[UnitRecord]:
        """Reads what the files of the embeddings say that are this output's."""
        return own_units(self.layout.root, self.planned)

    @property
    def rows(self) -> int | None:
        """Rows of this launcher's units, or None when only reading tells."""
        return known_sum(unit.rows_to_read for unit in self.units)

    @property
    def done_rows(self) -> int:
        """Rows of these that are not touched again."""
        again = {unit.unit_id: unit.rows_to_read for unit in self.pending}
        rows = 0
        for result in self.finished:
            to_read = again.get(result.unit_id, 0)
            # What is read again are records, of which a row may have several.
            rows += max(result.rows_read - (result.rows_read if to_read is None else to_read), 0)
        return rows


def prepare(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> Job:
    """Plans the units, loads the model and looks at the output, before any worker starts.

    Args:
        options: Beam's; they say whether this process's device is the workers'.
        lock: taken before the output is looked at.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    workers = workers_that_read(config.engine, options)
    plan = plan_of(config, workers)
    models = load_run_models(config)
    heads = heads_for(plan, models, config)
    layout = layout_of(plan, models, heads, config, lock.run)
    lock.acquire()
    _make_room(config)
    before = read_planned(config.output)
    finished = own_units(config.output, before)
    check_resumable(finished, plan.units, layout.fingerprint, plan.kept)
    planned = _write_down(config, options, plan, layout, before, finished)
    units = plan.units[config.part.number - 1 :: config.part.of] if config.part else plan.units
    own = {unit.unit_id for unit in units}
    finished = [record for record in finished if record.result.unit_id in own]
    changed = changed_units(finished, units, workers)
    pending = pending_of(
        units, finished, planned, config.output, retried_reasons(config), changed.units
    )
    return Job(
        plan=plan,
        units=tuple(units),
        pending=tuple(pending),
        finished=tuple(record.result for record in finished),
        embed_rows=embed_rows_of(models, heads, config, lock.run),
        layout=replace(layout, output_id=planned.output_id),
        planned=planned,
        models=models.without_weights(keep=config.engine.name == LOCAL),
        changed=changed,
    )


def _make_room(config: EmbedConfig) -> None:
    """Removes what no living run owns. The order is a fence: first the lock was taken, now go the
    partial files, then, with `overwrite`, the tables. A worker of an earlier run that looked at
    the lock before has nothing left to name, and one that looks later sees whose it is."""
    overwriting.remove_partials(config.output)
    for name in (EMBEDDINGS, REJECTS):
        remove_partials(uris.join(config.output, name), living_runs(config.output))
    if config.overwrite:
        overwriting.make_room(config.output, OUTPUTS, overwrite=True)


def _write_down(
    config: EmbedConfig,
    options: PipelineOptions,
    plan: Plan,
    layout: OutputLayout,
    before: PlannedRun | None,
    finished: Sequence[UnitRecord],
) -> PlannedRun:
    """Writes down what the run is to do."""
    runner = options.view_as(StandardOptions).runner
    planned = PlannedRun(
        output_id="",
        run=layout.run,
        engine=config.engine.name or runner,
        job="" if config.engine.name else name_job(options, layout.run),
        parts=config.part.of if config.part else 1,
        max_reject_fraction=config.max_reject_fraction,
        fingerprint=_as_json(layout.fingerprint),
        options=_as_json(redacted(asdict(config))),
        units=tuple((unit.unit_id, unit.rows_to_read) for unit in plan.units),
    )
    write = begin_part if config.part else begin
    return write(config.output, planned, before, finished)


def _as_json(values: Mapping[str, Any]) -> Any:
    """Returns the values as they are when they have been written and read."""
    return json.loads(json.dumps(values))
