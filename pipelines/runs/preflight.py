"""What would go wrong in a run, found before it: in its manifest, models, output, and a sample."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from pipelines.command_line.flag_names import in_flags
from pipelines.encoding.models import RunModels
from pipelines.manifests.files import left_out_line
from pipelines.manifests.parquet.costs import largest_page
from pipelines.manifests.planning import Plan
from pipelines.manifests.tars.advice import advice_on_tar
from pipelines.ownership.finished import own_units
from pipelines.ownership.lock import check_unlocked, lock_uri
from pipelines.ownership.planned import read_planned
from pipelines.probes.head import Head
from pipelines.records import Unit
from pipelines.runs.job import (
    embed_rows_of,
    fingerprint_of,
    heads_for,
    image_prefixes,
    layout_of,
    load_run_models,
    plan_of,
)
from pipelines.runs.options import EmbedConfig
from pipelines.runs.resume import (
    changed_units,
    check_resumable,
    pending_of,
    retried_reasons,
)
from pipelines.runs.trial import SampleResult, embed_sample
from pipelines.storage import stores, uris, writing
from pipelines.storage.redaction import redact
from schemas.manifest import Columns
from schemas.warehouses import unreadable

MAX_FILES_SHOWN = 5
LARGE_PAGE_BYTES = 32 << 20
IMAGES_S = 60.0  # for the images over http(s) of a sample, all together
MANY = 0.5  # a larger share of rejects is a problem whatever `max_reject_fraction` allows
T = TypeVar("T")

# What to do about rejects, where a flag or the operator can do something.
REMEDIES = {
    "not_allowed": "allow the images' prefix with `allow_images_from`",
    "not_found": "check `image_root`, which relative paths start from",
    "forbidden": "check the credentials of this machine for the images' store",
    "fetch_failed": "check the network and the images' store",
    "opted_out": "`disallowed_header_directives` says which of their directives are honoured",
    "missing_image": "check `image_column`, or embed captions alone with `pairs='texts'`",
    "empty_text": "check `text_column`, or embed images alone with `pairs='images'`",
    "malformed_row": "look at `detail` in the rejects of a run; the file may be of another format",
    "manifest_truncated": "write the manifest file again",
    "manifest_unreadable": "write the manifest file again",
    "deep_pixels": "scale these images to 8 bits, or pass `deep_images='clip'`",
    "unsupported_format": "convert these images to JPEG, PNG or WebP",
}


@dataclass
class Findings:
    """What the checks have found so far."""

    problems: list[str] = field(default_factory=list)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Returns what a step returns; what it refuses becomes a problem, and None is returned."""
        try:
            return step()
        except (ValueError, OSError, RuntimeError) as error:
            self.problems.append(" ".join(str(error).split()) or type(error).__name__)
            return None


def check(config: EmbedConfig, sample: int, findings: Findings) -> None:
    """Runs all checks, each as far as those before it allow."""
    plan = findings.attempt(lambda: plan_of(config))
    if unused := config.unused_proxy(image_prefixes(config)):
        _note(unused)
    if plan is not None:
        _check_manifest(plan, findings)
    models = findings.attempt(lambda: _loaded(config))
    findings.attempt(lambda: _check_writable(config.output))
    if config.embedding_dtype == "float16" and not config.scores_only:
        _note("Spark 3.5, Delta and BigQuery cannot read embeddings in float16")
    if plan is None or models is None:
        return
    heads = findings.attempt(lambda: heads_for(plan, models, config))
    if heads is None:
        return
    findings.attempt(lambda: _check_output(config, plan, fingerprint_of(models, heads, config)))
    result = findings.attempt(lambda: _embedded(config, plan, models, heads, sample))
    if result is not None and result.rows:
        _judge(result, config, findings)
        _estimate(result, plan)


def _note(text: str) -> None:
    """Prints a line that belongs to the one above it."""
    print(f"           {in_flags(text)}")


def _check_manifest(plan: Plan, findings: Findings) -> None:
    files = {unit.uri: unit for unit in plan.units}
    known = f"{plan.rows} rows" if plan.rows is not None else "rows are counted as they are read"
    print(f"manifest   {number(len(files), 'file')}, {number(len(plan.units), 'unit')}, {known}")
    by_file = Counter[str]()
    for unit in plan.units:
        by_file[unit.uri] += unit.rows_to_read or 0
        if unit.damage:
            uri = redact(unit.uri)
            findings.problems.append(f"{uri} is damaged: {unit.damage}; write it again")
    for uri, unit in list(files.items())[:MAX_FILES_SHOWN]:
        uncounted = "tar" if unit.between is None else "images"
        rows = f"{by_file[uri]} rows" if unit.rows_to_read is not None else uncounted
        _note(f"{redact(uri)}: {rows}; {_columns(unit.columns)}")
        _check_names(unit, findings)
        _check_pages(unit, findings)
    if len(files) > MAX_FILES_SHOWN:
        _note(f"and {len(files) - MAX_FILES_SHOWN} more")
    if plan.left_out:
        _note(f"left out: {left_out_line(plan.left_out)}")
    for line in unreadable(plan.kept):
        _note(line)
    if not plan.units:
        findings.problems.append("the manifest has no rows")


def _check_names(unit: Unit, findings: Findings) -> None:
    if unit.format == "webdataset":
        for problem in findings.attempt(lambda: advice_on_tar(unit)) or ():
            findings.problems.append(f"{redact(unit.uri)} has {problem}")


def _check_pages(unit: Unit, findings: Findings) -> None:
    """Says what a reader has to hold of a Parquet file whose pages are large."""
    image = unit.columns.image_bytes
    if unit.format != "parquet" or image is None:
        return
    size = findings.attempt(lambda: largest_page(unit.uri, image)) or 0
    if size > LARGE_PAGE_BYTES:
        _note(
            f"a page of {image!r} holds {size / 1e6:.0f} MB, which each reader holds up "
            "to four times; a writer that flushes pages by bytes makes smaller ones"
        )


def _columns(columns: Columns) -> str:
    names = ("uid", "image_uri", "image_bytes", "text", "sha256")
    found = [(name, getattr(columns, name)) for name in names]
    named = ", ".join(f"{name} {spelt!r}" for name, spelt in found if spelt and spelt[0] != "/")
    return named or "members told by their extensions"


def _loaded(config: EmbedConfig) -> RunModels:
    models = load_run_models(config)
    for name, spec, model in zip(models.names, models.specs, models.loaded, strict=True):
        about = model.fingerprint
        print(
            f"model      {f'{name}: ' if name else ''}{about['architecture']}; "
            f"{model.config.embed_dim} dimensions; on {spec.device} in {spec.precision}; "
            f"tokenizer {about['tokenizer']}"
        )
    return models


def _check_writable(output: str) -> None:
    made = _absent_directories(output)
    probe = uris.join(output, f"_check-{secrets.token_hex(4)}")
    try:
        writing.write_atomically(probe, b"")
        writing.remove(probe)
        with suppress(OSError):  # not empty any more: somebody else has begun there
            for directory in made:
                os.rmdir(directory)
    except OSError as error:
        raise OSError(f"`output` {output} cannot be written: {error}") from error
    check_unlocked(lock_uri(output), time.time())
    print(f"output     {redact(output)} can be written")


def _absent_directories(uri: str) -> list[str]:
    """Returns the local directories of a path that are not there, the deepest first."""
    path = uris.normalize(uri)
    chain = [path, *map(str, Path(path).parents)] if stores.is_local(path) else []
    return [directory for directory in chain if not os.path.exists(directory)]


def _check_output(config: EmbedConfig, plan: Plan, fingerprint: Mapping[str, Any]) -> None:
    before = read_planned(config.output)
    finished = own_units(config.output, before)
    if config.overwrite:
        _note(f"{len(finished)} units there, which `overwrite` removes")
        return
    check_resumable(finished, plan.units, fingerprint, plan.kept)
    if finished:
        changed = changed_units(finished, plan.units)
        retried = retried_reasons(config)
        pending = pending_of(plan.units, finished, before, config.output, retried, changed.units)
        _note(f"{len(finished)} units are finished, {len(pending)} left to do")
        if line := changed.line():
            _note(line)


def _embedded(
    config: EmbedConfig, plan: Plan, models: RunModels, heads: Sequence[Head], sample: int
) -> SampleResult:
    with TemporaryDirectory() as folder:
        layout = replace(layout_of(plan, models, heads, config), root=folder)
        transform = embed_rows_of(models, heads, config, images_s=IMAGES_S)
        return embed_sample(plan.units, sample, transform, layout)


def _judge(result: SampleResult, config: EmbedConfig, findings: Findings) -> None:
    reasons = ", ".join(f"{name} {count}" for name, count in result.rejects.most_common())
    rejected = result.rejects.total()
    print(
        f"sample     {result.rows} rows{_records(result)}: {result.records - rejected} embedded, "
        f"{rejected} rejected"
        + (f" ({reasons})" if reasons else "")
        + f", {result.truncated} captions cut"
    )
    for name, count in result.rejects.most_common():
        detail = result.details[name]
        remedy = f"; {REMEDIES[name]}" if name in REMEDIES else ""
        _note(f"{name}, {count / result.records:.1%}, such as row {detail}{remedy}")
    share = rejected / result.records
    if share > min(config.max_reject_fraction, MANY):
        worst = result.rejects.most_common(1)[0][0]
        findings.problems.append(
            f"{share:.1%} of the sample were rejected, most as {worst}"
            + (f"; {REMEDIES[worst]}" if worst in REMEDIES else "")
        )
    if result.repeated_ids:
        _note(f"{result.repeated_ids} ids are there more than once; all rows are kept")


def _records(result: SampleResult) -> str:
    return f" with {result.records} captions" if result.records != result.rows else ""


def _estimate(result: SampleResult, plan: Plan) -> None:
    rows = plan.rows or 1_000_000
    what = f"{rows} rows" if plan.rows else "each million rows"
    seconds, size = rows / result.rows_per_s, rows * result.bytes_per_row
    print(
        f"estimate   {what}: about {_duration(seconds)} on this machine at "
        f"{result.rows_per_s:.0f} rows/s, and {size / 1e6:.1f} MB of output"
    )


def number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
