"""What a run of `embed` is made of, from its flags: models, transform, layout and fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from clip_core.loading import ClipModel
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.handler import ClipHandler
from pipelines.encoding.image_work import ImageWork
from pipelines.encoding.model_inputs import ModelInputs
from pipelines.encoding.models import (
    BATCH_SIZE,
    ModelSpec,
    load_models,
    resolve_device,
    resolve_precision,
)
from pipelines.engine.chunks import chunk_rows
from pipelines.engine.cores import Threads
from pipelines.images.columns import added_columns, image_columns
from pipelines.images.decode import DecodeLimits
from pipelines.images.fetch import FetchPolicy
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.read import ReadManifest
from pipelines.manifests.request import ManifestRequest
from pipelines.output.unit_writer import OutputLayout
from pipelines.output.write_units import WriteUnits, WrittenBy
from pipelines.records import Unit
from pipelines.runs.lock import check_held
from pipelines.runs.options import EmbedConfig
from pipelines.runs.resume import check_not_own, check_replay
from pipelines.storage import writing
from pipelines.storage.redaction import redacted
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema


@dataclass(frozen=True)
class RunModels:
    """The models of a run, loaded, in the order of their flags.

    Attributes:
        names: (None,) for one model without a name.
        threads: that this process shares its cores among.
    """

    names: tuple[str | None, ...]
    specs: tuple[ModelSpec, ...]
    loaded: tuple[ClipModel, ...]
    threads: Threads


def load_run_models(config: EmbedConfig, here: bool) -> RunModels:
    """Loads what `--model` names, device and precision resolved.

    Args:
        here: whether the workers run in this process, so that its device is theirs. Else the
            models are loaded on the processor, which tells as much of them as the launcher needs.

    Raises:
        ValueError, OSError: if a model cannot be loaded, or `auto` cannot be resolved here.
    """
    if not here and "auto" in (config.device, config.precision):
        raise ValueError(
            "expected `--device` and `--precision` to be named when the workers run elsewhere, got "
            "`auto`; pass, for example, `--device cuda --precision bf16`"
        )
    named: dict[str | None, str] = (
        {None: config.model} if isinstance(config.model, str) else dict(config.model.items())
    )
    specs = tuple(_spec(uri, config) for uri in named.values())
    if config.compile and specs[0].device == "cpu":
        raise ValueError(
            "`--compile` is for a GPU, and this run is on a CPU, where steps are fused already; "
            "leave it out"
        )
    own = specs if here else tuple(replace(spec, device="cpu") for spec in specs)
    found = load_models(own)
    return RunModels(tuple(named), specs, found.models, found.threads)


def _spec(uri: str, config: EmbedConfig) -> ModelSpec:
    device = resolve_device(config.device)
    return ModelSpec(
        uri=uri,
        device=device,
        precision=resolve_precision(config.precision, device),
        arch=config.arch,
        activation=config.activation,
        vocab=config.vocab,
        cache=config.model_cache,
        image_policy=config.image_policy,
        compiled=config.compile,
    )


def manifest_request(config: EmbedConfig) -> ManifestRequest:
    """Returns the flags about the manifest."""
    return ManifestRequest(
        patterns=config.manifest,
        format=config.manifest_format,
        image_column=config.image_column,
        text_column=config.text_column,
        id_column=config.id_column,
        keep_columns=config.keep_columns,
        image_root=config.image_root,
        rows_per_unit=config.rows_per_unit,
        only_reasons=config.only_reasons,
        output=config.output,
        allowed=config.allow_manifests_from,
        trust_run=config.trust_run,
    )


def plan_of(config: EmbedConfig) -> Plan:
    """Plans the units of a run.

    Raises:
        ValueError, OSError: if the manifest, or a flag about it, makes no sense.
    """
    writing.check_directory(config.output)
    check_not_own(config)
    plan = plan_units(manifest_request(config))
    check_replay(plan.units, config)
    return plan


def layout_of(plan: Plan, models: RunModels, config: EmbedConfig, run: str = "") -> OutputLayout:
    """Returns where and what a run, of that id, writes."""
    kept = list(plan.kept)
    dims = [model.config.embed_dim for model in models.loaded]
    return OutputLayout(
        run=run,
        root=config.output,
        embeddings=embeddings_schema(
            dict(zip(models.names, dims, strict=True)),
            config.embedding_dtype,
            scores_only=config.scores_only,
            kept=kept,
            image_fields=[column.field for column in image_columns()],
        ),
        rejects=rejects_schema(kept),
        fingerprint=fingerprint_of(models, config),
        models=models.names,
    )


def embed_rows_of(models: RunModels, config: EmbedConfig, run: str = "") -> EmbedRows:
    """Returns the transform of a run of that id."""
    device = models.specs[0].device
    batch_size = config.batch_size or BATCH_SIZE.get(device, BATCH_SIZE["cuda"])
    checkpoints = [model.fingerprint["checkpoint_sha256"] for model in models.loaded]
    allowed = config.allow_images_from + ((config.image_root,) if config.image_root else ())
    inputs = ModelInputs.of(
        [replace(m.preprocessing, resampling=config.decode) for m in models.loaded],
        [model.tokenizer for model in models.loaded],
    )
    return EmbedRows(
        ClipHandler(models.specs, checkpoints, batch_size, inputs.of_model, run),
        ImageWork(
            inputs,
            FetchPolicy(allowed=allowed),
            DecodeLimits(reject_deep=config.deep_images == "reject"),
            config.isolate_decoding,
        ),
        row_bytes=sum(2 * 4 * model.config.embed_dim for model in models.loaded),
        run=run,
    )


def build(
    pipeline: beam.Pipeline,
    units: Sequence[Unit],
    embed_rows: EmbedRows,
    layout: OutputLayout,
    limit: int | None = None,
) -> None:
    """Wires the three transforms; all that follows the reshuffle is one line.

    Args:
        limit: rows of each unit at most, for a sample.
    """
    rows = chunk_rows(embed_rows.handler.batch_size)
    kept = pa.schema(list(layout.rejects)[len(rejects_schema()) :])
    created = beam.Create(units, reshuffle=False).with_output_types(Unit)
    _ = (
        pipeline
        | "Units" >> created
        | "Spread" >> beam.Reshuffle()
        | ReadManifest(kept, rows, WrittenBy(layout), limit, layout.run)
        | embed_rows
        | WriteUnits(layout, partial(check_held, layout.root, layout.run))
    )


def fingerprint_of(models: RunModels, config: EmbedConfig) -> dict[str, Any]:
    """Returns everything that decides the values in the tables but for the manifest.

    Which of its columns hold what stands in the record of each unit.
    What depends on a model has the name of it in front, as in `b32.checkpoint_sha256`, if it has
    one.
    """
    names = ("decode", "deep_images", "embedding_dtype", "keep_columns", "scores_only")
    values = {name: getattr(config, name) for name in names}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    of_models = {
        key if name is None else f"{name}.{key}": value
        for name, model in zip(models.names, models.loaded, strict=True)
        for key, value in (model.fingerprint | _pixels_of(model, config)).items()
    }
    added = {"image_columns": list(added_columns())} if added_columns() else {}
    return redacted(of_models | values | lists | added)


def _pixels_of(model: ClipModel, config: EmbedConfig) -> dict[str, str]:
    preprocessing = replace(model.preprocessing, resampling=config.decode)
    return {"preprocessing": preprocessing.identity}
