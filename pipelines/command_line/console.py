"""Makes sure of the standard streams before a command begins: each is open and shows any text."""

from __future__ import annotations

import io
import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # descriptors 0 to 2


def prepare_streams() -> None:
    """Opens the standard streams that are closed, and lets the console show what it can."""
    for descriptor in range(len(_STREAMS)):
        _occupy(descriptor)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a caller has put there is the caller's
            stream.reconfigure(errors="backslashreplace")


def _occupy(descriptor: int) -> None:
    """Opens the null device in the place of a closed descriptor.

    Else the next file that is opened takes the place, and what a library of C writes to stderr
    lands in that file.
    """
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)  # children need it as much
