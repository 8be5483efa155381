"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.command_line import exits
from pipelines.runs import options as flags
from pipelines.runs.embedding import embed
from pipelines.runs.options import parser

__all__ = ["main", "parser"]


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    try:
        config, options = flags.parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return exits.fail("embed", str(error), exits.WRONG_USAGE)
    return embed(config, options)


if __name__ == "__main__":
    exits.run(main)
