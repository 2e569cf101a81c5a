"""What a git history holds: commits in a fixed order, the files that each changed, and the bytes of both.

Three plumbing commands do it: `rev-list` lists, `diff-tree --raw` compares trees, `cat-file --batch` gives objects.
None of them reads attributes, so no filter, text conversion, external diff, hook, pager or transport of a stranger's
repository ever runs; `codeshell.documents.git` has the environment that turns the rest off.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from codeshell.documents import git
from codeshell.documents.patterns import read_lines
from codeshell.errors import UserError

RENAMES = 50
"""Files that are compared for renames at most: the cost grows with the square."""

PIECE = 1 << 16

OFF = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.attributesFile=/dev/null", "-c", "diff.external="),
    *("-c", "core.fsmonitor=false", "-c", "safe.directory=*", "-c", "core.commitGraph=false"),
)
"""Settings that override those of the repository."""

NULL = re.compile(r"0+")


class Commit(NamedTuple):
    """A commit as it is listed."""

    hash: str
    parents: int


class Change(NamedTuple):
    """A file that a commit changed."""

    path: str
    old: str
    """Hash of its content before; all zeros for a new file."""
    new: str
    """The same afterwards; all zeros for a deleted one."""
    regular: bool
    """Neither a link nor a submodule, before and after."""


def home(directory: str) -> str | None:
    """The directory of the repository whose checkout this is, or of a bare one; None if it is neither."""
    inside = f"{directory}/.git"
    if os.path.isdir(inside):  # noqa: PTH112
        return inside
    if os.path.isfile(inside):  # noqa: PTH113
        # A worktree has a HEAD of its own; what it shares, git finds by itself.
        lines = read_lines(inside)
        if lines and lines[0].startswith("gitdir:"):
            return os.path.join(directory, lines[0].removeprefix("gitdir:").strip())  # noqa: PTH118
        return None
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return None
    return directory if git.is_bare(directory, names) else None


def head(directory: str) -> str:
    """The commit that HEAD names; empty if there is none yet."""
    lines = _run(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", "HEAD^{commit}", check=False)
    return lines[0] if lines else ""


def count(directory: str, start: str) -> int:
    """How many commits are reachable from one."""
    return int(_run(directory, "rev-list", "--count", start)[0])


def commits(directory: str, start: str, skip: int, most: int) -> list[Commit]:
    """Commits that are reachable from `start`, the newest first, without the first `skip` of them."""
    lines = _run(directory, "rev-list", "--parents", f"--skip={skip}", f"--max-count={most}", start)
    return [Commit(words[0], len(words) - 1) for words in map(str.split, lines)]


def changes(directory: str, found: list[Commit], most: int) -> Iterator[tuple[str, list[Change]]]:
    """Yield (hash, changed files) of each of the commits that changes any, against its first parent.

    Args:
        most: files that are listed; a commit that changes more has `most + 1` of them here.
    """
    with tempfile.TemporaryFile() as names:
        names.write("".join(f"{one.hash}\n" for one in found).encode())
        names.seek(0)
        # `-z`: names as they are. `--root`: a first commit adds all of its files.
        arguments = ("diff-tree", "--stdin", "--raw", "-r", "-z", "-M", f"-l{RENAMES}", "--root", "--no-abbrev")
        with _process(directory, *arguments, "--no-ext-diff", "--no-textconv", stdin=names) as output:
            yield from _changes(output, most)


def _changes(output: IO[bytes], most: int) -> Iterator[tuple[str, list[Change]]]:
    words = _words(output)
    commit, listed = "", list[Change]()
    for word in words:
        # The hash of a commit, then `:MODE MODE HASH HASH STATUS` and its one path or two, until the next hash.
        if not word.startswith(b":"):
            if commit:
                yield commit, listed
            commit, listed = word.decode("ascii", "replace").strip(), []
            continue
        old_mode, new_mode, old, new, status = word[1:].split(b" ")
        path = next(words, b"")
        if status[:1] in (b"R", b"C"):
            path = next(words, b"")
        if len(listed) > most:
            continue
        modes = {mode for mode in (old_mode, new_mode) if mode.strip(b"0")}
        regular = modes <= {b"100644", b"100755", b"100664"}
        listed.append(Change(os.fsdecode(path), old.decode(), new.decode(), regular))
    if commit:
        yield commit, listed


def _words(output: IO[bytes]) -> Iterator[bytes]:
    """The parts of a stream between its zero bytes."""
    rest = b""
    while piece := output.read(PIECE):
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
    if rest:
        yield rest


class Objects:
    """The objects of one repository by their hashes, from a `git cat-file --batch` that runs until `close`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._process = _start(directory, "cat-file", "--batch", stdin=subprocess.PIPE)

    def read(self, identity: str, limit: int) -> tuple[str, bytes, int]:
        """(kind, bytes, size) of an object; no bytes where it has more than `limit`; kind empty if it is missing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._process.stdout
        try:
            self._process.stdin.write(identity.encode() + b"\n")
            self._process.stdin.flush()
            # `HASH KIND SIZE`, the bytes, a newline; or `HASH missing`.
            words = output.readline().split()
        except OSError:
            words = []
        if len(words) != 3:
            return "", b"", 0
        size = int(words[2])
        if size > limit:
            # The answer must leave the pipe, but not all at once.
            left = size + 1
            while left > 0 and (piece := output.read(min(left, 1 << 20))):
                left -= len(piece)
            return words[1].decode(), b"", size
        data = output.read(size + 1)
        if len(data) <= size:
            raise _broken(self._directory, "its objects end early")
        return words[1].decode(), data[:-1], size

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def _run(directory: str, *arguments: str, check: bool = True) -> list[str]:
    with _process(directory, *arguments, check=check) as output:
        return output.read().decode("ascii", "replace").splitlines()


@contextmanager
def _process(
    directory: str, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL, check: bool = True
) -> Iterator[IO[bytes]]:
    """The output of a git command; a `UserError` if it fails."""
    # Its complaints go to a file, so that no pipe can fill.
    with tempfile.TemporaryFile() as errors:
        process = _start(directory, *arguments, stdin=stdin, stderr=errors)
        assert process.stdout is not None
        ended = False
        try:
            yield process.stdout
            ended = True
        finally:
            process.stdout.close()
            if not ended:
                process.kill()
            code = process.wait()
        if code and check:
            errors.seek(0)
            said = errors.read(400).decode("utf-8", "replace").strip().splitlines()
            raise _broken(directory, said[0] if said else f"git {arguments[0]} ended with {code}")


def _start(
    directory: str, *arguments: str, stdin: IO[bytes] | int, stderr: IO[bytes] | int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    place = home(directory)
    if place is None:
        raise UserError(f"{directory}: no git checkout or bare repository; name one after commits:")
    # An absolute path after `=` is never taken for an option. Given like this, git does not ask who owns it.
    command = ["git", f"--git-dir={Path(place).absolute()}", *OFF, *arguments]
    environment = git.environment() | {"GIT_GRAFT_FILE": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C"}
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment)
    except FileNotFoundError:
        raise UserError(f"{directory}: its history is read by git; install git, or leave commits: out") from None


def _broken(directory: str, why: str) -> UserError:
    return UserError(f"{directory}: its history cannot be read ({why}); fetch it whole, or leave it out")
