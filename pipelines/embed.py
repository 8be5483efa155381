"""`clip-beam embed`: a manifest in, embeddings and similarity in Parquet out.

The pipeline is nothing but three transforms in a row: ReadManifest, EmbedRows, WriteUnits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

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
from pipelines.engine.beam_options import runs_here
from pipelines.engine.memory import return_freed_memory
from pipelines.runs import options as flags
from pipelines.runs.causes import causes, one_sentence
from pipelines.runs.closing import finish
from pipelines.runs.execution import prepare, run
from pipelines.runs.lock import RunLock
from pipelines.runs.options import EmbedConfig
from pipelines.storage.stores import StoreFault

_GO_ON = "finished units are kept, run again to go on"


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # The in-process runner and gcsfs log what they then raise; once is enough.
    exits.mute("apache_beam.runners", "gcsfs")
    if exits.is_own():
        return_freed_memory()
    try:
        config, options = flags.parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return _fail(str(error), WRONG_USAGE)
    lock = RunLock(config.output)
    try:
        return _main(config, options, lock)
    finally:
        exits.calm()
        lock.release()


def _main(config: EmbedConfig, options: PipelineOptions, lock: RunLock) -> int:
    started_at = time.monotonic()
    try:
        job = prepare(config, lock, here=runs_here(options))
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


if __name__ == "__main__":
    exits.run(main)
