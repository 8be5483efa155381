"""What a run of `embed` is made of, from its flags: models, transform, layout and fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from clip_core.load_options import LoadOptions
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.models import ModelSpec, RunModels
from pipelines.engine.chunks import chunk_rows
from pipelines.images.columns import added_columns, image_columns
from pipelines.images.decode import DecodeLimits
from pipelines.images.fetch import FetchPolicy
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.read import ReadManifest
from pipelines.manifests.request import ManifestRequest
from pipelines.output.layout import OutputLayout
from pipelines.output.write_units import WriteUnits, WrittenBy
from pipelines.records import Unit
from pipelines.runs.lock import check_held
from pipelines.runs.options import EmbedConfig
from pipelines.runs.resume import check_not_own, check_replay
from pipelines.storage import writing
from pipelines.storage.redaction import redacted
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema


def load_run_models(config: EmbedConfig, here: bool) -> RunModels:
    """Loads what `--model` names, device and precision resolved.

    Args:
        here: as `RunModels.load`.

    Raises:
        ValueError, OSError: if a model cannot be loaded, or `auto` cannot be resolved here.
    """
    if not here and "auto" in (config.device, config.precision):
        raise ValueError(
            "expected `--device` and `--precision` to be named when the workers run elsewhere, got "
            "`auto`; pass, for example, `--device cuda --precision bf16`"
        )
    options = LoadOptions(
        config.arch, config.activation, config.vocab, config.model_cache, config.image_policy
    )
    like = ModelSpec("", config.device, config.precision, options, config.compile)
    return RunModels.load(config.model, like, here)


def manifest_request(config: EmbedConfig) -> ManifestRequest:
    """Returns the flags about the manifest."""
    return ManifestRequest(
        patterns=config.manifest,
        format=config.manifest_format,
        image_column=config.image_column,
        text_column=config.text_column,
        id_column=config.id_column,
        keep_columns=config.keep_columns,
        image_encoding=config.image_encoding,
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
    allowed = config.allow_images_from + ((config.image_root,) if config.image_root else ())
    return EmbedRows(
        models,
        batch_size=config.batch_size,
        fetch_policy=FetchPolicy(allowed=allowed, concurrency=config.fetch_concurrency),
        decode_limits=DecodeLimits(reject_deep=config.deep_images == "reject"),
        resampling=config.decode,
        isolate_decoding=config.isolate_decoding,
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
    kept = pa.schema(list(layout.rejects)[len(rejects_schema()) :])
    read = ReadManifest(
        Plan(tuple(units), kept, None),
        rows=chunk_rows(embed_rows.handler.batch_size),
        is_written=WrittenBy(layout),
        limit=limit,
        run=layout.run,
    )
    write = WriteUnits(layout, check_held=partial(check_held, layout.root, layout.run))
    _ = pipeline | read | embed_rows | write


def fingerprint_of(models: RunModels, config: EmbedConfig) -> dict[str, Any]:
    """Returns everything that decides the values in the tables but for the manifest.

    Which of its columns hold what stands in the record of each unit.
    """
    names = ("decode", "deep_images", "embedding_dtype", "keep_columns", "scores_only")
    values = {name: getattr(config, name) for name in names}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    added = {"image_columns": list(added_columns())} if added_columns() else {}
    return redacted(models.fingerprint(config.decode) | values | lists | added)
