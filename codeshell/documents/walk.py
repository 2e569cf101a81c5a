"""Walks a folder of code: every file in a fixed order, with the reason for each one that is not to be read.

Nothing is opened here but directories. Links are never followed, so a walk ends; pipes, sockets and devices are
never opened, so it does not hang. A left-out directory is one entry and is not entered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from codeshell.documents import languages

VCS = frozenset({".git", ".hg", ".svn", ".bzr", "CVS", "_darcs", ".jj"})
CACHE = frozenset(
    """__pycache__ .mypy_cache .ruff_cache .pytest_cache .hypothesis .ipynb_checkpoints .cache .gradle .idea .vscode
    .sass-cache .parcel-cache .next .nuxt .terraform .DS_Store""".split()  # noqa: SIM905
)
VENDORED = frozenset(
    """node_modules bower_components jspm_packages web_modules vendor vendors _vendor _vendored third_party third-party
    thirdparty 3rdparty 3rd_party 3rd-party extern externs external externals Godeps Carthage Pods site-packages
    dist-packages virtualenv .venv venv .tox .nox .eggs .yarn flow-typed""".split()  # noqa: SIM905
)
"""Folders of other people's code, by name: github-linguist's vendor.yml, as far as it names whole folders, and the
places where Python keeps packages. A folder with a `pyvenv.cfg` is a virtual environment under any name."""

MINIFIED = re.compile(r"[.-]min\.(?:js|mjs|cjs|css)$", re.IGNORECASE)

BINARY = frozenset(
    """.7z .a .aac .apk .avi .avif .bin .bmp .bz2 .class .dat .db .deb .dll .dmg .doc .docx .dylib .ear .egg .eot .exe
    .flac .flv .gif .gz .h5 .hdf5 .ico .icns .idx .iso .jar .jpeg .jpg .lib .lz4 .lzma .mkv .mo .mov .mp3 .mp4 .mpg
    .msi .nib .npy .npz .o .obj .odt .ogg .onnx .otf .pack .pb .pdf .pickle .pkl .png .ppt .pptx .psd .pt .pth .pyc
    .pyd .pyo .rar .rpm .safetensors .so .sqlite .sqlite3 .swf .tar .tgz .tif .tiff .ttf .war .wasm .wav .webm .webp
    .whl .wmv .woff .woff2 .xls .xlsx .xz .zip .zst""".split()  # noqa: SIM905
)
"""Suffixes of formats that are not text."""


class Found(NamedTuple):
    """A file (or a left-out directory) below the root."""

    path: str
    """Relative to the root, with `/`; bytes that are not UTF-8 are surrogate-escaped."""
    size: int
    repo: str
    reason: str
    """Why it is left out; empty if it is to be read."""
    look: bool = False
    """Its name has a suffix of which nothing is known: its beginning decides whether the rest is read."""


def walk(root: str, *, max_file_bytes: int, vendored: bool, leave_out: frozenset[str] = frozenset()) -> Iterator[Found]:
    """Yield what is below `root`, sorted bytewise by path.

    Args:
        root: an existing directory.
        max_file_bytes: files over this are `over_large`.
        vendored: enter folders of the `VENDORED` names.
        leave_out: further directory names not to enter, as `vendored`.

    The repository of a file is the name of the nearest directory around it that holds `.git`, up to the root; else
    `ROOT/FIRST`, where FIRST is the first part of its path, without suffix if that is the file itself. So each
    module of a folder of modules and each package of a folder of packages is a repository.
    """
    # `git` is the repository around an entry, if there is one, else None.
    base = Path(root).absolute().name or "root"
    top = _list(root)
    if top is None:
        yield Found("", 0, base, "unreadable")
        return
    git = base if any(entry.name == ".git" for entry in top) else None
    # A stack of open directories in place of recursion: a tree may be deeper than Python's stack.
    stack = [("", git, iter(top))]
    while stack:
        prefix, git, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        # Paths are made of names alone, so that they are the same wherever the root lies.
        path = prefix + entry.name
        if _is_directory(entry):
            reason = _why_not_enter(entry.name, vendored, leave_out)
            # A directory is listed before it is entered: its content decides whether it is a virtual environment.
            below = None if reason else _list(entry.path)
            if below is not None and not vendored and any(inner.name == "pyvenv.cfg" for inner in below):
                reason = "vendored"
            elif below is None and not reason:
                reason = "unreadable"
            if reason:
                yield Found(path, 0, git or _repo(base, path, is_file=False), reason)
            else:
                # A checkout inside a checkout (a submodule, a worktree) is a repository of its own.
                inside = entry.name if any(inner.name == ".git" for inner in below or ()) else git
                stack.append((path + "/", inside, iter(below or ())))
        else:
            size, reason = _look_at(entry, max_file_bytes)
            look = not reason and languages.suffix(entry.name) != "" and languages.by_name(entry.name) == (None, True)
            yield Found(path, size, git or _repo(base, path, is_file=True), reason, look)


def why_not_read(name: str, size: int, max_file_bytes: int) -> str:
    """The reason to leave a file out that its name and size give, or an empty string."""
    if name in VCS:  # the .git file of a worktree or submodule
        return "vcs"
    if size == 0:
        return "empty"
    # A name that says nothing may still be a script's: only the text tells, so the file is read.
    language, look_inside = languages.by_name(name)
    ending = languages.suffix(name)
    if language is None and ending in BINARY:
        return "binary"
    if language is None and not look_inside:
        return "unknown_language"
    if MINIFIED.search(name):
        return "minified"
    if ending == ".lock":
        return "lock_file"
    return "over_large" if size > max_file_bytes else ""


def member(name: str, kind: str, size: int, max_file_bytes: int, *, vendored: bool) -> tuple[str, str]:
    """The path of a file in an archive, and the reason why it is left out (empty if it is to be read).

    Args:
        name: as the archive has it; it may begin with `/` or `./`, and is no path that anything is written to.
        kind: `file`, `link` or `special_file`.
    """
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    *folders, last = path.split("/")
    if kind != "file":
        return path, kind
    if ".." in folders or last in ("", ".."):
        return path, "unsafe_path"
    inside = next((why for folder in folders if (why := _why_not_enter(folder, vendored, frozenset()))), "")
    return path, inside or why_not_read(last, size, max_file_bytes)


def repository(base: str, path: str) -> str:
    """The repository of a file in an archive that is called `base`, as for files of a folder without checkouts."""
    return _repo(base, path, is_file=True)


def _repo(base: str, path: str, *, is_file: bool) -> str:
    first, slash, _ = path.partition("/")
    # A file at the top is a repository of its own, named without its suffix; a leading dot is part of the name.
    if is_file and not slash and "." in first[1:]:
        first = first[: first.index(".", 1)]
    return f"{base}/{first}"


def _why_not_enter(name: str, vendored: bool, leave_out: frozenset[str]) -> str:
    if name in VCS:
        return "vcs"
    if name in CACHE or name.endswith(".egg-info"):
        return "cache"
    if (name in VENDORED and not vendored) or name in leave_out:
        return "vendored"
    return ""


def _look_at(entry: os.DirEntry[str], max_file_bytes: int) -> tuple[int, str]:
    try:
        # Links first: `is_file` and `stat` below must speak of the entry itself.
        if entry.is_symlink():
            return 0, "link"
        if not entry.is_file(follow_symlinks=False):
            return 0, "special_file"
        size = entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0, "unreadable"
    return size, why_not_read(entry.name, size, max_file_bytes)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _list(path: str) -> list[os.DirEntry[str]] | None:
    """The entries of a directory such that a walk in this order is sorted by path; None if it cannot be read."""
    try:
        # With its slash a directory sorts where the paths below it do: `a-b`, `a.b`, `a/`.
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name) + (b"/" if _is_directory(entry) else b""))
    except OSError:
        return None
