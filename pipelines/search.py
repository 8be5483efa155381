"""`clip-beam search`: the rows of a run whose images are nearest to a text or an image."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.optional_packages import require
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place, readable_place
from pipelines.engine.per_file import parse_with_beam
from pipelines.images.decode import DecodeLimits, decode_image, limits_of
from pipelines.images.fetch import MAX_IMAGE_BYTES
from pipelines.images.trust import Trust, add_trust_flags, trust_of
from pipelines.output.scored_tables import (
    ScoredRow,
    ScoredTables,
    ScoredTablesError,
    check_columns,
    row_count,
)
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.pages.rendering import render
from pipelines.pages.thumbnails import (
    Thumbnail,
    remedy_lines,
    source_units,
    thumbnail_uri,
    thumbnails,
)
from pipelines.queries.distinct import KINDS, NEAR_COSINE, distinct_rows
from pipelines.queries.nearest import nearest_rows
from pipelines.queries.query_model import add_device_flag, add_model_flags, load_query_model
from pipelines.records import RowFault
from pipelines.storage import reading, writing
from pipelines.storage.redaction import redact

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from clip_core.loading import ClipModel

TOP_K = 10
WIDTHS = {"uid": 32, "url": 32, "text": 60}  # characters of the table's columns


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, beam_options = parse_with_beam(parser(), argv)
    try:
        tables, trust = _checked_tables(options), trust_of(options, options.input)
        image = _read_image(options.image) if options.image else None
        limits = limits_of(tables.fingerprint)
        query = _embed(load_query_model(tables, options), options.text, image, limits)
    except (ValueError, OSError, ImportError, RowFault) as error:
        return exits.fail("search", str(error), exits.status_before(error))
    try:
        total = row_count(tables.embeddings)
        with meter(total, "rows") as count:
            rows = _found(tables, query, options, beam_options, count)
        print(table(rows))
        if options.html:
            pictures = _pictures(tables, rows, trust)
            page = _gallery(tables, rows, pictures, total, options.text, image)
            writing.write_atomically(options.html, page.encode())
            print("\n".join(["", *remedy_lines(pictures), f"gallery    {redact(options.html)}"]))
    except (ScoredTablesError, OSError) as error:
        return exits.fail("search", str(error), exits.status_of(error))
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam search`."""
    flags = Parser(
        prog="clip-beam search",
        description="Find the rows nearest to a text or an image.",
        epilog=BEAM_FLAGS,
    )
    input_flags = group(flags, "input")
    add_input_flag(input_flags)
    add_incomplete_flag(input_flags)
    add_trust_flags(input_flags)
    query = group(flags, "query").add_mutually_exclusive_group()
    query.add_argument("--text", metavar="WORDS", help="what to look for, in words")
    query.add_argument(
        "--image", type=readable_place, metavar="URI", help="what to look for, as an image"
    )
    add_model_flags(flags)
    add = group(flags, "output").add_argument
    add("--top_k", type=int, default=TOP_K, metavar="N", help=f"rows to show [{TOP_K}]")
    add(
        "--distinct",
        choices=KINDS,
        help="show one row for each image: exact by sha256, near also without those within a "
        f"cosine of {NEAR_COSINE} of a row that is shown",
    )
    add("--html", type=place, metavar="URI", help="gallery with thumbnails to write")
    add_device_flag(flags)
    return flags


def _found(
    tables: ScoredTables,
    query: np.ndarray,
    options: argparse.Namespace,
    beam_options: PipelineOptions | None,
    progress: Callable[[int], object],
) -> list[ScoredRow]:
    if options.distinct is None:
        return nearest_rows(tables, query, options.top_k, beam_options, progress)
    return distinct_rows(tables, query, options.top_k, options.distinct, beam_options, progress)


def table(rows: Sequence[ScoredRow]) -> str:
    """Returns a line for each row: similarity, uid, url, text."""
    widths = {
        name: max([len(name), *(min(len(_plain(getattr(row, name))), width) for row in rows)])
        for name, width in WIDTHS.items()
    }
    heads = [f"{name:<{width}}" for name, width in widths.items()]
    lines = ["  ".join(["similarity", *heads]).rstrip()]
    for row in rows:
        cells = [_cell(getattr(row, name), width) for name, width in widths.items()]
        lines.append("  ".join([f"{row.similarity:>10.4f}", *cells]).rstrip())
    return "\n".join(lines)


def _cell(value: str | None, width: int) -> str:
    text = _plain(value)
    return f"{text if len(text) <= width else text[: width - 1] + '…':<{width}}"


def _plain(value: str | None) -> str:
    """Takes out what would steer a terminal: captions come from strangers."""
    return "".join(c if c.isprintable() else " " for c in value) if value else "-"


def _picture(tables: ScoredTables, image: bytes | None) -> str | None:
    return None if image is None else thumbnail_uri(image, limits_of(tables.fingerprint))


def _embed(
    model: ClipModel, text: str | None, image: bytes | None, limits: DecodeLimits
) -> np.ndarray:
    """Returns the query [dim] float32, L2-normalised.

    Args:
        limits: as the images of the run were decoded.

    Raises:
        RowFault: if the image cannot be decoded.
    """
    from clip_core.inference.encoding import encode_pixels, encode_tokens

    if image is not None:
        pixels = decode_image(image, [model.preprocessing], limits).pixels[0]
        return encode_pixels(model.clip, pixels[None])[0]
    return encode_tokens(model.clip, model.tokenizer.tokenize([text or ""], truncate=True))[0]


def _read_image(uri: str) -> bytes:
    try:
        return reading.read_retried(uri, MAX_IMAGE_BYTES)
    except reading.TooLargeError as error:
        raise ValueError(f"expected a smaller `--image` than {uri!r}, got {error}") from error
    except FileNotFoundError as error:
        raise ValueError(
            f"expected an image as `--image`, got {uri!r}, which is not there"
        ) from error


def _pictures(tables: ScoredTables, rows: Sequence[ScoredRow], trust: Trust) -> list[Thumbnail]:
    with meter(len(rows), "images") as count:
        units = source_units(tables.embeddings, rows)
        return thumbnails(rows, tables.options, units, trust, count)


def _gallery(
    tables: ScoredTables,
    rows: Sequence[ScoredRow],
    pictures: Sequence[Thumbnail],
    total: int,
    text: str | None,
    image: bytes | None,
) -> str:
    return render(
        "search.html",
        title=text or "Nearest to this image",
        text=text,
        root=redact(tables.root),
        rows_read=f"{total:,}",
        picture=_picture(tables, image),
        pairs=list(zip(rows, pictures, strict=True)),
    )


def _checked_tables(options: argparse.Namespace) -> ScoredTables:
    if options.top_k < 1:
        raise ValueError(f"`--top_k` must be a positive int, got {options.top_k}")
    if options.text is None and options.image is None:
        raise ValueError("expected `--text` or `--image`, got neither; say what to look for")
    if options.text is not None and not options.text.strip():
        raise ValueError("expected words as `--text`, got a blank one")
    if options.html:
        require("jinja2", "galleries")
    tables = open_whole(options.input, options.allow_incomplete).of_model(options.model_name)
    check_columns(tables.schema, [tables.column("image_embedding")], tables.embeddings[0])
    return tables


if __name__ == "__main__":
    exits.run(main)
