"""Decides whether the manifest that a table of a run names is read.

The table may come from a stranger. By itself it opens nothing but what lies in its run's directory.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from pipelines.fetch import allowed_file
from pipelines.records import Unit
from pipelines.storage import uris
from pipelines.storage.redaction import MASK, redact
from schemas.manifest import ManifestError

_UNIT_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,127}")  # it names files of the output


def allowed_unit(table: str, unit: Unit, allowed: Sequence[str], trusted: bool) -> Unit:
    """Returns a unit as it may be read: its manifest and the root of its images are allowed.

    Args:
        table: the file whose metadata the unit is from.
        allowed: URI prefixes beside the directory of the table's run.
        trusted: whether all that the table names is read.

    Raises:
        ManifestError: names what is refused, and the flag that allows it.
    """
    if not _UNIT_ID.fullmatch(unit.unit_id):
        raise ManifestError(f"{table} calls its unit {unit.unit_id!r}, which names no unit")
    if trusted or MASK in unit.uri:
        return unit
    places = (uris.parent(uris.parent(table)), *allowed)
    uri = allowed_file(unit.uri, places)
    if uri is None:
        raise _refused(table, f"the manifest {redact(unit.uri)}", uris.parent(unit.uri))
    # Images start at the manifest, or where it is allowed, too.
    root = allowed_file(uris.join(unit.image_root, "x"), (uris.parent(uri), *places))
    if root is None:
        raise _refused(table, f"images from {redact(unit.image_root)}", unit.image_root)
    return replace(unit, uri=uri)


def _refused(table: str, what: str, place: str) -> ManifestError:
    return ManifestError(
        f"{table} is a table of a run, whose rows are read anew from where it says, and names "
        f"{what}, which lies elsewhere; if that is where they came from, pass "
        f"`--allow_manifests_from {shlex.quote(redact(place))}`"
    )
