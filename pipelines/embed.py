"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.command_line import exits
from pipelines.command_line.parser import Parser


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    from pipelines.runs import options as flags
    from pipelines.runs.embedding import embed

    try:
        config, options = flags.parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return exits.fail("embed", str(error), exits.WRONG_USAGE)
    return embed(config, options)


def parser() -> Parser:
    """Builds the command line of `clip-beam embed`."""
    from pipelines.runs import options as flags

    return flags.parser()


if __name__ == "__main__":
    exits.run(main)
