"""The models of a run in a worker: which, on what device, and loaded once for all threads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

import clip_core.loading
from clip_core.checkpoints.locate import available_models
from clip_core.checkpoints.published import SHA256, download
from clip_core.inference.ready import ready_to_encode
from clip_core.load_options import LoadOptions
from clip_core.loading import ClipModel
from pipelines.command_line import exits
from pipelines.engine.cores import Threads, threads_for
from pipelines.storage import uris

BATCH_SIZE = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class ModelSpec:
    """Which model a worker loads, and how. Small enough to travel in the pipeline's graph.

    Attributes:
        uri: name, file or directory, as `clip_core.load` takes it.
        device, precision: `auto` until `resolved`.
        options: what is said of it besides.
        compiled: whether to compile its blocks on a GPU.
    """

    uri: str
    device: str = "cpu"
    precision: str = "fp32"
    options: LoadOptions = LoadOptions()
    compiled: bool = False

    def resolved(self) -> ModelSpec:
        """Returns the same with the device and the precision that `auto` stands for here."""
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        return replace(self, device=device, precision=precision)


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """The models of a run, in its order, and the threads of this process.

    Attributes:
        parameters: of the largest.

    Beam keeps a weak reference, which no tuple can have.
    """

    models: tuple[ClipModel, ...]
    parameters: int
    threads: Threads


_AUTO = ModelSpec("", "auto", "auto")


@lru_cache(maxsize=1)
def load_models(specs: tuple[ModelSpec, ...]) -> LoadedModels:
    """Loads models once per process: all threads share them."""
    download({spec.uri for spec in specs} & SHA256.keys(), specs[0].options.cache_dir)
    models = tuple(_load(spec) for spec in specs)
    parameters = _parameters(models)
    threads = use_threads(models)
    for model, spec in zip(models, specs, strict=True):
        ready_to_encode(model.clip, spec.compiled)
    return LoadedModels(models, parameters, threads)


def use_threads(models: Sequence[ClipModel]) -> Threads:
    """Lets torch compute in as many threads as these models gain from; returns who gets what.

    Args:
        models: as they were loaded; `ready_to_encode` makes other tensors of their parameters.
    """
    threads = threads_for(_parameters(models))
    if threads.torch is not None:
        torch.set_num_threads(threads.torch)
    return threads


def _parameters(models: Sequence[ClipModel]) -> int:
    return max(sum(p.numel() for p in model.clip.parameters()) for model in models)


def _load(spec: ModelSpec) -> ClipModel:
    return clip_core.loading.load(
        spec.uri,
        device=spec.device,
        precision=spec.precision,
        **spec.options.arguments(),
    )


def _absolute(model: str) -> str:
    """Returns a path as a worker with another working directory finds it; names as they are."""
    is_path = model not in available_models() and os.path.exists(model)
    return uris.absolute(model) if is_path else model


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


@dataclass(frozen=True)
class RunModels:
    """The models of a run, loaded, in the order they were named.

    Attributes:
        names: (None,) for one model without a name.
        parameters: of the largest.
    """

    names: tuple[str | None, ...]
    specs: tuple[ModelSpec, ...]
    loaded: tuple[ClipModel, ...]
    parameters: int

    @classmethod
    def load(
        cls, models: str | Mapping[str, str], like: ModelSpec = _AUTO, here: bool = True
    ) -> RunModels:
        """Loads models.

        Args:
            models: a name, file or directory, or several by the names that their columns get.
            like: what all of them have but their URI.
            here: whether the workers run in this process, so that its device is theirs. Else the
                models are loaded on the processor, which tells as much of them as the launcher
                needs.

        Raises:
            ValueError, OSError: if a model cannot be loaded, or one is to be compiled on a
                processor.
        """
        named: dict[str | None, str] = (
            {None: models} if isinstance(models, str) else dict(models.items())
        )
        specs = tuple(replace(like, uri=_absolute(uri)).resolved() for uri in named.values())
        if like.compiled and specs[0].device == "cpu":
            raise ValueError(
                "`compile` is for a GPU, and this run is on a CPU, where steps are fused "
                "already; leave it out"
            )
        own = specs if here else tuple(replace(spec, device="cpu") for spec in specs)
        before = torch.get_num_threads()
        found = load_models(own)
        if found.threads.torch is not None:
            exits.put_back(torch.set_num_threads, before)
            torch.set_num_threads(found.threads.torch)  # they may have been loaded by a run before
        return cls(tuple(named), specs, found.models, found.parameters)

    def without_weights(self, keep: bool) -> RunModels:
        """Returns the same without the loaded models.

        Args:
            keep: whether this process will encode with them.
        """
        if not keep:
            load_models.cache_clear()
        return replace(self, loaded=())

    def threads_on(self, cores: int) -> Threads:
        """Returns what threads a process has that may use so many cores."""
        return threads_for(self.parameters, cores=cores)

    @property
    def gpus(self) -> tuple[str, ...]:
        """Names of the GPUs of this machine that the models may run on, as CUDA_VISIBLE_DEVICES has
        them; none, where they run elsewhere or on one that was named."""
        if self.specs[0].device != "cuda":
            return ()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible:
            return tuple(visible.split(","))
        return tuple(map(str, range(torch.cuda.device_count())))

    def fingerprint(self, resampling: str) -> dict[str, Any]:
        """Returns what decides the vectors of each model.

        What depends on a model has the name of it in front, as in `b32.checkpoint_sha256`, if it
        has one.
        """
        found: dict[str, Any] = {}
        for name, model in zip(self.names, self.loaded, strict=True):
            pixels = replace(model.preprocessing, resampling=resampling).identity
            for key, value in (model.fingerprint | {"preprocessing": pixels}).items():
                found[key if name is None else f"{name}.{key}"] = value
        return found
