"""Writes a run as training shards: what is finished is left, the rest done, and all of it counted.

OUTPUT/export.json          first: what is exported, and how; a rerun that is another is refused
OUTPUT/shards/<shard>.tar   with `<shard>.parquet` and `<shard>_stats.json`; so for each format
OUTPUT/shards/index.json    last, of tars: the index that webdataset's `wids` reads
OUTPUT/shards/sizes.json    of tars: rows by shard, as open_clip reads them
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.command_line.meter import meter
from pipelines.engine.per_file import Workers, over_files
from pipelines.output.overwriting import make_room
from pipelines.output.run_json import MAX_RUN_JSON_BYTES
from pipelines.output.scored_tables import ScoredTables
from pipelines.shards.plan import Shard, plan_shards
from pipelines.shards.work import STATS, ShardExport, ShardStats, read_stats
from pipelines.storage import listing, reading, uris, writing
from pipelines.storage.local_files import PARTIAL
from pipelines.storage.redaction import redact
from pipelines.storage.stores import is_local

EXPORT_JSON = "export.json"
READERS = 16
MAX_REMEDIES = 3


class ShardExportError(ValueError):
    """The output holds another export: says what differs."""


def begin(export: ShardExport, rows_per_shard: int, overwrite: bool) -> list[Shard]:
    """Makes sure that the output is empty, or holds a part of this very export; returns its shards.

    Raises:
        ShardExportError, ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    embeddings = export.tables.embeddings
    files = list(zip(embeddings, export.tables.row_counts.of(embeddings), strict=True))
    about = _about(export, files, rows_per_shard)
    found = _read(uris.join(export.output, EXPORT_JSON))
    folders = sorted({export.form.data, export.form.ledger})
    shards = plan_shards(files, rows_per_shard)
    if found is not None:
        _remove_partials(export, shards, folders)
    if found is not None and not overwrite:
        _check_same(found, about)
    else:
        make_room(export.output, [EXPORT_JSON, *folders], overwrite)
        text = json.dumps(about, indent=2, sort_keys=True) + "\n"
        writing.write_atomically(uris.join(export.output, EXPORT_JSON), text.encode())
    return shards


def run(export: ShardExport, shards: Sequence[Shard], options: Workers | None) -> list[ShardStats]:
    """Writes the shards that are not finished; returns the statistics of all, in order.

    Raises:
        ScoredTablesError, OSError: if a table cannot be read, or nothing be written.
    """
    found = _finished(export, shards)
    pending = [shard for shard in shards if shard.name not in found]
    rows = sum(shard.rows for shard in shards)
    with meter(rows, "rows") as count:
        count(rows - sum(shard.rows for shard in pending))
        work = over_files(export.write, pending, options)
        for shard, one in zip(pending, work, strict=True):
            found[shard.name] = one
            count(shard.rows)
    stats = [found[shard.name] for shard in shards]
    if export.format == "webdataset":
        _write_index(export, shards, stats)
    return stats


def summary(stats: Sequence[ShardStats]) -> list[str]:
    """Returns the lines that say what became of every row."""
    missed: Counter[str] = Counter()
    remedies: Counter[str] = Counter()
    for one in stats:
        missed.update(one.missed)
        remedies.update(one.remedies)
    rows, written = (sum(getattr(s, name) for s in stats) for name in ("count", "successes"))
    told = ", ".join(f"{reason} {n}" for reason, n in sorted(missed.items()))
    lines = [f"rows       {rows}", f"written    {written} in {len(stats)} shards"]
    lines += [f"not there  {rows - written} ({told})"] if missed else []
    if missed["other_format"]:
        lines.append("           pass `reencode` to write images of other formats as PNG")
    for remedy, number in remedies.most_common(MAX_REMEDIES):
        lines.append(f"images     {number} not allowed; allow them with {remedy}")
    return [*lines, "           or all that the run names with `trust_run`"] if remedies else lines


def _about(
    export: ShardExport, files: Sequence[tuple[str, int]], rows_per_shard: int
) -> dict[str, Any]:
    return {
        "format": export.format,
        "input": redact(export.tables.root),
        "input_digest": _digest(export.tables, files),
        "reencode": export.reencode,
        "rows_per_shard": rows_per_shard,
    }


def _digest(tables: ScoredTables, files: Sequence[tuple[str, int]]) -> str:
    """Tells a run from what another filter keeps in its place."""
    named = [(uris.base_name(uri), rows) for uri, rows in files]
    told = json.dumps([tables.record, named], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _read(uri: str) -> dict[str, Any] | None:
    try:
        found = json.loads(reading.read_retried(uri, MAX_RUN_JSON_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _check_same(found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    for name in ("format", "rows_per_shard", "reencode", "input", "input_digest"):
        if found.get(name) != about[name]:
            told = "other rows" if name == "input_digest" else f"{name} {found.get(name)!r}"
            raise ShardExportError(
                f"the output was begun with {told}, this export has "
                f"{'these' if name == 'input_digest' else repr(about[name])}; use another "
                "`output`, or `overwrite`"
            )


def _remove_partials(export: ShardExport, shards: Sequence[Shard], folders: Sequence[str]) -> None:
    """Removes what a killed process left half written in a local output, which is an export's."""
    if not is_local(export.output):
        return
    found = [uris.join(export.output, folder) for folder in folders]
    if export.format == "folder":
        found += [export.data_uri(shard) for shard in shards]
    for uri in (uri for folder in found for uri in listing.list_files(folder)):
        if uris.base_name(uri).startswith(PARTIAL):
            writing.remove(uri)


def _finished(export: ShardExport, shards: Sequence[Shard]) -> dict[str, ShardStats]:
    folders = {export.form.ledger, export.form.data}
    files = [f for name in folders for f in listing.list_files(uris.join(export.output, name))]
    there = {uris.base_name(uri) for uri in files}
    done = [shard for shard in shards if f"{shard.name}{STATS}" in there]
    if export.format != "folder":
        done = [shard for shard in done if export.form.name(shard) in there]
    with ThreadPoolExecutor(READERS) as pool:
        texts = pool.map(
            lambda s: reading.read_retried(export.ledger_uri(s, STATS), MAX_RUN_JSON_BYTES), done
        )
        return {shard.name: read_stats(text) for shard, text in zip(done, texts, strict=True)}


def _write_index(export: ShardExport, shards: Sequence[Shard], stats: Sequence[ShardStats]) -> None:
    found = [(export.form.name(shard), one) for shard, one in zip(shards, stats, strict=True)]
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": uris.base_name(uris.normalize(export.output)),
        "shardlist": [
            {"url": name, "nsamples": one.successes, "filesize": one.bytes} for name, one in found
        ],
    }
    sizes = {name: one.successes for name, one in found}
    for name, value in (("sizes.json", sizes), ("index.json", index)):
        text = json.dumps(value, indent=2) + "\n"
        writing.write_atomically(uris.join(export.output, export.form.data, name), text.encode())
