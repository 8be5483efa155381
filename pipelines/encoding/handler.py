"""Encodes batches of chunks with CLIP inside Beam's RunInference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from clip_core.inference.encoding import CPU_IMAGES, encode_pairs
from clip_core.loading import ClipModel
from pipelines.encoding.batch_recovery import BatchLimit, BatchRecovery
from pipelines.encoding.encoded_batch import Encoded, RowsOfBatch
from pipelines.encoding.model_inputs import Inputs
from pipelines.encoding.models import LoadedModels, ModelSpec, load_models
from pipelines.engine import failures
from pipelines.records import Chunk, RowFault, Vectors
from pipelines.storage.redaction import ADDRESS, MASK
from schemas.rejects import Reason

# What torch says on a CPU, where it has no class of its own for it.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


class ModelChangedError(RuntimeError):
    """A worker found another checkpoint than the launcher did."""


class EncoderFailedError(RuntimeError):
    """The device or its memory is at fault, and not a row."""


@cache
def _encoders(count: int) -> ThreadPoolExecutor:
    """Returns the threads that encode on a processor, which all bundles of this process share."""
    return ThreadPoolExecutor(count, "encode")


@lru_cache(maxsize=1)
def batch_limit(specs: tuple[ModelSpec, ...]) -> BatchLimit:
    """Returns what this process has learnt about the batches that fit beside these models."""
    return BatchLimit()


class ClipHandler(ModelHandler[Chunk, Chunk, LoadedModels]):
    """Embeds batches of chunks by one model or several; a row that cannot be becomes a reject.

    A batch that does not fit into memory is halved, and later ones begin at the size that fits. A
    batch that fails otherwise is bisected down to the rows that make it fail. A row is rejected
    (`encode_failed`, `out_of_memory`) only if the model still encodes a blank image after it;
    else the machine is at fault, not the row, and the error is raised. A row whose vectors are
    not finite is rejected as `non_finite`.

    Counters: `special_tokens`, literal ones in captions, which the model reads as such.

    Args:
        specs: the models.
        checkpoints: SHA-256 of the weights the launcher saw; a worker that finds others fails.
        batch_size: rows that are encoded at once; a chunk that is longer is cut between images.
        inputs: for each model, which pixels and which tokens of a chunk are its own; None of the
            half that is not embedded.
        run: whose failure ends this stage; "" for none.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        checkpoints: Sequence[str],
        batch_size: int,
        inputs: Sequence[Inputs] = ((0, 0),),
        run: str = "",
    ) -> None:
        super().__init__()
        self._specs = tuple(specs)
        self._checkpoints = tuple(checkpoints)
        self._batch_size = batch_size
        self._inputs = tuple(inputs)
        self._run = run
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

    def warm_up(self) -> None:
        """Loads the models and encodes a blank image, so that later passes are as in a long run.

        Raises:
            EncoderFailedError: if they cannot do even that.
        """
        _encode_blank(self.load_model().models, self._inputs)

    def run_inference(
        self,
        batch: Sequence[Chunk],
        model: LoadedModels,
        inference_args: dict[str, Any] | None = None,
    ) -> list[Chunk]:
        """Returns the chunks with the vectors of their rows, pixels and tokens dropped.

        Raises:
            EncoderFailedError: if, after a row failed, a blank image fails as well.
        """
        with failures.ends_the_run(self._run):
            rows = RowsOfBatch.of(batch)
            if len(rows):
                rows.give_out(batch, self._encoded(rows, model))
            else:
                rows.give_out(batch, Encoded.blank(_dims(model.models), self._inputs, 0))
        return list(batch)

    def _encoded(self, rows: RowsOfBatch, model: LoadedModels) -> Encoded:
        self._special_tokens.inc(special_tokens(rows, model.models[0]))
        recovery, limit = self._recovery(model.models), batch_limit(self._specs)
        if self.on_gpu:  # a batch of another bundle fills the gaps of this one
            pieces = [recovery.run(part, limit) for part in rows.parts(self._batch_size)]
        else:
            # As many parts at once as torch leaves cores for: several of a small model.
            count = max(model.threads.cores // torch.get_num_threads(), 1)
            most = min(self._batch_size, max(-(-len(rows) // count), CPU_IMAGES))
            encoders = _encoders(count)
            pieces = list(encoders.map(lambda part: recovery.run(part, limit), rows.parts(most)))
        return Encoded.joined([piece for found in pieces for piece in found])

    def _recovery(self, models: Sequence[ClipModel]) -> BatchRecovery[RowsOfBatch, Encoded]:
        return BatchRecovery(
            work=lambda part: encode_rows(part, models, self._inputs),
            check_machine=lambda: _encode_blank(models, self._inputs),
            blame=lambda error: self._blamed(error, models),
            is_out_of_memory=is_out_of_memory,
            release=_release_memory,
        )

    def _blamed(self, error: Exception, models: Sequence[ClipModel]) -> Encoded:
        """Returns what stands for the one row that the models failed on."""
        reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.ENCODE_FAILED
        detail = ADDRESS.sub(MASK, f"{type(error).__name__}: {error}")
        return Encoded.blank(_dims(models), self._inputs, 1, RowFault("encode", reason, detail))

    def get_num_bytes(self, batch: Sequence[Chunk]) -> int:
        """Counts array bytes; Beam's default would pickle every batch to find out."""
        return sum(chunk.nbytes for chunk in batch)

    def should_skip_batching(self) -> bool:
        """Tells Beam that what comes in are batches already: Prepare forms them."""
        return True

    def get_metrics_namespace(self) -> str:
        return "ClipHandler"


def encode_rows(
    rows: RowsOfBatch, models: Sequence[ClipModel], inputs: Sequence[Inputs]
) -> Encoded:
    """Encodes rows in one go by each model."""
    vectors = []
    for model, (pixels, tokens) in zip(models, inputs, strict=True):
        own = (
            None if pixels is None else rows.blocks[pixels],
            None if tokens is None else rows.tokens[tokens],
        )
        images, texts = encode_pairs(model.clip, *own)
        images = None if images is None else images[rows.index]
        vectors.append(Vectors(images, texts, None if tokens is None else rows.truncated[tokens]))
    return Encoded.of(vectors)


def special_tokens(rows: RowsOfBatch, model: ClipModel) -> int:
    """Counts literal start and end tokens in captions: each moves what the first model pools."""
    if not rows.tokens:
        return 0
    # Every row has one of each of its own.
    return int((rows.tokens[0] >= model.tokenizer.start_id).sum()) - 2 * len(rows)


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether a smaller batch may do."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _encode_blank(models: Sequence[ClipModel], inputs: Sequence[Inputs]) -> None:
    """Encodes a black image without a caption: a model that cannot do this can do nothing."""
    try:
        for model, (pixels, tokens) in zip(models, inputs, strict=True):
            size = model.preprocessing.size
            image = None if pixels is None else [np.zeros((1, 3, size, size), np.uint8)]
            text = None if tokens is None else model.tokenizer.tokenize_row("")[0][None]
            encode_pairs(model.clip, image, text)
    except Exception as error:  # whatever a broken device makes torch raise
        raise EncoderFailedError(
            f"the model cannot encode even a blank image ({type(error).__name__}: {error}), so "
            "no row is to blame; look at the device and its memory, then run again to go on"
        ) from error


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _dims(models: Sequence[ClipModel]) -> list[int]:
    return [model.config.embed_dim for model in models]
