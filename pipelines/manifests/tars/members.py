"""Finds the members of a tar, and believes nothing that its headers say.

`tarfile` reads an extended header of any size, unfolds sparse members, goes backwards where a size
is negative, and raises whatever that leads to. Here every size is compared with the file's first.
Read are POSIX.1-1988 (ustar), pax, GNU's long names, and sizes in base 256.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

BLOCK_BYTES = 512
MAX_HEADER_BYTES = 1 << 20  # of an extended header: names, times and attributes
MAX_NAME_BYTES = 1 << 16
ZERO_BLOCK = bytes(BLOCK_BYTES)
_CHECK_BYTES = 1 << 20

_FILES = (b"0", b"\0", b"7", b"S")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, directories, pipes
_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = (b"x", b"X"), b"g", b"L", b"K"
_EXTENDED = (*_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK)
_GNU_MAGIC = b"ustar  \0"  # such a header has times where others have the front of the name
_BLANK_CHECKSUM = 8 * ord(" ")
# Of what pax headers say, only this is kept: a tar may have any number of them.
_PATH, _SIZE, _SPARSE, _SPARSE_NAME = "path", "size", "GNU.sparse.", "GNU.sparse.name"


class DamagedTar(ValueError):
    """A tar that cannot be read from here on; says why in one line."""


class Member(NamedTuple):
    """A member of a tar.

    Attributes:
        name: as it is stored; bytes that are not UTF-8 are surrogates.
        kind: `file`, `directory`, `sparse` for a file with holes, or `other`.
        offset: byte of the tar at which its content begins.
        size: bytes of content in the tar.
    """

    name: str
    kind: str
    offset: int
    size: int


class TarMembers(Iterator[Member]):
    """The members of a tar, one after the other, none of which is kept in memory.

    `offset` is the byte at which the next header is; after the last member, that of the end blocks
    or of what is there in their place.

    Args:
        file: seekable; may be read between two members.

    Raises:
        DamagedTar: from `next`, where the tar is damaged or cut.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.offset = 0
        self._file = file
        self._file_bytes = file.seek(0, io.SEEK_END)
        self._global_pax: dict[str, bytes] = {}
        self._damage: DamagedTar | None = None

    def __next__(self) -> Member:
        if self._damage is not None:  # said after the member, so that those before it are whole
            raise self._damage
        said: dict[str, bytes] = {}  # by extended headers about the member that follows
        while True:
            start, block = self.offset, self._block()
            if block is None:
                raise StopIteration
            kind = block[156:157]
            if kind not in _EXTENDED:
                return self._member(block, start, {**self._global_pax, **said})
            content = self._extended(block, start)
            if kind == _LONG_NAME:
                said[_PATH] = content.split(b"\0", 1)[0]
            elif kind == _GLOBAL_PAX:
                self._global_pax.update(_pax_records(content, start))
            elif kind in _PAX:
                said.update(_pax_records(content, start))

    def damage_at_end(self) -> str | None:
        """Says what is wrong where the members end, or None."""
        self._file.seek(self.offset)
        blocks = self._file.read(2 * BLOCK_BYTES)
        if not blocks.startswith(ZERO_BLOCK):
            if len(blocks) < BLOCK_BYTES:
                return f"the archive ends at byte {self._file_bytes} without its end blocks"
            return f"the header at byte {self.offset} is damaged"
        if blocks != 2 * ZERO_BLOCK:
            return f"expected two end blocks at byte {self.offset}, got one"
        while chunk := self._file.read(_CHECK_BYTES):
            if chunk.strip(b"\0"):
                return f"data follows the end blocks at byte {self.offset}"
        return None

    def _block(self) -> bytes | None:
        """Reads the header at `offset`; None where there is none that is whole."""
        self._file.seek(self.offset)
        block = self._file.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES or block == ZERO_BLOCK or not _is_intact(block):
            return None
        return block

    def _extended(self, block: bytes, start: int) -> bytes:
        size = _number(block[124:136], start)
        if size > MAX_HEADER_BYTES:
            raise DamagedTar(
                f"the extended header at byte {start} has {size} bytes, more than "
                f"{MAX_HEADER_BYTES}"
            )
        self._skip(start, BLOCK_BYTES + size, f"the extended header at byte {start}")
        return self._file.read(size)

    def _member(self, block: bytes, start: int, said: Mapping[str, bytes]) -> Member:
        name, offset, size = _name(block, said, start), start + BLOCK_BYTES, 0
        try:
            if block[156:157] not in _WITHOUT_CONTENT:
                size = _pax_size(said, start) if _SIZE in said else _number(block[124:136], start)
            if block[156:157] == b"S":
                offset = self._behind_map(block, offset)
            self._skip(start, offset - start + size, repr(name))
        except DamagedTar as damage:
            self._damage = damage
        return Member(name, _kind(block, said), offset, size)

    def _behind_map(self, block: bytes, offset: int) -> int:
        """Returns where the content of an old GNU sparse file begins: behind its map of holes."""
        goes_on = block[482]
        while goes_on:
            more = self._file.read(BLOCK_BYTES)
            if len(more) < BLOCK_BYTES:
                raise DamagedTar(f"the archive ends inside a map of holes at byte {offset}")
            goes_on, offset = more[504], offset + BLOCK_BYTES
        return offset

    def _skip(self, start: int, size: int, name: str) -> None:
        end = start + size + -size % BLOCK_BYTES
        if end > self._file_bytes:
            raise DamagedTar(f"the archive ends inside {name}, before byte {end}")
        self.offset = end


def _is_intact(block: bytes) -> bool:
    """Compares a header with its checksum, which some writers take of signed bytes."""
    try:
        expected = _number(block[148:156], 0)
    except DamagedTar:
        return False
    total = sum(block) - sum(block[148:156]) + _BLANK_CHECKSUM
    if total == expected:
        return True
    high = sum(byte > 127 for byte in block[:148]) + sum(byte > 127 for byte in block[156:])
    return total - 256 * high == expected


def _number(field: bytes, start: int) -> int:
    """Reads a number in octal digits or in base 256."""
    if field[:1] >= b"\x80":  # a negative one reads as one that is far too large
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise DamagedTar(f"the header at byte {start} is damaged: {digits[:20]!r} is no number")
    return int(digits or b"0", 8)


def _pax_size(said: Mapping[str, bytes], start: int) -> int:
    digits = said[_SIZE]
    if not digits.isdigit() or len(digits) > 20:
        raise DamagedTar(f"the header at byte {start} is damaged: {digits[:20]!r} is no number")
    return int(digits)


def _kind(block: bytes, said: Mapping[str, bytes]) -> str:
    kind = block[156:157]
    if kind == b"S" or _SPARSE in said:
        return "sparse"
    if kind == b"5" or (kind == b"\0" and block[:100].split(b"\0", 1)[0].endswith(b"/")):
        return "directory"
    return "file" if kind in _FILES else "other"


def _name(block: bytes, said: Mapping[str, bytes], start: int) -> str:
    name = said.get(_SPARSE_NAME) or said.get(_PATH)
    if not name:
        name = block[:100].split(b"\0", 1)[0]
        front = block[345:500].split(b"\0", 1)[0]
        if front and block[257:265] != _GNU_MAGIC:
            name = front + b"/" + name
    if len(name) > MAX_NAME_BYTES:
        raise DamagedTar(
            f"the name of the member at byte {start} has {len(name)} bytes, more than "
            f"{MAX_NAME_BYTES}"
        )
    return name.decode("utf-8", "surrogateescape")


def _pax_records(content: bytes, start: int) -> dict[str, bytes]:
    """Reads the records of a pax header, each `LENGTH KEY=VALUE` and a line break."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(content) and content[at : at + 1] != b"\0":
        length = content[at : at + 20].split(b" ", 1)[0]
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = content[at + len(length) + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise DamagedTar(f"the extended header at byte {start} is damaged")
        name = key.decode("utf-8", "replace")
        if name in (_PATH, _SIZE, _SPARSE_NAME):
            found[name] = value
        if name.startswith(_SPARSE):
            found[_SPARSE] = b""
        at = end
    return found
