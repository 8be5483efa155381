"""Ends the process of a command with the command's exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
UNHEARD = 128 + signal.SIGPIPE


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process; after a signal it does so at once."""
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("clip-beam: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:  # who was reading, `head` perhaps, has seen enough
        os._exit(UNHEARD)
    if status in (INTERRUPTED, TERMINATED):
        # Python would wait for every thread, and the signal may have come before Beam took note of
        # one that it had started, which then never ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
