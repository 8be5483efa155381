"""Work for slots in tests, as light as it can be: each slot imports it anew."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.engine.slots.messages import Failed


def describe(error):
    return Failed(f"it failed: {error}")


def act(item):
    """Does what an item says, in the process of a slot."""
    what, value = item
    if what == "die once":
        marker = Path(value)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        print("a library gave up", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    elif what == "raise":
        raise ValueError(value)
    elif what == "hold":
        Path(value).write_text(str(os.getpid()))
        time.sleep(600)
    elif what == "hold with Python's lock":
        Path(value).write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)  # no thread of Python's can run
    elif what == "environment":
        return os.environ.get(value), os.getpid(), os.getsid(0)
    return value


def double(number):
    return 2 * number


def fail(number):
    raise OSError(f"no room for {number}")
