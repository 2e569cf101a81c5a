"""Opens what a user has: source files, Parquet, Arrow and lines of text, packed or not, here or at an fsspec URL.

Everything is streamed: at most one page of a column, one line or one source file is in memory. A file that is damaged
as a whole is a `UserError`, because nobody can tell what is missing from it. What is wrong with a single row or source
file is a reason, a word that is counted.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import weakref
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.documents import formats
from codeshell.engine.files import is_utf8
from codeshell.errors import UserError

PARQUET_BUFFER = 1 << 20
"""Bytes read at a time of a column chunk."""

UNSIZED_BYTES = 1 << 20
"""Bytes read at most of a file whose size is given as 0, as for those of /proc."""

NUL_BYTES = 8192
"""A zero byte within this many bytes makes a file binary, as git judges."""


class DamagedError(UserError):
    """A file that cannot be read to its end."""


def is_url(path: str) -> bool:
    return "://" in path


def is_packed(path: str) -> bool:
    """Whether the file is compressed, so that it can only be read from its beginning."""
    with damage(path), open_binary(path) as file:
        return bool(formats.packing(file.read(16)))


def kind_of(path: str, name: str = "") -> str:
    """What `formats.kind_of` says of a file or URL; its `name`, where the URL is a chain that ends in another one."""
    with damage(path), open_binary(path) as file:
        return formats.kind_of(name or path, file)


def storable(name: str) -> str:
    """A string as any file can hold it: bytes of a path that are not UTF-8, and lone surrogates, become escapes."""
    if is_utf8(name):
        return name
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # A surrogate that stands for no byte: the string came from JSON.
        return name.encode("utf-8", "backslashreplace").decode()


def read_head(path: str, count: int) -> bytes:
    """The first bytes of a regular file; none if it cannot be read, of which `read_file` says why."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.read(descriptor, count) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def read_file(path: str, limit: int) -> tuple[bytes, str]:
    """The bytes of a regular file, and the reason why it is left out (empty if it is to be read).

    The file may have changed since it was listed: it may be gone, longer, or a pipe by now.
    """
    try:
        # O_NONBLOCK: to open a pipe must not wait for a writer. O_NOFOLLOW: a link may lead anywhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b"", "unreadable"
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"", "special_file"
        if status.st_size > limit:
            return b"", "over_large"
        # One byte more than is allowed shows that the file has grown. os.read allocates all that it is asked for.
        target = min(limit, status.st_size or UNSIZED_BYTES) + 1
        # One read gets a whole file from a local disk; a network file system may give less.
        data = os.read(descriptor, target)
        while len(data) < status.st_size:
            more = os.read(descriptor, target - len(data))
            if not more:
                break
            data += more
    except OSError:
        return b"", "unreadable"
    finally:
        os.close(descriptor)
    return data, why_not_text(data, limit)


def why_not_text(data: bytes, limit: int | None) -> str:
    """The reason to leave a text out that its bytes give, except invalid UTF-8, which is found later in bulk.

    Args:
        limit: bytes at most. None lets a text of any size and with zero bytes pass.
    """
    # The order decides which reason a text with several faults is counted under.
    if not data:
        return "empty"
    if limit is None:
        return ""
    if len(data) > limit:
        return "over_large"
    if data.find(b"\0", 0, NUL_BYTES) < 0:
        return ""
    # Every second byte of UTF-16 is zero, but it is text.
    from codeshell.documents import encodings  # 6 ms that only such a text costs

    wide = encodings.is_wide(data)
    return f"encoding_{wide.name}" if wide else "binary"


def in_utf8(data: bytes, reason: str) -> tuple[bytes, str]:
    """A text in UTF-8 if it is in another encoding that can be told, and the reason why it is left out."""
    if not data or (reason and not reason.startswith("encoding_")) or (not reason and is_utf8_bytes(data)):
        return data, reason
    from codeshell.documents import encodings  # see above

    return encodings.to_utf8(data)


def encoding_reason(data: bytes) -> str:
    """The reason why a text that is not valid UTF-8 is left out: its encoding, if it can be told (`encodings`)."""
    from codeshell.documents import encodings  # see above

    return encodings.reason(data)


def is_utf8_bytes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
    """Turn what a broken file raises into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; fix the path") from None
    except UnicodeEncodeError:
        raise UserError(f"{path}: its name is not UTF-8, and Arrow opens no such path; rename it") from None
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"{path}: cannot be read whole ({text}); fix it or leave it out") from None


@contextlib.contextmanager
def driver(url: str) -> Iterator[None]:
    """Turn what fsspec says about a URL that it cannot open into a `UserError`. `OSError` is left to `damage`."""
    try:
        yield
    except (OSError, UserError, pa.ArrowException):
        raise
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}; install the fsspec driver for this kind of URL") from None
    except Exception as error:  # The network libraries of the drivers have exceptions of their own.
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{url}: cannot be opened ({text}); fix the URL, or check network and credentials") from None


def open_binary(path: str) -> IO[bytes]:
    """A local file or an fsspec URL, for reading."""
    # fsspec is imported only for URLs: local files need no driver, and every worker would pay.
    if not is_url(path):
        return open(path, "rb")
    import fsspec

    with driver(path):
        system, inside = fsspec.core.url_to_fs(path)
        file: IO[bytes] = system.open(inside, "rb")
        # A file in an archive (`zip://…::…`) is read through its file system, which therefore lives as long as it does.
        weakref.finalize(file, id, system)
        return file


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to be read a page at a time; what is wrong with it is a `UserError` that names it.

    Column chunks are not read ahead or whole: a row group may be larger than the memory.
    """
    with damage(path), contextlib.ExitStack() as stack:
        # Arrow opens a path only if it is UTF-8. A Python file has any name, at the cost of a call per page.
        by_python = is_url(path) or not is_utf8(path)
        file = stack.enter_context(open_binary(path)) if by_python else path
        yield stack.enter_context(pq.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False))


@contextlib.contextmanager
def open_lines(path: str) -> Iterator[IO[bytes]]:
    """A file of lines, or a tar archive, unpacked if it is packed."""
    with open_binary(path) as raw:
        pack = formats.packing(raw.read(16))
        raw.seek(0)
        yield formats.unpacked(raw, pack)


def numbered_lines(path: str, start: int, end: int | None, longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (number, byte, line) of the lines in bytes [start, end), blank ones too; None for a line over `longest`.

    A line begins at `start`; numbers begin with 0 there. `end` None is the end of the file.
    """
    with damage(path), open_lines(path) as file:
        if start:
            file.seek(start)
        # A limit on readline bounds the memory that one line can take.
        number, offset = 0, start
        while end is None or offset < end:
            line = file.readline(longest + 1)
            if not line:
                return
            length = len(line)
            if length > longest and not line.endswith(b"\n"):
                length += skip_line(file)
                yield number, offset, None
            else:
                yield number, offset, line
            number += 1
            offset += length


def skip_line(file: IO[bytes]) -> int:
    """Read to the end of the line, in pieces, because a line may have no end; return how many bytes that was."""
    count = 0
    while piece := file.readline(1 << 20):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count
