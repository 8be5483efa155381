"""Tells a run that is whole from one that is at work, was cut off, or has lost files since.

A run is what `embed` writes, and what `filter` and `heads` make of one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from pipelines.command_line.places import place
from pipelines.output.layout import EMBEDDINGS, REJECTS, RUN_JSON, SUCCESS, is_of_tables
from pipelines.output.scored_tables import ScoredTables, ScoredTablesError, open_tables
from pipelines.storage import listing, uris
from pipelines.storage.stores import is_local

_COUNTED = {EMBEDDINGS: "embedded", REJECTS: "rejected"}  # table: its rows among run.json's counts


class IncompleteRunError(ScoredTablesError):
    """A run of which rows are missing, or may be: says why, and how it is read all the same."""


def add_input_flag(flags: argparse.ArgumentParser) -> None:
    """Adds the flag that names a run."""
    flags.add_argument(
        "--input",
        required=True,
        type=place,
        metavar="URI",
        help="a run: output of `clip-beam embed`, `filter` or `heads`",
    )


def add_incomplete_flag(flags: argparse.ArgumentParser) -> None:
    """Adds the flag that `open_whole` reads."""
    flags.add_argument(
        "--allow_incomplete",
        action="store_true",
        help="read the files that are there of a run that is not whole, or those of a bare folder",
    )


def open_whole(root: str, allow_incomplete: bool) -> ScoredTables:
    """Finds the tables of a run, all of whose rows are there unless that is not asked for.

    Raises:
        IncompleteRunError: if the run is not whole.
        ScoredTablesError, OSError: as `open_tables`.
    """
    tables = open_tables(root, bare=allow_incomplete)
    lack = None if allow_incomplete else what_is_missing(tables)
    if lack is not None:
        raise IncompleteRunError(
            f"expected a run that is whole, got {tables.root!r}, where {lack}; run `embed` again "
            "to complete it, or pass `allow_incomplete` to take the rows that are there"
        )
    return tables


def what_is_missing(tables: ScoredTables) -> str | None:
    """Says why a run is not whole, or may not be; None if it is.

    Raises:
        ScoredTablesError, OSError: if a file of a table cannot be read.
    """
    if not tables.record:
        return f"there is no {RUN_JSON}, which counts the rows"
    if not listing.exists(uris.join(tables.root, SUCCESS)):
        return f"there is no {SUCCESS}, which is written last"
    return _miscounted(tables, EMBEDDINGS, tables.embeddings) or _miscounted(
        tables, REJECTS, tables.rejects
    )


def _miscounted(tables: ScoredTables, table: str, files: Sequence[str]) -> str | None:
    expected, found = tables.counts.get(_COUNTED[table]), tables.rows_of(files)
    if expected == found:
        return None
    told = "no rows" if expected is None else f"{expected:,} rows"
    return f"{RUN_JSON} counts {told} in {table}/ and its files hold {found:,}"


def check_apart(tables: ScoredTables, output: str) -> None:
    """Makes sure that what is written does not take the place of what is read.

    Raises:
        ScoredTablesError: if the tables are those of the output.
    """
    own = _resolved(output)
    if any(is_of_tables(_resolved(uri), own) for uri in (*tables.embeddings, *tables.rejects)):
        raise ScoredTablesError(
            f"expected `output` to be another directory than `input`, got {output!r} for both"
        )


def _resolved(uri: str) -> str:
    return os.path.realpath(uris.normalize(uri)) if is_local(uri) else uri
