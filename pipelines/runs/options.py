"""The flags of `embed`: Beam pipeline options on the outside, a frozen, checked config inside."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from clip_core.preprocess import POLICIES, RESAMPLINGS
from pipelines.command_line.model_flags import (
    add_checkpoint_flags,
    add_place_flags,
    models_of,
)
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.engine.beam_options import named_runner, read_beam_flags
from pipelines.engine.slots.choice import EngineChoice, add_engine_flags, engine_choice
from pipelines.images.sources import check_prefix
from pipelines.images.web_flags import WebOptions
from pipelines.manifests.flags import add_input_flags
from pipelines.ownership.parts import Part, add_part_flag
from pipelines.probes.heads_of import add_head_flags
from schemas.manifest import Dialect
from schemas.pairs import check_halves
from schemas.rejects import Reason

REQUIRED, REASONS = ("manifest", "output", "model"), tuple(reason.value for reason in Reason)


class EmbedOptions(PipelineOptions):
    """Flags of the main job."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add_input_flags(parser)
        _add_model_flags(parser)
        _add_output_flags(parser)
        _add_running_flags(parser)


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = group(parser, "model").add_argument
    add(
        "--model",
        action="append",
        type=place,
        metavar="[NAME=]URI",
        help="`tiny`, an OpenAI name such as ViT-B/32, or a file or directory on any filesystem; "
        "several, each with a NAME for its columns, take one pass over the images",
    )
    add_checkpoint_flags(parser)
    add(
        "--image_policy",
        choices=POLICIES,
        default=POLICIES[0],
        help="whose order images become pixels in: OpenAI's and open_clip's; RGB first, as "
        "DataComp's; or Hugging Face's, with its crop and transparency on white [openai]",
    )
    add(
        "--decode",
        choices=RESAMPLINGS,
        default=RESAMPLINGS[0],
        help="resize images exactly as the original, nearly so, or fast; docs/benchmarks.md tells "
        "what that gains and changes [exact]",
    )
    add(
        "--deep_images",
        choices=("clip", "reject"),
        default="clip",
        help="greyscale images of 16 or 32 bits or floats: clipped at 255 as the original does, "
        "or rejected [clip]",
    )
    add_head_flags(group(parser, "model"))
    add(
        "--exif_orientation",
        choices=("ignore", "apply"),
        default="ignore",
        help="score images as they are stored, as the original does, or as they are looked at "
        "[ignore]",
    )


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    add = group(parser, "output").add_argument
    add("--output", type=place, metavar="URI", help="directory to write")
    add(
        "--keep_columns",
        action="append",
        default=[],
        metavar="A,B",
        help="columns to copy to the output, separated by commas; of tars, fields of the .json, "
        "as text; repeatable [none]",
    )
    add(
        "--keep_nanoseconds",
        action="store_true",
        help="keep timestamps that are finer than microseconds, which Spark cannot read; else "
        "they are refused",
    )
    add(
        "--embedding_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the embeddings' numbers; Spark 3.5, Delta and BigQuery cannot read float16 "
        "[float32]",
    )
    add("--scores_only", action="store_true", help="leave the two embedding columns out")
    add(
        "--rows_per_unit",
        type=int,
        default=10_000,
        metavar="N",
        help="rows in a unit, which is written and resumed as a whole [10000]",
    )
    add("--overwrite", action="store_true", help="remove what the output holds and start anew")


def _add_running_flags(parser: argparse.ArgumentParser) -> None:
    add_place_flags(parser)
    add = group(parser, "running").add_argument
    add_engine_flags(add)
    add_part_flag(add)
    rows = "rows encoded at once [64 on a CPU, 512 on a GPU]"
    add("--batch_size", type=int, metavar="N", help=rows)
    add(
        "--fetch_concurrency",
        type=int,
        metavar="N",
        help="images of S3, GCS and the web that one process asks for at once [256]",
    )
    add(
        "--compile",
        action="store_true",
        help="on a GPU, compile the model first, which takes up to a minute: for long runs",
    )
    add(
        "--isolate_decoding",
        action="store_true",
        help="decode in processes of their own: a crash or hang of a decoder costs one row",
    )
    add(
        "--max_reject_fraction",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="fail when a larger share of rows is rejected [1.0: never]",
    )
    add(
        "--retry_rejects",
        action="store_true",
        help="try the rejected rows of a finished run again, and merge what comes of them",
    )
    add(
        "--only_reasons",
        action="append",
        default=[],
        metavar="A,B",
        help="retry only rejects with these reasons; also with a table of rejects as --manifest "
        "[all that can pass]",
    )


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Dialect, WebOptions):
    """Checked options of the main job; the flags' names and meanings."""

    manifest: tuple[str, ...]
    manifest_format: str | None
    image_column: str | None
    text_column: str | None
    id_column: str | None
    keep_columns: tuple[str, ...]
    image_root: str | None
    allow_images_from: tuple[str, ...]
    allow_manifests_from: tuple[str, ...]
    trust_run: bool
    rows_per_unit: int
    output: str
    embedding_dtype: str
    scores_only: bool
    max_reject_fraction: float
    retry_rejects: bool
    only_reasons: tuple[str, ...]
    overwrite: bool
    model: str | Mapping[str, str]  # by name, where they have names
    arch: str | None
    activation: str | None
    vocab: str | None
    model_cache: str | None
    device: str
    precision: str
    batch_size: int | None
    fetch_concurrency: int | None
    compile: bool
    decode: str
    image_policy: str
    isolate_decoding: bool
    deep_images: str
    exif_orientation: str
    head: tuple[str, ...]
    head_activation: tuple[str, ...]
    engine: EngineChoice
    part: Part | None

    def __post_init__(self) -> None:
        for name, uris in (("manifest", self.manifest), ("output", (self.output,))):
            if not all(map(str.strip, uris)):
                raise ValueError(f"`{name}` is empty; give a path or URI")
        for name in ("rows_per_unit", "batch_size", "fetch_concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be a positive int, got {value}")
        if not 0 <= self.max_reject_fraction <= 1:
            raise ValueError(
                f"`max_reject_fraction` must be between 0 and 1, got {self.max_reject_fraction}"
            )
        for prefix in self.allow_images_from:
            check_prefix(prefix, private=self.allow_private_hosts)
        for prefix in self.allow_manifests_from:
            check_prefix(prefix, "allow_manifests_from")
        if self.image_root is not None:
            check_prefix(self.image_root, "image_root", self.allow_private_hosts)
        self.check_web()
        check_halves(self.pairs, self.scores_only, self.head)
        if self.retry_rejects and self.overwrite:
            raise ValueError(
                "`retry_rejects` keeps what the output holds and `overwrite` removes it; "
                "leave one out"
            )
        if self.part and self.overwrite:
            raise ValueError(
                "`overwrite` would remove what other parts have written; begin anew without "
                "`part`, or in another `output`"
            )
        for name in ("arch", "activation", "vocab"):
            if not isinstance(self.model, str) and len(self.model) > 1 and getattr(self, name):
                raise ValueError(
                    f"`{name}` does not say which of the models it is about; make a model "
                    "directory of that one with `clip-beam convert`"
                )
        for name in self.only_reasons:
            if name not in REASONS:
                close = difflib.get_close_matches(name, REASONS, n=1)
                hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(REASONS)}"
                raise ValueError(f"`only_reasons` names no reason with {name!r}; {hint}")


def parser(
    command: str = "embed", description: str = "Embed and score the image-text pairs of a manifest."
) -> Parser:
    """Builds the command line of a command that takes the flags of the main job."""
    own = Parser(prog=f"clip-beam {command}", description=description, epilog=BEAM_FLAGS)
    EmbedOptions._add_argparse_args(own)
    # Not in the class, as Beam parses every options class that is imported.
    for action in own._actions:
        action.required = action.dest in REQUIRED
    return own


def parse(argv: Sequence[str], own: Parser | None = None) -> tuple[EmbedConfig, PipelineOptions]:
    """Reads the command line.

    Flags that are neither the job's nor Beam's end the program with status 2 and a suggestion.

    Args:
        own: the command line of a command that has flags beyond those of the main job.

    Raises:
        ValueError: if a value is out of its range.
    """
    own = own or parser()
    found, rest = own.parse_known_args(argv)
    options = read_beam_flags(argv, own, rest)
    found.engine = engine_choice(found, named_runner(rest))
    return _config(found), options


def _config(found: argparse.Namespace) -> EmbedConfig:
    values: dict[str, Any] = vars(found)
    values["model"] = models_of(values["model"])
    values["part"] = Part.parse(found.part) if found.part else None
    values["column_names"] = values["column_names"] or ()
    for name in (
        "manifest",
        "allow_images_from",
        "allow_manifests_from",
        "head",
        "head_activation",
    ):
        values[name] = tuple(values[name])
    for name in ("keep_columns", "only_reasons"):
        parts = ",".join(values[name]).split(",")
        values[name] = tuple(part.strip() for part in parts if part.strip())
    return EmbedConfig(**{field.name: values[field.name] for field in fields(EmbedConfig)})
