"""Groups the members of a tar into samples: adjacent ones whose names share a key.

A name is KEY.FIELD, and the key ends at the first dot of the base name, or at the last one where
the user says so. What has no such name is no member of a sample, and parts none: hidden members,
such as those that macOS puts before each file (`._NAME`), and names without an extension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipelines.manifests.tars.members import Member
from pipelines.storage.foreign_names import escaped
from schemas.manifest import LAST_DOT, Columns
from schemas.pairs import TEXTS

IMAGE_FIELDS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"),
    *("heic", "heif", "jxl", "svg"),  # most of which are rejected by name, and not as missing
)
CAPTION_FIELDS = ("txt", "json")
MAX_SAMPLE_MEMBERS = 1000
MAX_REMEMBERED = 100_000  # keys of samples that lack an image or a caption

# The names under which a tar's reader hands out what it found in a sample: of members and of json's
# fields none begins with a slash.
COLUMNS = Columns(
    uid="/uid", image_uri="/url", image_bytes="/image", text="/text", sha256="/sha256"
)
_ADJACENT = "members of a sample must be adjacent, as `tar --sort=name` writes them"


class Sample(NamedTuple):
    """Adjacent members with one key.

    Attributes:
        members: by field, lower case; at least one.
        follows: name of the member behind the last, if there is one.
        apart: name of an earlier member with this key that stands elsewhere and lacks what others
            have, or None.
    """

    key: str
    members: dict[str, Member]
    follows: str | None = None
    apart: str | None = None

    def image_field(self, columns: Columns) -> str | None:
        """Returns the field that is the image, if it is read; a sample may have others, which are
        not."""
        if columns.pairs == TEXTS:
            return None
        own = columns.image_bytes != COLUMNS.image_bytes
        fields = (str(columns.image_bytes).lower(),) if own else IMAGE_FIELDS
        return next((field for field in fields if field in self.members), None)

    def folded_images(self) -> list[str]:
        """Returns names of images whose fields hold a dot: their keys may, instead."""
        return [
            member.name
            for field, member in self.members.items()
            if "." in field and field.rpartition(".")[2] in IMAGE_FIELDS
        ]

    def hint(self, columns: Columns) -> str | None:
        """Says why the sample may lack its image or its caption."""
        image = self.image_field(columns)
        folded = [] if image or columns.key_until == LAST_DOT else self.folded_images()
        if folded:
            return (
                f"a key ends at the first dot, so that {escaped(folded[0])!r} and "
                f"{len(self.members) - 1} more members are one sample; "
                "`key_until='last_dot'` takes them apart"
            )
        if self.apart is not None:
            return f"{escaped(self.apart)!r} stands elsewhere in the tar; {_ADJACENT}"
        if image is None or not self.members.keys().isdisjoint(CAPTION_FIELDS):
            return None
        beside = ", ".join(escaped(member.name) for member in self.members.values())
        behind = f", then {escaped(self.follows)!r}; {_ADJACENT}" if self.follows else ""
        return f"expected a .txt or .json beside the image, got {beside:.200}{behind}"


class Samples(Iterator[Sample]):
    """The samples of a tar, in order; a field that comes again begins another one.

    `left_out` is the number of members that belong to none, `first_left_out` the name of the first.
    """

    def __init__(self, members: Iterable[Member], key_until: str) -> None:
        self.left_out = 0
        self.first_left_out: str | None = None
        self._samples = self._grouped(members, key_until)
        self._lacking: dict[str, str] = {}

    def __next__(self) -> Sample:
        return next(self._samples)

    def _grouped(self, members: Iterable[Member], key_until: str) -> Iterator[Sample]:
        key, taken = "", dict[str, Member]()
        for member in members:
            if member.kind == "directory":
                continue
            name = split_name(member.name, key_until)
            if name is None:
                self.left_out += 1
                self.first_left_out = self.first_left_out or member.name
                continue
            if taken and (name[0] != key or name[1] in taken or len(taken) == MAX_SAMPLE_MEMBERS):
                yield self._sample(key, taken, member.name)
                taken = {}
            key, taken[name[1]] = name[0], member
        if taken:
            yield self._sample(key, taken, None)

    def _sample(self, key: str, members: dict[str, Member], follows: str | None) -> Sample:
        apart = self._lacking.get(key)
        if len(self._lacking) < MAX_REMEMBERED and _lacks_something(members):
            self._lacking.setdefault(key, next(iter(members.values())).name)
        return Sample(key, members, follows, apart)


def _lacks_something(members: Mapping[str, Member]) -> bool:
    return any(members.keys().isdisjoint(fields) for fields in (IMAGE_FIELDS, CAPTION_FIELDS))


def split_name(name: str, key_until: str) -> tuple[str, str] | None:
    """Splits a member's name into key and lower-case field: "a/b.c.JPG" is ("a/b", "c.jpg").

    Returns:
        None for a name that has none: hidden, or without an extension.
    """
    folder, slash, base = name.rpartition("/")
    if base.startswith(".") or "." not in base:
        return None
    key, _, field = base.rpartition(".") if key_until == LAST_DOT else base.partition(".")
    return folder + slash + key, field.lower()
