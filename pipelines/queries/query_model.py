"""The model for questions put to a run's embeddings: it must be the one that made them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clip_core.load_options import LoadOptions
from pipelines.command_line.model_flags import (
    add_checkpoint_flags,
    add_model_name_flag,
    load_options,
)
from pipelines.command_line.parser import group
from pipelines.command_line.places import place
from pipelines.output.scored_tables import COMPARED, ScoredTables
from pipelines.storage.redaction import redact

if TYPE_CHECKING:
    from clip_core.loading import ClipModel


class OtherModelError(ValueError):
    """The model is not the one that made the embeddings: names the difference."""


def add_model_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the flags that tell `load_query_model` what to load."""
    add = group(flags, "model").add_argument
    add(
        "--model",
        type=place,
        metavar="URI",
        help="the model that made the embeddings, as embed takes it [what run.json names, if "
        "published or bundled or the run is trusted]",
    )
    add_model_name_flag(flags)
    add_checkpoint_flags(flags)


def add_device_flag(flags: argparse.ArgumentParser) -> None:
    """Adds the flag that tells `load_query_model` where the model computes."""
    group(flags, "running").add_argument("--device", help="cpu, cuda or auto [cpu]")


def load_query_model(tables: ScoredTables, options: argparse.Namespace) -> ClipModel:
    """Loads the model that made the embeddings; what is not named is taken from run.json.

    Raises:
        OtherModelError: if it is another, or none is named.
        ValueError: if it cannot be loaded.
    """
    import clip_core
    from pipelines.encoding.models import use_threads

    name = options.model or _named_by_run(tables, options.trust_run)
    # What run.json says about its own model says nothing about another one.
    own = tables.options if not options.model and options.trust_run else {}
    try:
        model = clip_core.load(
            name,
            device=_device(options.device),
            **_load_options(tables, options, own).arguments(),
        )
    except (ValueError, OSError) as error:
        if options.model:
            raise
        raise OtherModelError(
            f"{error} (so run.json names the model; pass `model` with where it is now)"
        ) from error
    check_same_model(tables, model)
    use_threads([model])
    return model


def _load_options(
    tables: ScoredTables, options: argparse.Namespace, own: Mapping[str, Any]
) -> LoadOptions:
    """Takes what the options say, and else what run.json says of its own model."""
    given = load_options(options)
    named = {"cache_dir": "model_cache", "arch": "arch", "activation": "activation"}
    named["vocab"] = "vocab"
    found = {name: getattr(given, name) or own.get(option) for name, option in named.items()}
    policy = tables.options.get("image_policy") or given.image_policy
    return replace(given, **found, image_policy=policy)


def _named_by_run(tables: ScoredTables, trusted: bool) -> str:
    """Returns the model that run.json names, which may be a stranger's word.

    Raises:
        OtherModelError: if it names none, or a file or address that nobody has vouched for.
    """
    import clip_core

    name = tables.options.get("model")
    if not isinstance(name, str) or not name:
        raise OtherModelError(
            "expected `model`, as the run has not finished and run.json does not name it"
        )
    if not trusted and name not in clip_core.available_models():
        raise OtherModelError(
            f"run.json names the model {redact(name)!r}, which is not loaded on its word; name it "
            "again with `model`, or pass `trust_run` if the run is yours"
        )
    return name


def _device(name: str | None) -> str:
    if name != "auto":
        return name or "cpu"
    from pipelines.encoding.models import resolve_device

    return resolve_device(name)


def check_same_model(tables: ScoredTables, model: ClipModel) -> None:
    """Makes sure that a model's embeddings can be compared with those of the tables.

    Raises:
        OtherModelError: names the first difference.
    """
    resampling = tables.fingerprint.get("decode") or "exact"
    pixels = replace(model.preprocessing, resampling=resampling).identity
    found = model.fingerprint | {"preprocessing": pixels}
    for name in COMPARED:
        expected, got = tables.model_fingerprint.get(name), found.get(name)
        if expected is not None and expected != got:
            raise OtherModelError(
                f"expected the model that made the embeddings, with {name} {expected!r}, got "
                f"{got!r}; name it with `model`, or embed again with this one"
            )
