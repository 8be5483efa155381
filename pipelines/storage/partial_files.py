"""Files that are written piece by piece, and get their names once they are whole.

A local one lies beside its target until it is renamed; its own name says which run writes it. What
goes to an object store waits in a temporary file that has no name, so a killed process leaves
nothing behind.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Container
from contextlib import suppress
from typing import BinaryIO, cast

from pipelines.storage import uris
from pipelines.storage.listing import exists
from pipelines.storage.local_files import PARTIAL, sync
from pipelines.storage.stores import is_local, place_of
from pipelines.storage.writing import put_if, remove, upload, version_of

_NAME = re.compile(re.escape(PARTIAL) + "([0-9a-z]*)-[0-9a-f]{8}")
_TRIES = 5  # at a name that others take or give up meanwhile


class PartialFile:
    """A file without its name.

    Args:
        uri: what its name will be.
        run: id of the run that writes it; part of the local name it has meanwhile.

    Attributes:
        file: to write to.
    """

    def __init__(self, uri: str, run: str) -> None:
        self._uri = uri
        self._path: str | None = None
        if not is_local(uri):
            self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - `publish` closes it
            return
        folder = os.path.dirname(uris.normalize(uri))
        os.makedirs(folder, exist_ok=True)
        self._path = os.path.join(folder, f"{PARTIAL}{run}-{secrets.token_hex(4)}")
        self.file = open(self._path, "xb")  # noqa: SIM115

    def publish(
        self,
        may_stay: Callable[[], bool] = lambda: False,
        check: Callable[[], object] = lambda: None,
        is_new: bool = False,
    ) -> None:
        """Gives the file its name, in the place of what had it before.

        In a store with conditions as one step: a file that comes in the same moment is seen.

        Args:
            may_stay: tells whether the file that has the name may keep it; this one is dropped.
            check: called before another's file is replaced, and in a store once a free name is
                taken, after which the file may have to go; raises if it may not be there.
            is_new: whether no file had the name when the run began, as far as is known.
        """
        self.file.flush()
        if self._path is not None:
            sync(self.file)
            os.replace(self._path, uris.normalize(self._uri))
        elif place_of(self._uri) is None:
            upload(self._uri, self.file)
        else:
            self._put(may_stay, check, is_new)
        self.file.close()

    def _put(self, may_stay: Callable[[], bool], check: Callable[[], object], is_new: bool) -> None:
        for attempt in range(_TRIES):
            # Some servers do not heed the condition, so what is not known to be new is asked for.
            is_free = (is_new and not attempt) or not exists(self._uri)
            version = put_if(self._uri, self.file, None) if is_free else None
            if version is not None:
                self._stay(version, check)
                return
            version = version_of(self._uri)
            if may_stay():
                return
            check()
            if version is not None and put_if(self._uri, self.file, version) is not None:
                return
        raise OSError(f"{self._uri} is written by others all the time; stop them and run again")

    def _stay(self, version: str, check: Callable[[], object]) -> None:
        """Takes the file back, unless it may be there: what allowed it may have ended meanwhile."""
        try:
            check()
        except Exception:
            if version_of(self._uri) == version:  # else it is another's
                remove(self._uri)
            raise

    def discard(self) -> None:
        """Removes the file; nothing happens if it has its name, or is gone."""
        with suppress(OSError):
            self.file.close()
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)


def remove_partials(directory: str, keep: Container[str]) -> None:
    """Removes the partial files of every run from a local directory but for those of some.

    Whoever holds the lock of the output may: a run that still lives without one must not name its
    files any more, and once they are gone it cannot.

    Args:
        keep: ids of the runs that hold a lock.
    """
    folder = uris.normalize(directory)
    if not is_local(directory) or not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        found = _NAME.fullmatch(name)  # what others call so is theirs
        if found and found.group(1) not in keep:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
