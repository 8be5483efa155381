"""Lets the threads of OpenMP sleep soon while they wait for each other.

By default a thread that has reached a barrier spins for milliseconds, in the hope that the others
are about to arrive. On a machine of its own that is fast. Where another process has taken the core
of the thread that is waited for, the spinning keeps it from getting the core back: a run beside one
busy process was three to ten times slower, and burnt three to six times the processor time.

The libraries read these variables once, when they are loaded. So `bound_waiting` has to be called
before torch is imported, and importing `clip_core` or `pipelines` calls it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# GNU's library counts turns of its loop, tens of nanoseconds each, 300,000 by default. Fewer than
# these slow a model of some size down where it is alone. Intel's library counts milliseconds.
BOUNDS = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "0"}
# Whoever sets one of these has decided.
DECIDED_BY = ("OMP_WAIT_POLICY", *BOUNDS)


def bound_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets how long OpenMP's threads spin, unless the user did or torch is loaded already.

    Args:
        environment: is changed; processes started from this one inherit it.
    """
    if "torch" in sys.modules or any(name in environment for name in DECIDED_BY):
        return
    environment.update(BOUNDS)
