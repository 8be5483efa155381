"""A run of `embed` from its start to its end: whatever happens becomes a sentence and a status."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

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
from pipelines.encoding.handler import EncoderFailedError, ModelChangedError
from pipelines.engine.memory import return_freed_memory
from pipelines.images.decode_pool import WorkerLostError
from pipelines.manifests.units import ManifestChangedError
from pipelines.output.unit_record import NotARecordError
from pipelines.output.unit_writer import ConservationError
from pipelines.runs.closing import finish
from pipelines.runs.execution import prepare, run
from pipelines.runs.lock import LockLostError, RunLock
from pipelines.runs.options import EmbedConfig
from pipelines.storage.stores import StoreFault

_GO_ON = "finished units are kept, run again to go on"
# Errors that say in one sentence what is wrong; any other is a fault of this program.
_OF_THE_MACHINE = (
    ConservationError,
    EncoderFailedError,
    LockLostError,
    ManifestChangedError,
    ModelChangedError,
    NotARecordError,
    OSError,
    StoreFault,
    WorkerLostError,
)


# A runner in another process tells an error as the text of its traceback.
_TOLD_BY_A_RUNNER = re.compile(
    rf"^(?:[\w.]+\.)?(?:{'|'.join(kind.__name__ for kind in _OF_THE_MACHINE)}): "
    r"(.*?)(?: \[while running .*)?$",
    re.MULTILINE,
)


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
        outcome = run(job, options, lock)
        about = {"start": start, "wall": time.monotonic() - started_at}
        return finish(job, config, {**outcome.seconds, **about}, outcome.records)
    except RunnerError as error:
        return _fail(str(error), WRONG_USAGE)
    except (RuntimeError, OSError, KeyboardInterrupt, Terminated) as error:
        for cause in _causes(error):  # the runner wraps even what a signal raises
            if isinstance(cause, KeyboardInterrupt):
                return _fail(f"interrupted; {_GO_ON}", INTERRUPTED)
            if isinstance(cause, Terminated):
                return _fail(f"terminated; {_GO_ON}", TERMINATED)
        return _fail(_one_sentence(error), FAILED)


def _one_sentence(error: BaseException) -> str:
    """Finds the fault of the machine or the data that the runner has wrapped.

    Raises:
        BaseException: `error` itself when there is none in it: a fault of this program, for which
            the traceback is the message.
    """
    for cause in _causes(error):
        if isinstance(cause, _OF_THE_MACHINE):
            return str(cause)
    told = _TOLD_BY_A_RUNNER.findall(str(error))
    if told:
        return str(told[-1])
    raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fail(message: str, status: int) -> int:
    return exits.fail("embed", message, status)
