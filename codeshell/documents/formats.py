"""Tells what a file is, by its first bytes and by its name, and unpacks what is compressed.

Compression is told by the first bytes alone, so that a packed file of any name is read. Formats that have a mark of
their own (Parquet, Arrow, tar) are told by it as well; JSON Lines and CSV have none, and need their name.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO

import pyarrow as pa

from codeshell.documents.json_lines import decode_record
from codeshell.errors import UserError

HEAD_BYTES = 1 << 16
"""Bytes that are looked at to tell a format."""

FIRST_LINE_BYTES = 8 << 20
"""The longest first line of a `.json` file that may still be JSON Lines."""

MARKS = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "xz"))
"""The first bytes of the compressions."""

PACKED = {
    ".gz": "",
    ".zst": "",
    ".zstd": "",
    ".bz2": "",
    ".xz": "",
    ".tgz": ".tar",
    ".tbz2": ".tar",
    ".txz": ".tar",
    ".tzst": ".tar",
}
"""Endings of packed files, and what they stand for besides."""

KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tar": "tar",
}
"""Endings of names and the kinds of input that they promise."""

NAMES = {"parquet": "Parquet", "arrow": "Arrow", "jsonl": "JSON Lines", "csv": "CSV", "tar": "tar"}
"""The kinds as a person calls them."""

READ = ".parquet or .jsonl (or .arrow, .json with JSON Lines, .csv, .tsv, .tar; also packed: .gz, .zst, .bz2, .xz)"
"""What a file of rows may be, for messages."""

TEXT_NAMES = ("text", "content", "code")
"""The usual names of a text column, the first that is there counts."""

REPO_NAMES = ("repo", "repo_name", "max_stars_repo_name")
PATH_NAMES = ("path", "max_stars_repo_path")
"""The usual names of a repository and of a path. A column `content` or `code` holds a text of code beside one of these;
alone, it may be anything."""

POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of what Git LFS leaves in place of a file."""


def ending(name: str) -> str:
    """The suffix of a name in lower case, without that of a compression: `.jsonl` of `a.JSONL.gz`."""
    lower = name.rsplit("/", 1)[-1].lower()
    for suffix, inner in PACKED.items():
        if lower.endswith(suffix):
            lower = lower.removesuffix(suffix) + inner
            break
    return lower[lower.rfind(".") :] if "." in lower else ""


def named(name: str) -> str:
    """The kind that a name promises, `json` for what may be JSON Lines or a single document, or an empty string."""
    suffix = ending(name)
    return "json" if suffix == ".json" else KINDS.get(suffix, "")


def packing(head: bytes) -> str:
    """`gz`, `zst`, `bz2`, `xz` or an empty string, by the first bytes of a file."""
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a frame of Zstandard that holds no data
        return "zst"
    return next((pack for mark, pack in MARKS if head.startswith(mark)), "")


def unpacked(raw: IO[bytes], pack: str) -> IO[bytes]:
    """The content of a packed file. All of these continue over concatenated files and refuse a truncated one."""
    if pack == "bz2":
        import bz2

        return bz2.BZ2File(raw)
    if pack == "xz":
        import lzma

        return lzma.LZMAFile(raw)
    if pack:
        stream = pa.CompressedInputStream(raw, "gzip" if pack == "gz" else "zstd")
        return io.BufferedReader(stream, 1 << 20)
    return raw


def kind_of(name: str, raw: IO[bytes]) -> str:
    """`parquet`, `arrow`, `jsonl`, `csv`, `tar`, or an empty string for a file that is a document by itself.

    Args:
        name: for messages and for its ending.
        raw: the file, at its beginning.

    Raises:
        UserError: a Git LFS pointer, UTF-16, an array of records: data that cannot be read as it is.
        OSError: damage.
    """
    first = raw.read(HEAD_BYTES)
    promised = named(name)
    if first.startswith(POINTER) and promised:
        raise UserError(f"{name}: a Git LFS pointer, not the data; run git lfs pull there, or download the file")
    if first.startswith(b"PK\x03\x04") and name.lower().endswith(".zip"):
        raise UserError(f"{name}: a zip archive; unpack it, or pack its files as .tar")
    pack = packing(first)
    raw.seek(0)
    head = first
    if pack:
        try:
            stream = unpacked(raw, pack)
            head = stream.read(HEAD_BYTES)
        except Exception:  # Damage: whoever reads the file says so.
            return promised if promised != "json" else "jsonl"
    else:
        stream = raw
        raw.seek(len(first))
    for mark, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow")):
        if head.startswith(mark):
            if pack:
                raise UserError(f"{name}: a {NAMES[kind]} file that is packed as a whole; unpack it first")
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    if promised in ("jsonl", "json", "csv"):
        _refuse_wide(name, head)
    if promised == "jsonl" and not pack and name.lower().endswith(tuple(PACKED)) and head.strip() and b"{" not in head:
        raise OSError("neither packed, as its name says, nor JSON Lines")
    if promised != "json":
        return promised
    # Read on to the end of the first line: a document of one line looks like a record until then.
    while b"\n" not in head.strip() and len(head) < FIRST_LINE_BYTES and (more := stream.read(HEAD_BYTES)):
        head += more
    return "jsonl" if _json_lines(name, head) else ""


def _refuse_wide(name: str, head: bytes) -> None:
    # Every second byte of ASCII in UTF-16 is zero, with a byte order mark or without.
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head[1:2] == b"\0" or head[:1] == b"\0":
        raise UserError(f"{name}: UTF-16 or UTF-32, not UTF-8; convert it with iconv -f UTF-16 -t UTF-8")


def _json_lines(name: str, head: bytes) -> bool:
    """Whether a `.json` file holds an object a line. A single object counts if it has a text."""
    lines = [line for line in head.splitlines() if line.strip(b" \t\r\xef\xbb\xbf")][:2]
    if not lines:
        return False
    record = decode_record(lines[0])
    if record is None:
        _refuse_array(name, head)
        return False
    return lines[1].lstrip().startswith(b"{") if len(lines) > 1 else has_text(record)


def _refuse_array(name: str, head: bytes) -> None:
    """Raise a `UserError` for an array of records with texts. Other arrays are documents."""
    text = head.lstrip(b" \t\r\n\xef\xbb\xbf")
    if not text.startswith(b"["):
        return
    begin = text[1:].lstrip()
    # The first record ends at one of the closing braces.
    end = begin.find(b"}") + 1
    while begin.startswith(b"{") and end:
        record = decode_record(begin[:end])
        if record is not None:
            if has_text(record):
                raise UserError(
                    f"{name}: one JSON array; JSON Lines is read, with an object on each line: jq -c '.[]' converts it"
                )
            return
        end = begin.find(b"}", end) + 1 if end < HEAD_BYTES else 0


def text_names(names: Iterable[str]) -> tuple[str, ...]:
    """The usual names that a text may have among some column names."""
    found = set(names)
    return TEXT_NAMES if not found.isdisjoint(REPO_NAMES + PATH_NAMES) else TEXT_NAMES[:1]


def has_text(names: Iterable[str]) -> bool:
    """Whether one of some column names is usual for a text."""
    found = set(names)
    return not found.isdisjoint(text_names(found))
