"""Finds, in what a runner raises, the fault of the machine or the data that it has wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.encoding.handler import EncoderFailedError, ModelChangedError
from pipelines.images.decode_pool import WorkerLostError
from pipelines.manifests.digest import ManifestChangedError
from pipelines.output.unit_record import NotARecordError
from pipelines.output.unit_writer import ConservationError
from pipelines.runs.lock import LockLostError

# Errors that say in one sentence what is wrong; any other is a fault of this program.
_OF_THE_MACHINE = (
    ConservationError,
    EncoderFailedError,
    LockLostError,
    ManifestChangedError,
    ModelChangedError,
    NotARecordError,
    OSError,
    WorkerLostError,
)


# A runner in another process tells an error as the text of its traceback.
_TOLD_BY_A_RUNNER = re.compile(
    rf"^(?:[\w.]+\.)?(?:{'|'.join(kind.__name__ for kind in _OF_THE_MACHINE)}): "
    r"(.*?)(?: \[while running .*)?$",
    re.MULTILINE,
)


def one_sentence(error: BaseException) -> str:
    """Finds the fault of the machine or the data that the runner has wrapped.

    Raises:
        BaseException: `error` itself when there is none in it: a fault of this program, for which
            the traceback is the message.
    """
    for cause in causes(error):
        if isinstance(cause, _OF_THE_MACHINE):
            return str(cause)
    told = _TOLD_BY_A_RUNNER.findall(str(error))
    if told:
        return str(told[-1])
    raise error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
