"""`clip-beam search`: the rows of a run whose images, or captions, are nearest to what is asked."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.command_line import exits
from pipelines.command_line.flag_names import in_flags
from pipelines.command_line.meter import meter
from pipelines.command_line.optional_packages import require
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place, readable_place
from pipelines.engine.per_file import Workers, parse_with_engine
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.images.decode import DecodeLimits, decode_image, limits_of
from pipelines.images.fetch import MAX_IMAGE_BYTES
from pipelines.images.trust import Trust, add_trust_flags, trust_of
from pipelines.output.scored_tables import (
    ScoredTables,
    ScoredTablesError,
    check_columns,
)
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.pages.rendering import render
from pipelines.pages.thumbnails import (
    Thumbnail,
    remedy_lines,
    thumbnail_uri,
    thumbnails,
)
from pipelines.queries.distinct import KINDS, NEAR_COSINE, distinct_rows
from pipelines.queries.nearest import CAPTIONS, IMAGES, nearest_of_each
from pipelines.queries.query_model import add_device_flag, add_model_flags, load_query_model
from pipelines.queries.scored_rows import ScoredRow
from pipelines.records import RowFault
from pipelines.shards.originals import source_units
from pipelines.storage import reading, writing
from pipelines.storage.redaction import redact

if TYPE_CHECKING:
    from clip_core.loading import ClipModel

TOP_K = 10
AMONG = {"images": IMAGES, "captions": CAPTIONS}
WIDTHS = {"uid": 32, "url": 32, "text": 60}  # characters of the table's columns


@dataclass(frozen=True)
class Asked:
    """What is looked for: words, or an encoded image and where it came from."""

    name: str
    image: bytes | None


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, workers = parse_with_engine(parser(), argv)
    try:
        tables, trust = _checked_tables(options), trust_of(options, options.input)
        asked = [Asked(text, None) for text in options.text]
        asked += [Asked(uri, _read_image(uri)) for uri in options.image]
        limits = limits_of(tables.fingerprint)
        queries = _embed(load_query_model(tables, options), asked, limits)
    except (ValueError, OSError, ImportError, RowFault) as error:
        return exits.fail("search", str(error), exits.status_before(error))
    try:
        total = tables.rows_of(tables.embeddings)
        with meter(total, "rows") as count:
            found = _found(tables, queries, options, workers, count)
        print(tables_of(asked, found))
        if options.html:
            shown = iter(_pictures(tables, [row for rows in found for row in rows], trust))
            pictures = [[next(shown) for _ in rows] for rows in found]
            page = _gallery(tables, asked, found, pictures, total)
            writing.write_atomically(options.html, page.encode())
            remedies = remedy_lines([picture for part in pictures for picture in part])
            lines = ["", *map(in_flags, remedies), f"gallery    {redact(options.html)}"]
            print("\n".join(lines))
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
    add = group(flags, "query").add_argument
    add(
        "--text",
        action="append",
        default=[],
        metavar="WORDS",
        help="what to look for, in words; repeatable",
    )
    add(
        "--image",
        action="append",
        default=[],
        type=readable_place,
        metavar="URI",
        help="what to look for, as an image; repeatable",
    )
    add(
        "--among",
        choices=tuple(AMONG),
        default="images",
        help="what is compared with it [images]",
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
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def _found(
    tables: ScoredTables,
    queries: np.ndarray,
    options: argparse.Namespace,
    workers: Workers | None,
    progress: Callable[[int], object],
) -> list[list[ScoredRow]]:
    top_k, column = options.top_k, AMONG[options.among]
    if options.distinct is None:
        return nearest_of_each(tables, queries, top_k, column, workers, progress)
    counts = [progress, *[lambda rows: None] * len(queries)]  # the rows of the first pass
    return [
        distinct_rows(tables, query, top_k, options.distinct, workers, count)
        for query, count in zip(queries, counts, strict=False)
    ]


def tables_of(asked: Sequence[Asked], found: Sequence[Sequence[ScoredRow]]) -> str:
    """Returns a table for each query; of several each with a line that says which."""
    if len(asked) == 1:
        return table(found[0])
    parts = zip(asked, found, strict=True)
    return "\n\n".join(f"query      {_plain(one.name)}\n{table(rows)}" for one, rows in parts)


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


def _embed(model: ClipModel, asked: Sequence[Asked], limits: DecodeLimits) -> np.ndarray:
    """Returns the queries [queries, dim] float32, L2-normalised.

    Args:
        limits: as the images of the run were decoded.

    Raises:
        RowFault: if the image cannot be decoded.
    """
    from clip_core.inference.encoding import encode_pixels, encode_tokens

    vectors = []
    for one in asked:
        if one.image is None:
            tokens = model.tokenizer.tokenize([one.name], truncate=True)
            vectors.append(encode_tokens(model.clip, tokens)[0])
        else:
            pixels = decode_image(one.image, [model.preprocessing], limits).pixels[0]
            vectors.append(encode_pixels(model.clip, pixels[None])[0])
    return np.stack(vectors)


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
    asked: Sequence[Asked],
    found: Sequence[Sequence[ScoredRow]],
    pictures: Sequence[Sequence[Thumbnail]],
    total: int,
) -> str:
    names = [one.name if one.image is None else None for one in asked]
    return render(
        "search.html",
        title=names[0] or "Nearest to this image",
        root=redact(tables.root),
        rows_read=f"{total:,}",
        queries=[
            {
                "text": name,
                "picture": _picture(tables, one.image),
                "pairs": list(zip(rows, shown, strict=True)),
            }
            for name, one, rows, shown in zip(names, asked, found, pictures, strict=True)
        ],
    )


def _checked_tables(options: argparse.Namespace) -> ScoredTables:
    if options.top_k < 1:
        raise ValueError(f"`--top_k` must be a positive int, got {options.top_k}")
    if not options.text and not options.image:
        raise ValueError("expected `--text` or `--image`, got neither; say what to look for")
    if not all(map(str.strip, options.text)):
        raise ValueError("expected words as `--text`, got a blank one")
    if options.distinct and options.among != "images":
        raise ValueError("`--distinct` tells images apart; leave it out with `--among captions`")
    if options.html:
        require("jinja2", "galleries")
    tables = open_whole(options.input, options.allow_incomplete).of_model(options.model_name)
    columns = [tables.column(AMONG[options.among]), *(["sha256"] if options.html else [])]
    check_columns(tables.schema, columns, tables.embeddings[0])
    return tables


if __name__ == "__main__":
    exits.run(main)
