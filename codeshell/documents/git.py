"""Git repositories as inputs: their names, and the files of bare ones.

A repository may come from a stranger, so nothing that its configuration names is ever run: the configuration is read
here for one value, and objects are read by plumbing that has no hooks, filters, pagers or transports.

    name      `owner/name` from the address of the remote `origin`, without users and tokens
    is_bare   whether a directory is a bare repository
    files     the files of its HEAD
    blob      the bytes of one of them
"""

from __future__ import annotations

import atexit
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from codeshell.documents.patterns import read_lines
from codeshell.errors import UserError

SCHEMES = frozenset({"http", "https", "ssh", "git", "git+ssh", "ssh+git", "git+https", "ftp", "ftps"})
"""Schemes of addresses whose path is the repository's name; other addresses name a place on some disk."""

LONGEST_NAME = 256
"""Characters of a repository's name; a longer path is no name that a person gave."""


def name(directory: str, otherwise: str) -> str:
    """The name of the checkout or bare repository in a directory: the path of its remote `origin`.

    Args:
        directory: has `.git` (a directory, or the file of a worktree or submodule), or is a bare repository.
        otherwise: the name if there is no such remote, or its address is a path on a disk.
    """
    for line in _config(directory):
        found = name_of(line)
        if found:
            return found
    return otherwise


def name_of(address: str) -> str:
    """`owner/name` of a remote's address, "" for one that has none. Hosts, users, tokens and queries are left out."""
    text = address.strip()
    if "://" in text:
        try:
            parts = urlsplit(text)
        except ValueError:
            return ""
        path = parts.path if parts.scheme.lower() in SCHEMES else ""
    else:
        # `user@host:owner/name`, as scp writes it. A slash before the colon makes it a path; `C:\\x` is a drive.
        found = re.fullmatch(r"(?:[^/@:]+@)?(?:\[[^\]/]+\]|[^/@:\[\]]{2,}):(?!:)(.+)", text, re.DOTALL)
        path = found[1] if found else ""
    path = path.strip("/").removesuffix(".git").strip("/")
    pieces = path.split("/")
    # What could not be a name: parent folders, other users' data in the path, characters that no host allows.
    if not path or len(path) > LONGEST_NAME or any(piece in ("", ".", "..") for piece in pieces):
        return ""
    return "" if re.search(r"[\s\\@:\x00-\x1f\x7f]", path) or not path.isprintable() else path


def _config(directory: str) -> Iterator[str]:
    """The addresses of the remote `origin` in the configuration of a repository."""
    home = git_directory(directory)
    if home is None:
        return
    inside = False
    for line in read_lines(f"{home}/config") or ():
        text = line.strip()
        if text.startswith("["):
            inside = re.match(r'\[\s*remote\s+"origin"\s*\]', text, re.IGNORECASE) is not None
            text = text.partition("]")[2].strip()
        key, equals, value = text.partition("=")
        if inside and equals and key.strip().lower() == "url":
            value = value.strip()
            # A value in quotes may hold what would begin a comment.
            quoted = re.match(r'"((?:[^"\\]|\\.)*)"', value)
            yield re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else re.split(r"\s*[#;]", value)[0]


def git_directory(directory: str) -> str | None:
    """Where the configuration of a repository lies, None if it cannot be found."""
    home = f"{directory}/.git"
    if not os.path.lexists(home):
        return directory
    if os.path.islink(home) or os.path.isdir(home):  # noqa: PTH112, PTH114 (many directories)
        return home
    # A worktree or submodule: a file that says where its directory is, which may say where the common one is.
    lines = read_lines(home)
    if not lines or not lines[0].startswith("gitdir:"):
        return None
    home = os.path.join(directory, lines[0].removeprefix("gitdir:").strip())  # noqa: PTH118
    common = read_lines(f"{home}/commondir")
    return os.path.join(home, common[0].strip()) if common and common[0].strip() else home  # noqa: PTH118


def is_bare(directory: str, names: Collection[str]) -> bool:
    """Whether a directory that holds these names is a bare repository."""
    if ".git" in names or not ("HEAD" in names and "objects" in names and "refs" in names):
        return False
    head = (read_lines(f"{directory}/HEAD") or [""])[0]
    return head.startswith("ref: ") or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", head) is not None


class Entry(NamedTuple):
    """What HEAD of a bare repository holds."""

    path: str
    size: int
    object: str
    """The hash of its content."""
    reason: str
    """Why it cannot be read: `link`, or `vcs` for a submodule; else empty."""


def files(directory: str) -> list[Entry] | None:
    """The files of HEAD, bytewise by path; None if HEAD names no commit (an empty repository) or is damaged.

    Raises:
        UserError: git is not installed.
    """
    try:
        # `-l`: with sizes; `-z`: names as they are.
        result = subprocess.run(
            [*_command(directory), "ls-tree", "-r", "-z", "-l", "--full-tree", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        raise _no_git(directory) from None
    if result.returncode:
        return None
    entries = []
    for line in filter(None, result.stdout.split(b"\0")):
        about, _, path = line.partition(b"\t")
        mode, _, identity, size = about.split()
        reason = {b"120000": "link", b"160000": "vcs"}.get(mode, "")
        entries.append(Entry(os.fsdecode(path), int(size) if size.isdigit() else 0, identity.decode(), reason))
    return entries


def is_unborn(directory: str) -> bool:
    """Whether a bare repository has no commit yet: no reference and no object in a pack."""
    return not any(Path(directory, "objects").glob("*/*"))


class _Reader:
    """A `git cat-file --batch` that answers for one repository."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        try:
            self._process = subprocess.Popen(
                [*_command(directory), "cat-file", "--batch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
            )
        except FileNotFoundError:
            raise _no_git(directory) from None

    def read(self, identity: str, limit: int) -> tuple[bytes, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(identity.encode() + b"\n")
        self._process.stdin.flush()
        # `HASH blob SIZE`, the bytes, a newline; or `HASH missing`.
        words = self._process.stdout.readline().split()
        if len(words) != 3 or words[1] != b"blob":
            return b"", "unreadable"
        size = int(words[2])
        if size > limit:
            # The answer must leave the pipe, but not all at once.
            while size > 0:
                size -= len(self._process.stdout.read(min(size, 1 << 20))) or size
            self._process.stdout.read(1)
            return b"", "over_large"
        data = self._process.stdout.read(size)
        self._process.stdout.read(1)
        return (data, "") if len(data) == size else (b"", "unreadable")

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


_reader: _Reader | None = None


def blob(directory: str, identity: str, limit: int) -> tuple[bytes, str]:
    """The bytes of an object of a repository, and the reason if it cannot be read (`unreadable`, `over_large`)."""
    global _reader
    if _reader is None or _reader.directory != directory:
        close()
        _reader = _Reader(directory)
    try:
        return _reader.read(identity, limit)
    except OSError:
        close()
        return b"", "unreadable"


@atexit.register
def close() -> None:
    """End the process that reads objects, if there is one."""
    global _reader
    reader, _reader = _reader, None
    if reader is not None:
        reader.close()


def _no_git(directory: str) -> UserError:
    return UserError(f"{directory}: a bare repository, which only git reads; install git, or leave it out")


def _command(directory: str) -> list[str]:
    # An absolute path after `=` is never taken for an option. Given like this, git does not ask who owns it.
    where = Path(directory).absolute()
    return ["git", f"--git-dir={where}", "-c", "core.fsmonitor=false", "-c", "safe.directory=*"]


def environment() -> dict[str, str]:
    """The environment without any variable of git, and with all that it could fetch, ask or rewrite turned off."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
