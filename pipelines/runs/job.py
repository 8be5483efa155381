"""What a run of `embed` is made of, from its config: models, transform, layout and fingerprint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from clip_core.load_options import LoadOptions
from pipelines.encoding.embed_rows import EmbedRows
from pipelines.encoding.models import ModelSpec, RunModels
from pipelines.engine.chunks import chunk_rows
from pipelines.engine.per_file import Workers
from pipelines.engine.slots.choice import LOCAL
from pipelines.images.columns import added_columns, image_columns
from pipelines.images.decode import limits_of
from pipelines.images.fetch import FetchPolicy
from pipelines.images.sources import check_hosts
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.read import ReadManifest, UnitSource
from pipelines.manifests.request import ManifestRequest
from pipelines.output.layout import OutputLayout
from pipelines.output.write_units import WriteUnits, WrittenBy
from pipelines.ownership.lock import Part, check_held
from pipelines.probes.head import Head
from pipelines.probes.heads_of import head_fields, heads_of
from pipelines.records import Unit, UnitResult
from pipelines.runs.options import EmbedConfig
from pipelines.runs.resume import check_not_own, check_replay
from pipelines.storage import uris, writing
from pipelines.storage.redaction import redacted
from schemas.embeddings import embeddings_schema
from schemas.pairs import BOTH
from schemas.rejects import rejects_schema


def load_run_models(config: EmbedConfig) -> RunModels:
    """Loads the models of a run, device and precision resolved.

    Raises:
        ValueError, OSError: if a model cannot be loaded, or `auto` cannot be resolved here.
    """
    if not config.engine.is_here and "auto" in (config.device, config.precision):
        raise ValueError(
            "expected `device` and `precision` to be named when the workers run elsewhere, got "
            "`auto`; pass, for example, `device='cuda', precision='bf16'`"
        )
    vocab, cache = (uri and uris.absolute(uri) for uri in (config.vocab, config.model_cache))
    options = LoadOptions(config.arch, config.activation, vocab, cache, config.image_policy)
    like = ModelSpec("", config.device, config.precision, options, config.compile)
    return RunModels.load(config.model, like, here=config.engine.name == LOCAL)


def manifest_request(config: EmbedConfig) -> ManifestRequest:
    """Returns what a run says of its manifest."""
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
        allow_manifests_from=config.allow_manifests_from,
        trust_run=config.trust_run,
        **config.dialect(),
    )


def plan_of(config: EmbedConfig, workers: Workers | None = None) -> Plan:
    """Plans the units of a run.

    Args:
        workers: that may read large text manifests; None for this process.

    Raises:
        ValueError, OSError: if the manifest, or what is said of it, makes no sense.
    """
    writing.check_directory(config.output)
    check_not_own(config)
    if config.http_proxy is None:
        check_hosts(config.allow_images_from, config.allow_private_hosts)
    plan = plan_units(manifest_request(config), workers)
    check_replay(plan.units, config)
    return plan


def layout_of(
    plan: Plan, models: RunModels, heads: Sequence[Head], config: EmbedConfig, run: str = ""
) -> OutputLayout:
    """Returns where and what a run, of that id, writes."""
    kept = list(plan.kept)
    return OutputLayout(
        run=run,
        root=uris.absolute(config.output),
        embeddings=embeddings_schema(
            _dims(models),
            config.embedding_dtype,
            scores_only=config.scores_only,
            kept=[*kept, *head_fields(heads)],
            image_fields=[column.field for column in image_columns()],
            pairs=config.pairs,
        ),
        rejects=rejects_schema(kept, config.pairs),
        fingerprint=fingerprint_of(models, heads, config),
        models=models.names,
    )


def embed_rows_of(
    models: RunModels,
    heads: Sequence[Head],
    config: EmbedConfig,
    run: str = "",
    images_s: float = math.inf,
) -> EmbedRows:
    """Returns the transform of a run of that id.

    Args:
        images_s: seconds for all of its images over http(s) together.
    """
    allowed = image_prefixes(config)
    web = config.web_settings(allowed)
    web = replace(web, bounds=replace(web.bounds, all_s=images_s))
    return EmbedRows(
        models,
        batch_size=config.batch_size,
        fetch_policy=FetchPolicy(allowed, concurrency=config.fetch_concurrency, web=web),
        decode_limits=limits_of(vars(config)),
        resampling=config.decode,
        isolate_decoding=config.isolate_decoding,
        run=run,
        heads=heads,
        pairs=config.pairs,
    )


def image_prefixes(config: EmbedConfig) -> tuple[str, ...]:
    """Returns the prefixes that images may come from, beside their manifest's directory."""
    named = config.allow_images_from + ((config.image_root,) if config.image_root else ())
    return tuple(map(uris.absolute, named))  # workers may have another working directory


def heads_for(plan: Plan, models: RunModels, config: EmbedConfig) -> tuple[Head, ...]:
    """Reads the heads of a run, whose columns come beside those that the plan keeps.

    Raises:
        HeadError, OSError: if one cannot be read, or does not fit the run's models.
    """
    if not config.head and not config.head_activation:
        return ()
    fingerprint = models.fingerprint(config.decode)
    return heads_of(
        config.head, config.head_activation, _dims(models), fingerprint, plan.kept.names
    )


def _dims(models: RunModels) -> dict[str | None, int]:
    dims = [model.config.embed_dim for model in models.loaded]
    return dict(zip(models.names, dims, strict=True))


def reader_of(
    embed_rows: EmbedRows,
    layout: OutputLayout,
    units: Sequence[Unit] = (),
    limit: int | None = None,
    source: UnitSource | None = None,
) -> ReadManifest:
    """Returns the transform that reads the units of a run.

    Args:
        limit: rows of each unit at most, for a sample.
        source: gives the units instead, while the line runs.
    """
    own = rejects_schema(pairs=embed_rows.pairs)
    kept = pa.schema(list(layout.rejects)[len(own) :])
    return ReadManifest(
        Plan(tuple(units), kept, None),
        rows=chunk_rows(embed_rows.handler.batch_size),
        find_written=WrittenBy(layout),
        limit=limit,
        run=layout.run,
        source=source,
    )


def build(
    pipeline: beam.Pipeline,
    read: ReadManifest,
    embed_rows: EmbedRows,
    layout: OutputLayout,
    part: Part | None = None,
    tell: Callable[[UnitResult], object] = lambda result: None,
) -> None:
    """Wires the three transforms; all that follows the reshuffle is one line.

    Args:
        part: whose lock is looked at before a unit gets its files.
        tell: called with what became of each unit.
    """
    held = partial(check_held, layout.root, layout.run, part)
    _ = pipeline | read | embed_rows | WriteUnits(layout, check_held=held, tell=tell)


def fingerprint_of(models: RunModels, heads: Sequence[Head], config: EmbedConfig) -> dict[str, Any]:
    """Returns everything that decides the values in the tables but for the manifest.

    Which of its columns hold what stands in the record of each unit.
    """
    names = ("decode", "deep_images", "embedding_dtype", "exif_orientation", "keep_columns")
    values = {name: getattr(config, name) for name in (*names, "scores_only")}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    added: dict[str, Any] = {}
    if config.pairs != BOTH:
        added["pairs"] = config.pairs
    if added_columns():
        added["image_columns"] = list(added_columns())
    if heads:
        added["heads"] = {head.name: head.sha256 for head in heads}
    return redacted(models.fingerprint(config.decode) | values | lists | added)
