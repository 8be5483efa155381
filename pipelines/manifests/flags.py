"""The flags that say which manifest it is, how it is spelt, and where its images come from."""

from __future__ import annotations

import argparse

from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import manifest_place, place
from pipelines.images.trust import add_replay_flags
from pipelines.images.web_flags import add_web_flags
from pipelines.manifests.formats import format_names
from pipelines.manifests.text.delimiters import delimiter
from schemas.manifest import AUTO, CSV_QUOTINGS, FIRST_DOT, IMAGE_ENCODINGS, KEY_ENDS, STANDARD
from schemas.pairs import BOTH, PAIRS


def add_input_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the group `input`."""
    flags = group(parser, "input")
    flags.add_argument(
        "--manifest",
        action="append",
        type=manifest_place,
        metavar="URI",
        help="image-text manifest: file, directory or glob on any fsspec filesystem; repeatable",
    )
    flags.add_argument(
        "--manifest_format", choices=format_names(), help="form of the manifest [its extension]"
    )
    flags.add_argument(
        "--pairs",
        choices=PAIRS,
        default=BOTH,
        help="embed images and their captions, or images or texts alone: the columns of the other "
        "half and the similarity are then not there [both]",
    )
    _add_column_flags(flags)
    _add_dialect_flags(flags)
    root = "where relative image paths start [the manifest's directory]"
    flags.add_argument("--image_root", type=place, metavar="URI", help=root)
    flags.add_argument(
        "--allow_images_from",
        action="append",
        type=place,
        default=[],
        metavar="URI",
        help="further prefix that images may come from, such as gs://bucket/img/ or "
        "https://host/img/; `https://` alone allows every public host; repeatable [the image root]",
    )
    add_web_flags(flags, beams=not isinstance(parser, Parser))
    add_replay_flags(flags)


def _add_column_flags(flags: argparse._ArgumentGroup) -> None:
    for column, what in (
        ("image", "image URIs, paths or bytes; in tars an extension [a recognised name]"),
        ("text", "captions; in tars an extension or a .json's field [a recognised name]"),
        ("id", "row ids [a recognised name, else a hash of image and text]"),
    ):
        flags.add_argument(f"--{column}_column", metavar="NAME", help=f"column of {what}")


def _add_dialect_flags(flags: argparse._ArgumentGroup) -> None:
    flags.add_argument(
        "--image_encoding",
        choices=IMAGE_ENCODINGS,
        default=AUTO,
        help="base64: every image is that, as text or bytes; auto: `data:` URIs and base64 text of "
        "over 1,024 characters that begins as an image does [auto]",
    )
    flags.add_argument(
        "--key_until",
        choices=KEY_ENDS,
        default=FIRST_DOT,
        help="in tars, where the key ends in a member's name; last_dot where keys hold dots "
        "[first_dot]",
    )
    flags.add_argument(
        "--csv_delimiter",
        type=delimiter,
        metavar="CHARACTER",
        help="between the fields of CSV and TSV: a character, or tab, comma, semicolon, pipe or "
        "space [a comma; of TSV a tab]",
    )
    flags.add_argument(
        "--csv_quoting",
        choices=CSV_QUOTINGS,
        default=STANDARD,
        help="none: quotes in CSV and TSV are part of the text [standard]",
    )
    flags.add_argument(
        "--column_names",
        type=_names,
        metavar="A,B",
        help="columns of CSV and TSV whose first line is no header, in order [the first line]",
    )


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names between commas, got {value!r}")
    return names
