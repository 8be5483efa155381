"""A pretraining from a manifest to a model directory."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from clip_core.checkpoints.saving import DTYPES, save_model_directory
from clip_core.checkpoints.vocabulary import OPENAI_VOCAB_SIZE, find_openai_merges
from clip_core.config import ClipConfig
from clip_core.loading import ClipModel
from clip_core.model import Clip
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges
from clip_core.training.evaluation import held_out_recall
from clip_core.training.initialization import new_model
from clip_core.training.recipe import PretrainConfig
from clip_core.training.resolution import at_image_size, with_image_size
from clip_core.training.trainer import Pairs, StepReport, Trainer
from clip_core.variants import VARIANTS
from pipelines.images.decode import DecodeLimits, decode_image
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import read_unit
from pipelines.records import Reject, Row
from pipelines.training import decoded_data
from pipelines.training.decoded_data import DecodedData, DecodedSplit, source_files
from pipelines.training.model_directories import put_model
from pipelines.training.processes import device_of, rank
from pipelines.training.progress import TrainingProgress

TRAINING = "training"  # in the output: the decoded data and the checkpoint
CHECKPOINT = "checkpoint.pt"
DEFAULT_VARIANT = "tiny-rn"


class DivergedError(ArithmeticError):
    """A training that came to no number: says what to change."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, so no model was saved; lower `learning_rate` or `max_grad_norm` and "
            "pass `overwrite` or name another output"
        )


def pretrain(
    options: argparse.Namespace,
    config: PretrainConfig,
    checkpoint: ClipModel | None,
    progress: TrainingProgress,
) -> dict[str, float] | None:
    """Decodes, trains, saves. Returns held-out scores; None on all processes but the first."""
    architecture = checkpoint.config if checkpoint else VARIANTS[options.variant or DEFAULT_VARIANT]
    if options.image_size is not None:
        architecture = with_image_size(architecture, options.image_size)
    data = _decoded_data(options, architecture)
    if rank() == 0:
        print(_rows_line(data), flush=True)
    tokenizer = (
        checkpoint.tokenizer if checkpoint else _tokenizer(architecture, data.train.captions)
    )
    clip = _model(architecture, checkpoint, tokenizer, config.seed).to(device_of(options.device))
    trainer = Trainer(
        clip, _pairs(data.train, tokenizer), config, options.output / TRAINING / CHECKPOINT
    )
    _train(trainer, progress)
    if trainer.rank:
        return None
    _check_weights(clip, options.save_precision)
    scores = (
        held_out_recall(clip, _pairs(data.held_out, tokenizer)) if data.held_out.captions else {}
    )
    clip.cpu()
    put_model(
        options.output,
        lambda folder: save_model_directory(folder, clip, tokenizer, dtype=options.save_precision),
    )
    return scores


def _train(trainer: Trainer, progress: TrainingProgress) -> None:
    """Trains to the end.

    Raises:
        DivergedError: as soon as the loss is no number.
    """

    def report(step: StepReport) -> None:
        if not math.isfinite(step.loss):
            raise DivergedError(f"the loss is {step.loss} at step {step.step} of {step.steps}")
        progress(step)

    try:
        trainer.run(report)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise DivergedError("a step is too long for a number") from error


def _check_weights(clip: Clip, precision: str) -> None:
    """Makes sure that the weights are numbers, also as they are going to be stored."""
    for weights in clip.state_dict().values():
        if weights.is_floating_point() and not weights.to(DTYPES[precision]).isfinite().all():
            raise DivergedError(f"the last step left weights that are not finite in {precision}")


def _model(
    architecture: ClipConfig, checkpoint: ClipModel | None, tokenizer: Tokenizer, seed: int
) -> Clip:
    if checkpoint is None:
        text = replace(architecture.text, vocab_size=tokenizer.vocab_size)
        return new_model(replace(architecture, text=text), seed)
    return at_image_size(checkpoint.clip, architecture.vision.image_size).requires_grad_()


def _decoded_data(options: argparse.Namespace, variant: ClipConfig) -> DecodedData:
    """Decodes in the first process while the others wait, then opens the result in each."""
    directory = options.output / TRAINING / decoded_data.FOLDER
    if rank() == 0:
        if options.overwrite:
            decoded_data.remove_training(options.output / TRAINING)
        size = variant.vision.image_size
        preprocess = Preprocess(size, variant.mean, variant.std, resizing=variant.resizing)
        request = ManifestRequest(
            patterns=tuple(options.manifest),
            allow_manifests_from=tuple(options.allow_manifests_from),
            trust_run=options.trust_run,
        )
        decoded_data.decode_manifest(
            tqdm(_rows(request), desc="decode", unit=" rows", disable=None),
            _Decoder(preprocess),
            directory,
            size=size,
            holdout_fraction=options.holdout_fraction,
            made_from={
                "manifest": source_files(request),
                "image size": size,
                "holdout_fraction": options.holdout_fraction,
            },
            threads=options.threads,
        )
    if dist.is_initialized():
        dist.barrier()
    return decoded_data.open_decoded(directory)


def _rows(request: ManifestRequest) -> Iterator[Row | Reject]:
    for unit in plan_units(request).units:
        yield from read_unit(unit)


@dataclass(frozen=True)
class _Decoder:
    """Row -> pixels, with the same bounds as the main job."""

    preprocess: Preprocess
    policy: FetchPolicy = FetchPolicy()
    limits: DecodeLimits = DecodeLimits()

    def __call__(self, row: Row) -> np.ndarray:
        data = fetch_image(row, self.policy)
        return decode_image(data, [self.preprocess], self.limits).pixels[0]


def _tokenizer(variant: ClipConfig, captions: Sequence[str]) -> Tokenizer:
    """The published vocabulary where the variant has its size; else one learned on the captions."""
    if variant.text.vocab_size == OPENAI_VOCAB_SIZE:
        return Tokenizer(find_openai_merges(), variant.text.context_length)
    merges = learn_merges(captions, variant.text.vocab_size)
    return Tokenizer(merges, variant.text.context_length)


def _pairs(split: DecodedSplit, tokenizer: Tokenizer) -> Pairs:
    return Pairs(split.pixels, tokenizer.tokenize(split.captions, truncate=True))


def _rows_line(data: DecodedData) -> str:
    """Says what became of the rows of the manifest."""
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(data.rejects.items()))
    return (
        f"rows: {len(data.train.captions)} to train on, {len(data.held_out.captions)} held out, "
        f"{sum(data.rejects.values())} rejected" + (f" ({reasons})" if reasons else "")
    )
