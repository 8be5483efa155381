"""What is wrong when a run fails: in one sentence, found in whatever a runner has wrapped it in."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from pipelines.encoding.handler import EncoderFailedError, ModelChangedError
from pipelines.engine.failures import RunStoppedError
from pipelines.engine.slots.messages import Failed
from pipelines.engine.slots.supervisor import SlotsFailedError
from pipelines.images.decode_pool import WorkerLostError
from pipelines.manifests.units import ManifestChangedError
from pipelines.output.unit_record import NotARecordError
from pipelines.output.unit_writer import ConservationError
from pipelines.ownership.lock import LockLostError
from pipelines.storage.stores import StoreFault

# Errors that would be the same in every worker.
_EVERYWHERE = (
    EncoderFailedError,
    LockLostError,
    ManifestChangedError,
    ModelChangedError,
    OSError,
    StoreFault,
    WorkerLostError,
)
# Errors that say in one sentence what is wrong; any other is a fault of this program.
_TOLD = (ConservationError, NotARecordError, SlotsFailedError, *_EVERYWHERE)
# A runner in another process tells an error as the text of its traceback.
_TOLD_BY_A_RUNNER = re.compile(
    rf"^(?:[\w.]+\.)?(?:{'|'.join(kind.__name__ for kind in _TOLD)}): "
    r"(.*?)(?: \[while running .*)?$",
    re.MULTILINE,
)
_JOB = re.compile(r"Pipeline \S+ failed in state \w+: (.*)", re.DOTALL)
_TRACEBACK = "Traceback (most recent call last)"


def sentence(error: BaseException) -> str | None:
    """Returns the fault of the machine, the data or the runner itself that a runner has wrapped;
    None if there is none in it: a fault of this program, for which the traceback is the message."""
    for cause in causes(error):
        if isinstance(cause, _TOLD):
            return str(cause)
    text = str(error)
    if told := _TOLD_BY_A_RUNNER.findall(text):
        return str(told[-1])
    if (found := _JOB.match(text)) and _TRACEBACK not in text:  # no code of a worker has raised
        return f"the runner could not do the job: {' '.join(found[1].split())}"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what caused it, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def failed(error: BaseException) -> Failed:
    """Says of a slot's error what its supervisor has to know."""
    everywhere = any(isinstance(cause, _EVERYWHERE) for cause in causes(error))
    words = sentence(error)
    if words is not None:
        return Failed(words, everywhere)
    root = next((c for c in causes(error) if not isinstance(c, RunStoppedError)), error)
    told = "".join(traceback.format_exception(error))
    return Failed(f"{type(root).__name__}: {root}".splitlines()[0], False, told)
