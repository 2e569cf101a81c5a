"""Reads a tar archive as a stream: nothing is unpacked to the disk, and no header can make it hold much memory.

`tarfile` of the standard library takes a damaged header in the middle for the end of the archive, and reads extension
headers of any size into memory. Here the first is damage, and the second is limited.
"""

from __future__ import annotations

from typing import IO, NamedTuple

BLOCK = 512

MOST_EXTENSION = 1 << 20
"""Bytes of an extension header (long names, pax records) at most."""

PIECE = 1 << 20
"""Bytes that are read at a time where they are only passed over or copied."""

REGULAR = b"0\0007"
LINKS = b"12"


class Member(NamedTuple):
    """An entry of the archive."""

    name: str
    """The name as it is stored; bytes that are not UTF-8 are surrogate-escaped."""
    size: int
    kind: str
    """`file`, `directory`, `link` or `special_file`."""
    head: bytes
    """The blocks before the data: the header and the extension headers that belong to it."""
    shared: bytes
    """Extension headers for the whole archive that stand before it."""


class TarReader:
    """The members of an archive in order.

    Raises `EOFError` (from any method) where the archive is damaged or ends before its end mark.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Bytes of the present member's data, and of its padding, that are not read yet.
        self._left = self._padding = 0
        self._any = self._ended = False

    def next(self) -> Member | None:
        """The next member; what is not read of the present one is passed over."""
        while self._left:
            self.read(PIECE)
        head = shared = b""
        name: str | None = None
        size: int | None = None
        sparse = False
        while True:
            block = self._file.read(BLOCK)
            if not block.strip(b"\0"):
                # The end mark is of zeros, and so is what pads an archive. Another archive may follow.
                if len(block) < BLOCK:
                    if self._ended or (not self._any and not block):
                        return None
                    raise EOFError("the archive ends before its end mark: it is truncated")
                self._ended = True
                continue
            if len(block) < BLOCK or not _sum_is_right(block):
                if self._ended:  # After the end mark, it is none of the archive.
                    return None
                raise EOFError("a header of the archive is damaged")
            self._any, self._ended = True, False
            kind, length = block[156:157], _number(block[124:136])
            if kind in b"LKxg" and kind != b"":
                if length > MOST_EXTENSION:
                    raise EOFError(f"an extension header of {length} bytes")
                blocks = block + self._exactly(-(-length // BLOCK) * BLOCK)
                data = blocks[BLOCK : BLOCK + length]
                if kind == b"g":
                    shared += blocks
                    continue
                head += blocks
                if kind == b"L":
                    name = _text(data)
                elif kind == b"x":
                    records = _records(data)
                    name = _text(records[b"path"]) if b"path" in records else name
                    size = int(records[b"size"]) if records.get(b"size", b"").isdigit() else size
                    sparse |= any(key.startswith(b"GNU.sparse") for key in records)
                continue
            break
        head += block
        if kind == b"S":  # A sparse file of GNU tar has further headers.
            more = block[482:483] != b"\0"
            while more:
                extension = self._exactly(BLOCK)
                head += extension
                more = extension[504:505] != b"\0"
                if len(head) > MOST_EXTENSION:
                    raise EOFError("a sparse file with too many holes")
        size = length if size is None else size
        stored = _text(block[:100])
        if block[257:263] == b"ustar\0" and block[345:346] != b"\0":
            stored = f"{_text(block[345:500])}/{stored}"
        name = stored if name is None else name
        # Links, directories and devices have no data, whatever their size says.
        what = _what(kind, name, sparse)
        self._left = 0 if kind in b"123456" else size
        self._padding = -self._left % BLOCK
        return Member(name, size if self._left else 0, what, head, shared)

    def read(self, most: int) -> bytes:
        """At most so many bytes of the present member's data; empty at its end, where its padding is passed over."""
        data = self._exactly(min(most, self._left))
        self._left -= len(data)
        if not self._left and self._padding:
            self._exactly(self._padding)
            self._padding = 0
        return data

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        while len(data) < count:
            more = self._file.read(count - len(data))
            if not more:
                raise EOFError("the archive is truncated")
            data += more
        return data


def _what(kind: bytes, name: str, sparse: bool) -> str:
    if kind == b"5" or (kind in b"\0000" and name.endswith("/")):
        return "directory"
    if kind in LINKS:
        return "link"
    return "file" if kind in REGULAR and not sparse else "special_file"


def _sum_is_right(block: bytes) -> bool:
    """The sum of a header's bytes, with spaces in place of the sum itself."""
    try:
        stored = _number(block[148:156])
    except EOFError:
        return False
    return bool(sum(block[:148]) + sum(block[156:]) + 8 * 32 == stored)


def _number(field: bytes) -> int:
    """An octal number, or a binary one where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else 0
    digits = field.strip(b" \0").split(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise EOFError("a header of the archive is damaged") from None


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[bytes, bytes]:
    """The `LENGTH KEY=VALUE\\n` records of a pax header."""
    found: dict[bytes, bytes] = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise EOFError("an extension header of the archive is damaged")
        key, _, value = data[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        found[key] = value
        data = data[int(length) :]
    return found
