"""Runs `embed` without what it prints, for benchmarks that call it over and over."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from pipelines import embed
from pipelines.engine.memory import return_freed_memory


def embed_quietly(argv: Sequence[str]) -> None:
    """Runs `embed` with these flags.

    Raises:
        SystemExit: with what it printed, if it fails.
    """
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        failed = embed.main(argv)
    if failed:
        raise SystemExit(told.getvalue())


def embed_tars(folder: Path, flags: Sequence[str]) -> None:
    """Embeds FOLDER/tars into FOLDER/out, anew.

    Args:
        flags: the models, and what else there is.
    """
    return_freed_memory()  # as the console script has it
    argv = ["--manifest", str(folder / "tars"), "--output", str(folder / "out"), "--overwrite"]
    embed_quietly([*argv, *flags])
