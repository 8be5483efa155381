"""Looks at the names of a tar's members for what would cost rows, before a run."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import islice

from pipelines.manifests.tars.members import Member
from pipelines.manifests.tars.samples import Sample, Samples
from pipelines.records import Unit
from pipelines.storage import reading
from pipelines.storage.compression import DamagedStream, decompressed
from pipelines.storage.foreign_names import escaped
from schemas.manifest import FIRST_DOT

MEMBERS_LOOKED_AT = 5000


def advice_on_tar(unit: Unit) -> list[str]:
    """Returns what is wrong with the names of a tar's first members, and what to do.

    Raises:
        OSError: as the filesystem reports it.
    """
    keys: set[str] = set()
    folded = apart = None
    for sample in Samples(_members(unit.uri), unit.columns.key_until):
        folded = folded or _folded_image(sample, unit)
        if sample.key in keys and not sample.image_field(unit.columns):
            apart = apart or sample
        keys.add(sample.key)
    found = []
    if folded is not None:
        found.append(
            f"keys with dots, such as {escaped(folded)!r}: a key ends at the first dot, so "
            "that several images are one sample; pass `key_until='last_dot'`"
        )
    if apart is not None:
        name = next(iter(apart.members.values())).name
        found.append(
            f"samples that are torn apart, such as {escaped(apart.key)!r}, whose {escaped(name)!r} "
            "does not stand beside its image; write the tar with `tar --sort=name`"
        )
    return found


def _folded_image(sample: Sample, unit: Unit) -> str | None:
    """Returns an image that is not seen in its sample: there is no other, or it has a caption."""
    if unit.columns.key_until != FIRST_DOT:
        return None
    folded = sample.folded_images()
    if folded and sample.image_field(unit.columns) is None:
        return folded[0]
    names = {member.name.lower() for member in sample.members.values()}
    return next((n for n in folded if f"{n.lower().rpartition('.')[0]}.txt" in names), None)


def _members(uri: str) -> Iterator[Member]:
    """Yields the first members of a tar, as far as it can be read in passing."""
    with reading.open_input(uri) as file:
        try:
            with tarfile.open(fileobj=decompressed(uri, file), mode="r|") as tar:
                for found in islice(tar, MEMBERS_LOOKED_AT):
                    yield Member(found.name, "directory" if found.isdir() else "file", 0, 0)
        # Whatever a damaged tar makes `tarfile` raise: the sample tells of it.
        except (tarfile.TarError, EOFError, DamagedStream, ValueError):
            return
