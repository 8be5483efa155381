"""Tells the files that this program wrote from those of others, by what is in them.

Parquet carries a mark in its metadata, and records have keys of their own. An `.npy` or `.npz` can
carry none: it counts as the program's where it has the form that is written here and something with
a mark lies in the same output.
"""

from __future__ import annotations

import enum
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.layout import FINGERPRINT_KEY, SUCCESS
from pipelines.storage import reading, uris

MAX_RECORD_BYTES = 16 << 20
_SUFFIXES = (".parquet", ".json", ".npy", ".npz")
# As `partial_files` and `local_files` name what they fill, and what that may begin with.
_PARTIAL = re.compile(r"\.partial-(?:[0-9a-z]*-[0-9a-f]{8}|[0-9a-f]{16})")
_BEGINNINGS = (b"PAR1", b"{", b"[", b"\x93NUMPY", b"PK")
# Keys that a record has, by name.
_RECORDS: Mapping[str, frozenset[str]] = {
    "run.json": frozenset({"counts", "fingerprint"}),
    "_attempts.json": frozenset({"run", "attempts"}),
    "_plan.json": frozenset({"output_id", "units"}),
    "filter.json": frozenset({"options", "steps", "fingerprint"}),
    "export.json": frozenset({"format", "input_digest", "rows_per_shard"}),
    "index.json": frozenset({"__kind__", "wids_version", "shardlist"}),
    "accuracy.json": frozenset({"rows", "without_truth", "top_1", "by_class"}),
}
_BIGQUERY = ".schema.json"
_BIGQUERY_KEYS = frozenset({"name", "type", "mode", "fields"})
_ARRAYS = re.compile(r"uids\.npy|subset\.npy|(img|text)_emb_[0-9]+\.npy")
_STATS = re.compile(r"[0-9]{5,}_stats\.json")
_STATS_KEYS = frozenset({"count", "successes", "missed", "status_dict"})
# Tars of samples and files of samples, by their keys; and the rows of each tar.
_SHARDS = re.compile(r"[0-9]{5,}\.(tar|jpg|png|webp|txt|json)|sizes\.json")
_MEMBERS = re.compile(r"(b32|l14)_(img|txt)\.npy")


class Origin(enum.Enum):
    """Who wrote a file."""

    MARKED = "this program, as it says"
    EMPTY = "whoever it was, there is nothing in it that could be lost"
    FORMED = "this program, if what lies beside it is marked"
    PARTIAL = "this program, when it was killed"
    FOREIGN = "somebody else"


def origin_of(uri: str) -> Origin:
    """Tells who wrote a file, from its name and what is in it.

    Raises:
        OSError: as the filesystem reports it.
    """
    name = uris.base_name(uri)
    if _PARTIAL.fullmatch(name):
        return Origin.PARTIAL if _is_partial(uri) else Origin.FOREIGN
    recognise = _recogniser(name)
    if recognise is None:
        return Origin.FOREIGN
    if reading.file_size(uri) == 0:
        return Origin.EMPTY
    try:
        return recognise(uri)
    except (ValueError, RecursionError, pa.ArrowException, zipfile.BadZipFile):
        return Origin.FOREIGN
    except OSError as error:  # Arrow's own have no number; those of filesystems have, or a class
        if type(error) is not OSError or error.errno is not None:
            raise
        return Origin.FOREIGN


def _recogniser(name: str) -> Callable[[str], Origin] | None:
    if name == SUCCESS:
        return lambda uri: Origin.FOREIGN  # as the program's own is empty
    if name.endswith(_BIGQUERY):
        return _bigquery
    if name in _RECORDS:
        return _record
    if _STATS.fullmatch(name):
        return _record
    if _SHARDS.fullmatch(name):
        return lambda uri: Origin.FORMED
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    return {".parquet": _parquet, ".npy": _npy, ".npz": _npz}.get(suffix or "")


def _parquet(uri: str) -> Origin:
    with reading.open_at_end(uri) as file:
        metadata = pq.read_metadata(file).metadata or {}
    return Origin.MARKED if FINGERPRINT_KEY in metadata else Origin.FOREIGN


def _record(uri: str) -> Origin:
    found = _json(uri)
    keys = _RECORDS.get(uris.base_name(uri), _STATS_KEYS)
    return Origin.MARKED if isinstance(found, dict) and keys <= set(found) else Origin.FOREIGN


def _bigquery(uri: str) -> Origin:
    """A schema that somebody has added descriptions to is theirs."""
    found = _json(uri)
    own = isinstance(found, list) and all(
        isinstance(field, dict) and _BIGQUERY_KEYS >= set(field) >= {"name", "type", "mode"}
        for field in found
    )
    return Origin.MARKED if own and found else Origin.FOREIGN


def _json(uri: str) -> Any:
    return json.loads(reading.read_retried(uri, MAX_RECORD_BYTES))


def _npy(uri: str) -> Origin:
    if not _ARRAYS.fullmatch(uris.base_name(uri)):
        return Origin.FOREIGN
    with reading.open_input(uri) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            return Origin.FOREIGN
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    uids = dtype == np.dtype("u8,u8") and len(shape) == 1
    vectors = dtype == np.dtype("<f2") and len(shape) == 2
    return Origin.FORMED if (uids or vectors) and not fortran else Origin.FOREIGN


def _npz(uri: str) -> Origin:
    with reading.open_at_end(uri) as file, zipfile.ZipFile(file) as archive:
        own = all(_MEMBERS.fullmatch(name) for name in archive.namelist())
    return Origin.FORMED if own else Origin.FOREIGN


def _is_partial(uri: str) -> bool:
    with reading.open_input(uri) as file:
        head = file.read(max(map(len, _BEGINNINGS)))
    return not head or head.startswith(_BEGINNINGS)
