"""Lists of rows to keep or to drop: some million lines as sorted hashes, loaded once a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pyarrow as pa

from pipelines.curation.list_lines import (
    HOST,
    KEY_BYTES,
    KINDS,
    SHA256,
    UID,
    URL,
    BadLineError,
    key,
    keys_of_line,
    keys_of_place,
    place_of_url,
    same_url,
)
from pipelines.curation.rules import Rule
from pipelines.manifests.text.records import open_text
from pipelines.storage import reading, uris
from pipelines.storage.compression import DamagedStream
from pipelines.storage.redaction import redact

KEEP, DROP = "keep_list", "drop_list"
MAX_LINE_BYTES = 1 << 16
# Compared whole, as bytes that numpy sorts; trailing zeros count, as every key has this length.
_KEYS = np.dtype(f"S{KEY_BYTES}")
_COLUMN = {UID: "uid", SHA256: "sha256", URL: "url", HOST: "url"}
_LOADING = threading.Lock()


class RowListError(ValueError):
    """A list that cannot be read: says which line, and what was expected."""


@dataclass(frozen=True)
class RowList:
    """What a list names.

    Attributes:
        keys: by kind, [lines] sorted `S16`.
    """

    keys: dict[str, np.ndarray]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that its lines are compared with."""
        return tuple(dict.fromkeys(_COLUMN[kind] for kind in self.keys))

    def matches(self, batch: pa.RecordBatch) -> np.ndarray:
        """Returns [rows] bool: which rows a line names."""
        found = np.zeros(len(batch), bool)
        for kind, known in self.keys.items():
            texts = batch.column(_COLUMN[kind]).to_pylist()
            owners, keys = _keys_of_rows(kind, texts)
            found[owners[_contains(known, keys)]] = True
        return found


@dataclass(frozen=True)
class _Names:
    """A rule's function; it takes the list's address to a worker, and not the list.

    Args:
        state: size and version of the file, as it was when it was checked.
    """

    uri: str
    state: reading.FileState
    drops: bool

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return _loaded(self.uri, self.state).matches(batch) != self.drops


def list_rule(uri: str, kind: str) -> Rule:
    """Returns the condition that a row is named by a list, or is not.

    Args:
        kind: `keep_list` or `drop_list`.

    Raises:
        RowListError: if a line means nothing, or the file is no text.
        OSError: as the filesystem reports it.
    """
    uri = uris.normalize(uri)
    try:
        names = _Names(uri, reading.file_state(uri), kind == DROP)
        columns = _loaded(uri, names.state).columns
    except FileNotFoundError as error:
        raise RowListError(
            f"expected a list as `{kind}`, got {redact(uri)}, which is not there"
        ) from error
    return Rule(f"{_PREFIXES[kind]} {redact(uri)}", columns or ("uid",), names)


_PREFIXES = {KEEP: "in keep list", DROP: "not in drop list"}


def useless_lists(steps: Sequence[tuple[str, int]]) -> list[str]:
    """Returns a line for each list that named none of the rows left before it: it may be of
    another kind than the run's.

    Args:
        steps: of the waterfall: what was done, and the rows that were left after it.
    """
    found = []
    for (_, before), (step, after) in zip(steps, steps[1:], strict=False):
        nothing = {KEEP: 0, DROP: before}
        for kind, prefix in _PREFIXES.items():
            if step.startswith(f"{prefix} ") and before and after == nothing[kind]:
                uri = step.removeprefix(f"{prefix} ")
                found.append(f"no match   no line of {uri} named a row; is it of another kind?")
    return found


def _loaded(uri: str, state: reading.FileState) -> RowList:
    with _LOADING:  # else the threads of a worker would each load it
        return _load_once(uri, state)


@cache
def _load_once(uri: str, state: reading.FileState) -> RowList:
    return load_list(uri)


def load_list(uri: str) -> RowList:
    """Reads a list, compressed or not.

    Memory: 16 bytes for each key, twice while they are sorted; an unmarked line with a dot has two.

    Raises:
        RowListError: if a line means nothing, or the file is no text.
        OSError: as the filesystem reports it.
    """
    keys: dict[str, bytearray] = {kind: bytearray() for kind in KINDS}
    for number, line in enumerate(_lines(uri), 1):
        try:
            for kind, found in keys_of_line(line):
                keys[kind] += found
        except BadLineError as error:
            raise RowListError(f"line {number} of {redact(uri)}: {error}") from None
    return RowList({kind: _sorted(keys.pop(kind)) for kind in KINDS if keys[kind]})


def _sorted(keys: bytearray) -> np.ndarray:
    found = np.frombuffer(keys, _KEYS).copy()
    found.sort()
    return found


def _lines(uri: str) -> Iterator[str]:
    try:
        with open_text(uri) as file:
            while line := file.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    raise RowListError(
                        f"expected a list of one uid, sha256, url or host a line, got {redact(uri)}"
                        f", which has a line of more than {MAX_LINE_BYTES} bytes"
                    )
                yield line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RowListError(
            f"expected a list in UTF-8 of one uid, sha256, url or host a line, got {redact(uri)}, "
            "which is something else"
        ) from None
    except DamagedStream as error:
        raise RowListError(f"{redact(uri)}: {error}") from error


def _keys_of_rows(kind: str, texts: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Returns [keys] int64, the row of each, and [keys] `S16`."""
    owners: list[int] = []
    keys: list[bytes] = []
    for row, text in enumerate(texts):
        if text is None:
            continue
        own = _keys_of_row(kind, text)
        keys.extend(own)
        owners.extend([row] * len(own))
    return np.array(owners, np.int64), np.frombuffer(b"".join(keys), _KEYS)


def _keys_of_row(kind: str, text: str) -> Sequence[bytes]:
    if kind == HOST:
        place = place_of_url(text)
        return () if place is None else keys_of_place(place)
    if kind == SHA256:
        text = text.lower()
    return (key(kind, same_url(text) if kind == URL else text),)


def _contains(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    at = np.searchsorted(known, keys)
    return known[np.minimum(at, len(known) - 1)] == keys
