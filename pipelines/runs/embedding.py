"""A run of `embed` from its start to its end: whatever happens becomes a sentence and a status."""

from __future__ import annotations

import time

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.command_line import exits
from pipelines.command_line.exits import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    RunnerError,
    Terminated,
)
from pipelines.engine.memory import return_freed_memory
from pipelines.runs.causes import causes, one_sentence
from pipelines.runs.closing import finish
from pipelines.runs.execution import prepare, run
from pipelines.runs.lock import RunLock
from pipelines.runs.options import EmbedConfig
from pipelines.storage.stores import StoreFault

_GO_ON = "finished units are kept, run again to go on"


def embed(config: EmbedConfig, options: PipelineOptions) -> int:
    """Embeds a manifest into the output; returns the exit status.

    Args:
        options: Beam's own.
    """
    # The in-process runner and gcsfs log what they then raise; once is enough.
    exits.mute("apache_beam.runners", "gcsfs")
    if exits.is_own():
        return_freed_memory()
    lock = RunLock(config.output)
    try:
        return _embedded(config, options, lock)
    finally:
        exits.calm()
        lock.release()


def _embedded(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> int:
    started_at = time.monotonic()
    try:
        job = prepare(config, options, lock)
    except StoreFault as error:
        return _fail(str(error), FAILED)
    except (ValueError, OSError) as error:
        return _fail(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)
    try:
        start = time.monotonic() - started_at
        seconds = run(job, options, lock)
        seconds |= {"start": start, "wall": time.monotonic() - started_at}
        return finish(job, config, seconds)
    except RunnerError as error:
        return _fail(str(error), WRONG_USAGE)
    except (RuntimeError, OSError, KeyboardInterrupt, Terminated) as error:
        for cause in causes(error):  # the runner wraps even what a signal raises
            if isinstance(cause, KeyboardInterrupt):
                return _fail(f"interrupted; {_GO_ON}", INTERRUPTED)
            if isinstance(cause, Terminated):
                return _fail(f"terminated; {_GO_ON}", TERMINATED)
        return _fail(one_sentence(error), FAILED)


def _fail(message: str, status: int) -> int:
    return exits.fail("embed", message, status)
