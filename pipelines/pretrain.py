"""`clip-beam pretrain`: contrastive pretraining of a CLIP from a manifest.

Run by itself it uses one process; under `torchrun --nproc_per_node N -m pipelines.pretrain ...` it
spreads each batch over N processes. OUTPUT becomes a model directory; OUTPUT/training holds the
decoded data and the checkpoint that an interrupted run resumes from.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from clip_core.checkpoints.saving import DTYPES, save_model_directory
from clip_core.checkpoints.vocabulary import OPENAI_VOCAB_SIZE, find_openai_merges
from clip_core.config import ClipConfig
from clip_core.loading import ClipModel, load
from clip_core.model import Clip
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges
from clip_core.training.initialization import new_model
from clip_core.training.resolution import at_image_size, with_image_size
from clip_core.training.trainer import (
    Pairs,
    PretrainConfig,
    PretrainError,
    StepReport,
    Trainer,
    held_out_recall,
)
from clip_core.variants import VARIANTS
from pipelines.command_line import exits
from pipelines.engine.cores import threads_for
from pipelines.images.decode import DecodeLimits, decode_image
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.manifests.planning import ManifestRequest, plan_units
from pipelines.manifests.read import read_unit
from pipelines.output.overwriting import OutputExistsError
from pipelines.records import Reject, Row
from pipelines.training import decoded_data
from pipelines.training.decoded_data import DecodedData, DecodedSplit, source_files
from pipelines.training.flags import DEFAULT_VARIANT, parser
from pipelines.training.model_directories import first_foreign, holds_model, put_model
from pipelines.training.progress import TrainingProgress, print_summary

TRAINING = "training"  # in the output: the decoded data and the checkpoint
CHECKPOINT = "checkpoint.pt"
_NOT_NEGATIVE = ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")


class DivergedError(ArithmeticError):
    """A training that came to no number: says what to change."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, so no model was saved; lower `--learning_rate` or `--max_grad_norm` and "
            "pass `--overwrite` or name another output"
        )


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    try:
        checkpoint = _starting_checkpoint(options)
        config = _pretrain_config(options, checkpoint)
        _check_place(options)
    except (ValueError, OSError) as error:
        return exits.fail("pretrain", str(error), exits.WRONG_USAGE)
    threads = threads_for(training=True).torch
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        _start_processes(options.device)
        with TrainingProgress(silent=_rank() > 0) as progress:
            scores = pretrain(options, config, checkpoint, progress)
    except ValueError as error:
        return exits.fail("pretrain", str(error), exits.WRONG_USAGE)
    except (OSError, DivergedError) as error:
        return exits.fail("pretrain", str(error), exits.FAILED)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if scores is not None:
        print_summary(options.output, scores)
    return 0


def _pretrain_config(options: argparse.Namespace, checkpoint: ClipModel | None) -> PretrainConfig:
    """Returns the hyperparameters, the flags checked.

    Raises:
        PretrainError: names the flag that is out of its range.
    """
    for name in _NOT_NEGATIVE:
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise PretrainError(f"`--{name}` must be 0 or more, got {value}")
    if options.threads < 1:
        raise PretrainError(f"`--threads` must be a positive int, got {options.threads}")
    if not 0 <= options.holdout_fraction < 1:
        raise PretrainError(
            f"`--holdout_fraction` must be from 0 to below 1, got {options.holdout_fraction}"
        )
    # With the architecture, so that a run of another one is not resumed.
    start = f"random {options.variant or DEFAULT_VARIANT}"
    if checkpoint is not None:
        start = checkpoint.fingerprint["checkpoint_sha256"]
    names = set(PretrainConfig.__dataclass_fields__) - {"start"}
    return PretrainConfig(start=start, **{name: getattr(options, name) for name in names})


def _check_place(options: argparse.Namespace) -> None:
    """Makes sure of the device and the output before the long work.

    Raises:
        PretrainError, OSError: what is wrong with them.
    """
    try:
        torch.empty(1, device=_device(options.device))
    except (RuntimeError, AssertionError) as error:  # what torch raises where there is none
        reason = str(error).split("\n", 1)[0]
        raise PretrainError(f"device {options.device} cannot be used: {reason}") from error
    if options.output.exists() and not options.output.is_dir():
        raise PretrainError(f"expected `--output` to be a directory, got the file {options.output}")
    _check_room(options.output, options.overwrite)
    options.output.mkdir(parents=True, exist_ok=True)


def _check_room(output: Path, overwrite: bool) -> None:
    """Makes sure that no model is replaced unasked, nor a file of others at all.

    A pretraining that finds its own checkpoint goes on, and the model is the one it made.

    Raises:
        OutputExistsError: says what is there.
    """
    if not holds_model(output) or (not overwrite and (output / TRAINING / CHECKPOINT).exists()):
        return
    foreign = first_foreign(output, decoded_data.is_own_file)
    if foreign is not None:
        raise OutputExistsError(
            f"{output} holds a model and {foreign}, which is of no model of this program; name "
            "another output, or remove it yourself"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{output} holds a model already; pass `--overwrite` or name another output"
        )


def _starting_checkpoint(options: argparse.Namespace) -> ClipModel | None:
    """Loads the model of `--init_from`, where there is one."""
    if options.init_from is None:
        return None
    if options.variant is not None:
        raise PretrainError(
            "expected `--variant` or `--init_from`, got both; a checkpoint has its architecture"
        )
    return load(
        options.init_from,
        arch=options.arch,
        activation=options.activation,
        vocab=options.vocab,
        cache_dir=options.model_cache,
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
    if _rank() == 0:
        print(_rows_line(data), flush=True)
    tokenizer = (
        checkpoint.tokenizer if checkpoint else _tokenizer(architecture, data.train.captions)
    )
    clip = _model(architecture, checkpoint, tokenizer, config.seed).to(_device(options.device))
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
    if _rank() == 0:
        if options.overwrite:
            decoded_data.remove_training(options.output / TRAINING)
        size = variant.vision.image_size
        preprocess = Preprocess(size, variant.mean, variant.std)
        request = ManifestRequest(
            patterns=tuple(options.manifest),
            allowed=tuple(options.allow_manifests_from),
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


def _start_processes(device: str) -> None:
    """Joins the group that `torchrun` set up; a plain start stays alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def _device(name: str) -> torch.device:
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _rows_line(data: DecodedData) -> str:
    """Says what became of the rows of the manifest."""
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(data.rejects.items()))
    return (
        f"rows: {len(data.train.captions)} to train on, {len(data.held_out.captions)} held out, "
        f"{sum(data.rejects.values())} rejected" + (f" ({reasons})" if reasons else "")
    )


if __name__ == "__main__":
    exits.run(main)
