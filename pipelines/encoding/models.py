"""The models of a run in a worker: which, on what device, and loaded once for all threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

import clip_core.loading
from clip_core.inference.ready import ready_to_encode
from clip_core.loading import ClipModel
from pipelines.engine.cores import Threads, threads_for

BATCH_SIZE = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class ModelSpec:
    """Which model a worker loads, and how. Small enough to travel in the pipeline's graph.

    Attributes:
        uri: name, file or directory, as `clip_core.load` takes it.
        device, precision: resolved, never `auto`.
        arch, activation, vocab: what the checkpoint itself does not tell, or None.
        cache: directory of downloaded models, or None for the usual one.
        image_policy: when pictures are converted to RGB.
        compiled: whether to compile its blocks on a GPU.
    """

    uri: str
    device: str = "cpu"
    precision: str = "fp32"
    arch: str | None = None
    activation: str | None = None
    vocab: str | None = None
    cache: str | None = None
    image_policy: str = "openai"
    compiled: bool = False


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """The models of a run, in its order, and the threads of this process.

    Beam keeps a weak reference, which no tuple can have.
    """

    models: tuple[ClipModel, ...]
    threads: Threads


@lru_cache(maxsize=1)
def load_models(specs: tuple[ModelSpec, ...]) -> LoadedModels:
    """Loads models once per process: all threads share them."""
    models = tuple(_load(spec) for spec in specs)
    threads = use_threads(models)
    for model, spec in zip(models, specs, strict=True):
        ready_to_encode(model.clip, spec.compiled)
    return LoadedModels(models, threads)


def use_threads(models: Sequence[ClipModel]) -> Threads:
    """Lets torch compute in as many threads as these models gain from; returns who gets what.

    Args:
        models: as they were loaded; `ready_to_encode` makes other tensors of their parameters.
    """
    sizes = [sum(p.numel() for p in model.clip.parameters()) for model in models]
    threads = threads_for(max(sizes))
    if threads.torch is not None:
        torch.set_num_threads(threads.torch)
    return threads


def _load(spec: ModelSpec) -> ClipModel:
    return clip_core.loading.load(
        spec.uri,
        device=spec.device,
        precision=spec.precision,
        arch=spec.arch,
        activation=spec.activation,
        vocab=spec.vocab,
        cache_dir=spec.cache,
        image_policy=spec.image_policy,
    )


def resolve_device(name: str) -> str:
    """Returns `cuda` or `cpu` for `auto`, else the name as given."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(name: str, device: str) -> str:
    """Returns the precision for `auto`: fp32 on a CPU, bf16 or else fp16 on a GPU."""
    if name != "auto":
        return name
    if not device.startswith("cuda"):
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
