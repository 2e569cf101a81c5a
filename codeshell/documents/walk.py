"""Walks a folder of code: every file in a fixed order, with the reason for each one that is not to be read.

Nothing is opened here but directories, `.gitignore`, `.gitattributes` and what names a git repository. Links are never
followed, so a walk ends; pipes, sockets and devices are never opened, so it does not hang. A left-out directory is one
entry and is not entered. A bare git repository counts as a folder of the files of its HEAD.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from codeshell.documents import git, languages, notebooks, patterns
from codeshell.documents.patterns import Attributes, Rules
from codeshell.documents.readers import why_not_text
from codeshell.errors import UserError, say

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
    time: int = 0
    """When it was modified, in nanoseconds; 0 if it is not to be read."""
    language: str = ""
    """The language that `.gitattributes` gives it (`linguist-language`), as written there."""
    blob: str = ""
    """For a file of a bare repository: the hash of its content, a space, and the path of the repository below the
    root (see `read_blob`)."""


class Choice:
    """Which files of a folder a user wants, by patterns as in `.gitignore`, relative to that folder.

    Args:
        include: only what matches is read; empty is everything. A pattern that matches a folder takes what is in it.
        exclude: what matches is not read; a folder that matches is not entered.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        # One set of rules for each pattern, so that it is known which of them matched nothing.
        self._include = [(text, Rules([text])) for text in include]
        self._exclude = [(text, Rules([text])) for text in exclude]
        self._unused = dict.fromkeys([*include, *exclude])

    def __bool__(self) -> bool:
        return bool(self._include or self._exclude)

    def leaves_out(self, path: str, *, directory: bool) -> bool:
        """Whether the patterns leave an entry out. A directory is never left out by `include`: files in it may match.

        Call it for a directory before the entries below it.
        """
        encoded = os.fsencode(path)
        if self._decide(self._exclude, encoded, directory):
            return True
        if not self._include:
            return False
        # A folder that matches takes all that is below it.
        parts = encoded.split(b"/")
        included: bool | None = None
        for end in range(1, len(parts) + 1):
            here = self._decide(self._include, b"/".join(parts[:end]), directory or end < len(parts))
            included = included if here is None else here
        return not included and not directory

    def unused(self) -> list[str]:
        """The patterns that have matched nothing so far."""
        return list(self._unused)

    def _decide(self, rules: list[tuple[str, Rules]], path: bytes, directory: bool) -> bool | None:
        name = path.rpartition(b"/")[2]
        decided: bool | None = None
        for text, one in rules:
            found = one.decide(path, name, directory)
            if found is not None:
                self._unused.pop(text, None)
                decided = found
        return decided


class _Place(NamedTuple):
    """What holds for the entries of a directory because of the directories around it."""

    git: str | None
    """The repository, None outside of every checkout."""
    ignore: tuple[tuple[int, bytes, Rules], ...] = ()
    """Pattern files in force, the nearest last: how many bytes of a path (relative to the root) lie above the
    directory of the file, what to put before the rest if that directory is above the root, and the patterns."""
    attributes: tuple[tuple[int, bytes, Attributes], ...] = ()
    checkout: bool = False
    """Inside a checkout, so that `.gitignore` counts."""
    vendored: bool = False
    """Below a folder of a vendored name that was entered because `.gitattributes` takes some of it back."""


def walk(
    root: str,
    *,
    max_file_bytes: int,
    vendored: bool,
    leave_out: frozenset[str] = frozenset(),
    own: frozenset[str] = frozenset(),
    gitignore: bool = True,
    choice: Choice | None = None,
) -> Iterator[Found]:
    """Yield what is below `root`, sorted bytewise by path.

    Args:
        root: an existing directory, or a bare git repository.
        max_file_bytes: files over this are `over_large`.
        vendored: enter folders of the `VENDORED` names, and read what `.gitattributes` calls vendored or generated.
        leave_out: further directory names not to enter, as `vendored`.
        own: paths below the root that the job itself writes to: not entered, as `codeshell_output`. Outputs of other
            jobs are recognised by their files.
        gitignore: leave out what git ignores, as `ignored`: in checkouts, by `.gitignore` and `.git/info/exclude`. A
            file counts as ignored even if it was committed nevertheless. Patterns of the user's own git are not read.
        choice: what the user includes and excludes, as `excluded`.

    The repository of a file is that of the nearest directory around it that holds `.git`, up to the root: the path of
    its remote `origin` (`owner/name`), or the directory's name. Elsewhere it is `ROOT/FIRST`, where FIRST is the first
    part of its path, without suffix if that is the file itself. So each module of a folder of modules and each package
    of a folder of packages is a repository.

    Raises:
        UserError: the root is a bare repository and there is no git.
    """
    base = Path(root).absolute().name or "root"
    top = _list(root)
    if top is None:
        yield Found("", 0, base, "unreadable")
        return
    names = {entry.name for entry in top}
    if git.is_bare(root, names):
        yield from _bare(root, "", base, max_file_bytes, vendored, choice)
        return
    place = _around(root, gitignore) if ".git" not in names else _Place(None)
    place = _inside(root, "", base, names, place, gitignore)
    # A stack of open directories in place of recursion: a tree may be deeper than Python's stack.
    stack = [("", place, iter(top))]
    while stack:
        prefix, place, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        # Paths are made of names alone, so that they are the same wherever the root lies.
        path = prefix + entry.name
        if not _is_directory(entry):
            repo = place.git or _repo(base, path, is_file=True)
            yield _look_at(entry, path, repo, place, max_file_bytes, vendored, choice)
            continue
        reason = _why_not_enter(entry.name, vendored, leave_out)
        if path in own:
            reason = "codeshell_output"
        elif not reason and choice and choice.leaves_out(path, directory=True):
            reason = "excluded"
        elif not reason and place.ignore and _ignored(place, path, entry.name, directory=True):
            reason = "ignored"
        inner = place
        if place.attributes and not vendored and reason in ("", "vendored"):
            reason, inner = _by_attributes(place, path, reason)
        # A directory is listed before it is entered: its content decides what it is.
        below = None if reason else _list(entry.path)
        if below is not None:
            names = {inside.name for inside in below}
            if not vendored and "pyvenv.cfg" in names:
                reason = "vendored"
            elif output_at(entry.path, names):
                reason = "codeshell_output"
            elif git.is_bare(entry.path, names):
                yield from _bare(entry.path, path + "/", entry.name, max_file_bytes, vendored, choice)
                continue
        elif not reason:
            reason = "unreadable"
        if reason:
            yield Found(path, 0, place.git or _repo(base, path, is_file=False), reason)
        else:
            inner = _inside(entry.path, path + "/", entry.name, names, inner, gitignore)
            stack.append((path + "/", inner, iter(below or ())))


def output_at(path: str, names: Collection[str] | None = None) -> str:
    """What to do if the directory is an output of codeshell (a run, a dedup, an index of it), else an empty string.

    Args:
        names: of what is in the directory; None lists it.
    """
    if names is None:
        try:
            names = os.listdir(path)  # noqa: PTH208
        except OSError:
            return ""
    # A run has its recipe and its environment; before that, and as `codeshell train` leaves it, its lock.
    if ("run.json" in names and "recipe.toml" in names) or ("run.lock" in names and "tokens" in names):
        return "a run's directory, not an input; name the curated/ in it, or another folder"
    if "job.json" in names and '"command": "dedup"' in "".join(patterns.read_lines(f"{path}/job.json") or ()):
        return "the output of codeshell dedup, not an input; name the kept/ in it, or another folder"
    if "index.json" in names and any(name.startswith("segment-") for name in names):
        return "an index of codeshell dedup, not an input; name another folder"
    return ""


def outside_outputs(names: Sequence[str], root: str) -> list[str]:
    """Those of some files that do not lie in an output of codeshell which is itself below `root`."""
    known: dict[str, bool] = {}

    def inside(path: str) -> bool:
        folder = path.rpartition("/")[0]
        if len(folder) <= len(root):
            return False
        if folder not in known:
            known[folder] = bool(output_at(folder)) or inside(folder)
        return known[folder]

    return [name for name in names if not inside(name)]


def _around(root: str, gitignore: bool) -> _Place:
    """What holds at the root because it is inside a checkout: the pattern files above it."""
    # From the root upwards to the checkout; what git knows as the path of the root is put before each path.
    here = Path(os.path.realpath(root))
    for home in here.parents:
        if not os.path.lexists(home / ".git"):
            continue
        place = _Place(None, checkout=True)
        between = [home / part for part in list(here.relative_to(home).parents)[-2::-1]]
        for directory in (home, *between):
            before = os.fsencode(here.relative_to(directory).as_posix()) + b"/"
            names = {".gitignore", ".gitattributes"} | ({".git"} if directory == home else set())
            place = _with_files(str(directory), place, 0, before, names, gitignore)
        return place
    return _Place(None)


def _inside(path: str, prefix: str, name: str, names: Collection[str], place: _Place, gitignore: bool) -> _Place:
    """What holds in a directory: that of the directory around it, and what its own files say."""
    # A checkout inside a checkout (a submodule, a worktree) is a repository of its own, with its own patterns.
    if ".git" in names:
        place = _Place(git.name(path, name), checkout=True, vendored=place.vendored)
    return _with_files(path, place, len(os.fsencode(prefix)), b"", names, gitignore)


def _with_files(path: str, place: _Place, strip: int, before: bytes, names: Collection[str], gitignore: bool) -> _Place:
    if gitignore and place.checkout:
        home = git.git_directory(path) if ".git" in names else None
        # What is nearest decides, and `info/exclude` is the farthest.
        for file in (f"{home}/info/exclude" if home else "", f"{path}/.gitignore" if ".gitignore" in names else ""):
            rules = Rules(patterns.read_lines(file) or ()) if file else None
            if rules is not None and rules.patterns:
                place = place._replace(ignore=(*place.ignore, (strip, before, rules)))
    # Also outside of a checkout: an archive of a repository has this file, while it has nothing that git ignores.
    if ".gitattributes" in names:
        attributes = Attributes(patterns.read_lines(f"{path}/.gitattributes") or ())
        if attributes:
            place = place._replace(attributes=(*place.attributes, (strip, before, attributes)))
    return place


def _ignored(place: _Place, path: str, name: str, *, directory: bool) -> bool:
    encoded, last = os.fsencode(path), os.fsencode(name)
    for strip, before, rules in reversed(place.ignore):
        decided = rules.decide(before + encoded[strip:], last, directory)
        if decided is not None:
            return decided
    return False


def _attributes(place: _Place, path: str, name: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    encoded, last = os.fsencode(path), os.fsencode(name)
    for strip, before, attributes in reversed(place.attributes):
        attributes.update(before + encoded[strip:], last, found)
    return found


def _judge(
    place: _Place, path: str, name: str, size: int, max_file_bytes: int, vendored: bool
) -> tuple[str, str, bool]:
    """The reason to leave a file out that its name, its size and `.gitattributes` give, the language that the latter
    gives (both may be empty), and `Found.look`."""
    said = _attributes(place, path, name) if place.attributes else {}
    if not vendored:
        if said.get("linguist-generated") not in (None, "false"):
            return "generated", "", False
        mark = said.get("linguist-vendored")
        if mark not in (None, "false") or (mark is None and place.vendored):
            return "vendored", "", False
    language = said.get("linguist-language")
    if not language:
        reason, look = _by_name(name, size, max_file_bytes)
        return reason, "", look
    # The repository says what it is, whatever its name looks like.
    known = "" if languages.by_label(language) else "unknown_language"
    if notebooks.is_notebook(name):
        max_file_bytes = max(max_file_bytes, notebooks.MOST_BYTES)
    return "empty" if size == 0 else "over_large" if size > max_file_bytes else known, language, False


def _by_attributes(place: _Place, path: str, reason: str) -> tuple[str, _Place]:
    """Enter a directory of a vendored name if `.gitattributes` takes back some of it; its files are judged one by
    one. An attribute of a directory says nothing of what is in it, as in git."""
    encoded = os.fsencode(path)
    if any(one.takes_back(before + encoded[strip:]) for strip, before, one in place.attributes):
        return "", place._replace(vendored=place.vendored or reason == "vendored")
    return ("vendored" if place.vendored else reason), place


def _bare(
    directory: str, prefix: str, name: str, max_file_bytes: int, vendored: bool, choice: Choice | None
) -> Iterator[Found]:
    """The files of HEAD of a bare repository; a folder that is not to be read counts file by file."""
    repo = git.name(directory, name.removesuffix(".git") or name)
    try:
        entries = git.files(directory)
    except UserError as error:
        # Below an input, a machine without git reads the rest; the line says what is missing.
        if not prefix:
            raise
        say(f"codeshell: {error}")
        yield Found(prefix.rstrip("/"), 0, repo, "unreadable")
        return
    if not entries:
        yield Found(prefix.rstrip("/"), 0, repo, "empty" if entries == [] or git.is_unborn(directory) else "unreadable")
        return
    # The attributes of each directory that has some, with the length of its path.
    by_folder = {}
    for entry in entries:
        if entry.path.rpartition("/")[2] == ".gitattributes" and entry.size <= patterns.MAX_FILE_BYTES:
            data, _ = git.blob(directory, entry.object, patterns.MAX_FILE_BYTES)
            folder = entry.path.rpartition("/")[0]
            by_folder[folder] = (len(os.fsencode(f"{folder}/")) if folder else 0, b"", Attributes(patterns.lines(data)))
    for entry in entries:
        *folders, file = entry.path.split("/")
        around = ["/".join(folders[:end]) for end in range(len(folders) + 1)]
        place = _Place(repo, attributes=tuple(by_folder[one] for one in around if one in by_folder))
        # By name, a folder is vendored as elsewhere, but for what attributes take back.
        why = next(filter(None, (_why_not_enter(one, vendored, frozenset()) for one in folders)), "")
        place = place._replace(vendored=why == "vendored")
        reason = language = "" if why == "vendored" else why
        if not reason and choice:
            left = any(choice.leaves_out(prefix + one, directory=True) for one in around[1:])
            reason = "excluded" if left or choice.leaves_out(prefix + entry.path, directory=False) else ""
        reason, look = reason or entry.reason, False
        if not reason:
            reason, language, look = _judge(place, entry.path, file, entry.size, max_file_bytes, vendored)
        blob = "" if reason in ("link", "vcs") else f"{entry.object} {prefix.rstrip('/')}"
        yield Found(prefix + entry.path, entry.size, repo, reason, look, language=language, blob=blob)


def read_blob(root: str, found: Found, limit: int | None) -> tuple[bytes, str]:
    """The bytes of a file of a bare repository that `walk` found below `root`, and the reason if it is left out.

    Args:
        limit: see `readers.read_file`; None reads a file of any size and content.
    """
    identity, _, repository = found.blob.partition(" ")
    data, reason = git.blob(f"{root}/{repository}" if repository else root, identity, limit or found.size)
    reason = reason or (why_not_text(data, limit) if limit is not None else "")
    # A text in another encoding than UTF-8 is for the caller to convert.
    return (b"" if reason and not reason.startswith("encoding_") else data), reason


def why_not_read(name: str, size: int, max_file_bytes: int) -> str:
    """The reason to leave a file out that its name and size give, or an empty string."""
    return _by_name(name, size, max_file_bytes)[0]


def _by_name(name: str, size: int, max_file_bytes: int) -> tuple[str, bool]:
    """The same reason, and whether only the beginning of the file tells if it is to be read (`Found.look`)."""
    if name in VCS:  # the .git file of a worktree or submodule
        return "vcs", False
    if size == 0:
        return "empty", False
    # A name that says nothing may still be a script's: only the text tells, so the file is read.
    language, look_inside = languages.by_name(name)
    ending = languages.suffix(name)
    if language is None and ending in BINARY:
        return "binary", False
    if language is None and not look_inside:
        return "unknown_language", False
    if MINIFIED.search(name):
        return "minified", False
    if ending == ".lock":
        return "lock_file", False
    # Most of a notebook is pictures: what is read of it is limited later.
    if notebooks.is_notebook(name):
        max_file_bytes = max(max_file_bytes, notebooks.MOST_BYTES)
    # A suffix of which nothing is known.
    return ("over_large", False) if size > max_file_bytes else ("", language is None and ending != "")


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


def _look_at(
    entry: os.DirEntry[str],
    path: str,
    repo: str,
    place: _Place,
    max_file_bytes: int,
    vendored: bool,
    choice: Choice | None,
) -> Found:
    """What is known of a file without opening it."""
    try:
        # Links first: `is_file` and `stat` below must speak of the entry itself.
        if entry.is_symlink():
            return Found(path, 0, repo, "link")
        if not entry.is_file(follow_symlinks=False):
            return Found(path, 0, repo, "special_file")
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return Found(path, 0, repo, "unreadable")
    name, size = entry.name, status.st_size
    reason, language, look = "", "", False
    if choice and choice.leaves_out(path, directory=False):
        reason = "excluded"
    elif place.ignore and _ignored(place, path, name, directory=False):
        reason = "ignored"
    if place.attributes or place.vendored:
        if not reason:
            reason, language, look = _judge(place, path, name, size, max_file_bytes, vendored)
    elif not reason:
        reason, look = _by_name(name, size, max_file_bytes)
    return Found(path, size, repo, reason, look, 0 if reason else status.st_mtime_ns, language)


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
