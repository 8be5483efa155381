"""Encodes batches of examples with CLIP inside Beam's RunInference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

import clip_core.loading
from clip_core.encoding import encode_pairs
from clip_core.inference import ready_to_encode
from clip_core.loading import ClipModel
from pipelines.batch_recovery import BatchLimit, BatchRecovery
from pipelines.cores import Threads, threads_for
from pipelines.records import Embedded, Example, ModelInput, Reject, RowFault, Vectors
from pipelines.redaction import ADDRESS, MASK
from schemas.rejects import Reason

BATCH_SIZE = {"cpu": 64, "cuda": 512}
# What torch says on a CPU, where it has no class of its own for it.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


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


class ModelChangedError(RuntimeError):
    """A worker found another checkpoint than the launcher did."""


class EncoderFailedError(RuntimeError):
    """The device or its memory is at fault, and not a row."""


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


@lru_cache(maxsize=1)
def batch_limit(specs: tuple[ModelSpec, ...]) -> BatchLimit:
    """Returns what this process has learnt about the batches that fit beside these models."""
    return BatchLimit()


class ClipHandler(ModelHandler[Example, "Embedded | Reject", LoadedModels]):
    """Embeds batches of examples by one model or several; a row that cannot be becomes a reject.

    A batch that does not fit into memory is halved, and later ones begin at the size that fits. A
    batch that fails otherwise is bisected down to the rows that make it fail. A row is rejected
    (`encode_failed`, `out_of_memory`) only if the model still encodes a blank picture after it;
    else the machine is at fault, not the row, and the error is raised. A row whose vectors are
    not finite is rejected as `non_finite`.

    Counters: `special_tokens`, literal ones in captions, which the model reads as such.

    Args:
        specs: the models.
        checkpoints: SHA-256 of the weights the launcher saw; a worker that finds others fails.
        batch_size: rows in a batch; also the least, as Beam would start with batches of one.
    """

    def __init__(
        self, specs: Sequence[ModelSpec], checkpoints: Sequence[str], batch_size: int
    ) -> None:
        super().__init__()
        self._specs = tuple(specs)
        self._checkpoints = tuple(checkpoints)
        self._batch_size = batch_size
        self._special_tokens = Metrics.counter(ClipHandler, "special_tokens")

    @property
    def batch_size(self) -> int:
        """Rows in a batch."""
        return self._batch_size

    @property
    def on_gpu(self) -> bool:
        """Whether a device beside the processor encodes."""
        return any(spec.device != "cpu" for spec in self._specs)

    def load_model(self) -> LoadedModels:
        """Loads the models, once per process."""
        loaded = load_models(self._specs)
        for model, expected in zip(loaded.models, self._checkpoints, strict=True):
            found = model.fingerprint["checkpoint_sha256"]
            if found != expected:
                raise ModelChangedError(
                    f"expected the checkpoint with SHA-256 {expected}, got {found}; start the job "
                    "again once the model no longer changes"
                )
        return loaded

    def run_inference(
        self,
        batch: Sequence[Example],
        model: LoadedModels,
        inference_args: dict[str, Any] | None = None,
    ) -> list[Embedded | Reject]:
        """Returns a record for each example, in order. A list, so that failures surface here.

        Raises:
            EncoderFailedError: if, after a row failed, a blank picture fails as well.
        """
        recovery = BatchRecovery(
            work=lambda rows: encode_examples(rows, model.models),
            check_machine=lambda: _encode_blank(model.models),
            blame=_blamed,
            is_out_of_memory=is_out_of_memory,
            release=_release_memory,
        )
        self._special_tokens.inc(special_tokens(batch, model.models[0]))
        return recovery.run(batch, batch_limit(self._specs))

    def get_num_bytes(self, batch: Sequence[Example]) -> int:
        """Counts array bytes; Beam's default would pickle every batch to find out."""
        inputs = (given for example in batch for given in example.inputs)
        return sum(given.pixels.nbytes + given.tokens.nbytes for given in inputs)

    def batch_elements_kwargs(self) -> dict[str, int]:
        """Fixes the batch size: Beam's estimator would begin with batches of one."""
        return {"min_batch_size": self._batch_size, "max_batch_size": self._batch_size}

    def get_metrics_namespace(self) -> str:
        return "ClipHandler"


def encode_examples(
    batch: Sequence[Example], models: Sequence[ClipModel]
) -> list[Embedded | Reject]:
    """Encodes a batch in one go; a row whose vectors are not finite becomes a reject."""
    inputs = zip(*(example.inputs for example in batch), strict=True)
    columns = [_vectors(given, model) for given, model in zip(inputs, models, strict=True)]
    return [
        _embedded(example, vectors)
        for example, vectors in zip(batch, zip(*columns, strict=True), strict=True)
    ]


def _vectors(inputs: Sequence[ModelInput], model: ClipModel) -> list[Vectors | None]:
    """Returns the vectors of each row by one model, None for those that are not finite."""
    pixels, tokens = [given.pixels for given in inputs], [given.tokens for given in inputs]
    images, texts = encode_pairs(model.clip, pixels, np.stack(tokens))
    finite = np.isfinite(images).all(axis=1) & np.isfinite(texts).all(axis=1)
    return [
        Vectors(image, text, given.text_truncated) if ok else None
        for given, image, text, ok in zip(inputs, images, texts, finite, strict=True)
    ]


def special_tokens(batch: Sequence[Example], model: ClipModel) -> int:
    """Counts literal start and end tokens in captions: each moves what the first model pools."""
    tokens = np.stack([example.inputs[0].tokens for example in batch])
    # Every row has one of each of its own.
    return int((tokens >= model.tokenizer.start_id).sum()) - 2 * len(batch)


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether a smaller batch may do."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _encode_blank(models: Sequence[ClipModel]) -> None:
    """Encodes a black picture without a caption: a model that cannot do this can do nothing."""
    try:
        for model in models:
            size = model.preprocessing.size
            pixels = np.zeros((3, size, size), np.uint8)
            encode_pairs(model.clip, [pixels], model.tokenizer.tokenize_row("")[0][None])
    except Exception as error:  # whatever a broken device makes torch raise
        raise EncoderFailedError(
            f"the model cannot encode even a blank picture ({type(error).__name__}: {error}), so "
            "no row is to blame; look at the device and its memory, then run again to go on"
        ) from error


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _blamed(example: Example, error: Exception) -> Reject:
    reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.ENCODE_FAILED
    detail = ADDRESS.sub(MASK, f"{type(error).__name__}: {error}")
    return RowFault("encode", reason, detail).to_reject(example.row)


def _embedded(example: Example, vectors: Sequence[Vectors | None]) -> Embedded | Reject:
    finite = tuple(found for found in vectors if found is not None)
    if len(finite) < len(vectors):
        detail = "the model gave NaN or infinity"
        return Reject(example.row, "encode", Reason.NON_FINITE, detail)
    return Embedded(
        row=example.row,
        vectors=finite,
        original_width=example.original_width,
        original_height=example.original_height,
        sha256=example.sha256,
    )
