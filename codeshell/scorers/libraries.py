"""The scorer `libraries`: what a text imports, and which of it is a well-known third-party library.

csrc/text/imports.h reads the imports; `libraries.toml` and `library_lists.toml` say what is well known. A corpus can
add the libraries that many of its repositories import. A known library is a weak sign of quality: a bonus, never a
reason to drop a document (docs/quality.md).
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.languages import names as language_names
from codeshell.engine.files import read_json, write_json
from codeshell.errors import UserError
from codeshell.scorers import lexis

if TYPE_CHECKING:
    from codeshell.documents.corpus import Corpus
    from codeshell.engine import Engine

COLUMNS = pa.schema(
    [
        ("libraries", pa.int64()),
        ("library_names", pa.string()),
        ("standard_imports", pa.int64()),
        ("unknown_imports", pa.int64()),
        ("own_imports", pa.int64()),
        ("library_share", pa.float64()),
        ("library_bonus", pa.float64()),
    ]
)

REPOSITORIES, REPOSITORY_SHARE = 5, 0.001
"""With `from_corpus`, a package counts as known if at least this many repositories, and this share of those with its
language, import it. Counting repositories instead of files keeps one large repository from making its own names
known."""

FULL_BONUS = 3
"""Known libraries at which the bonus is 1."""

Kind = Literal["standard", "known", "unknown", "own"]
KINDS: tuple[Kind, ...] = ("standard", "known", "unknown", "own")
STANDARD, KNOWN, UNKNOWN, OWN = range(4)

RELATIVE, QUOTED = 1, 2
"""Kinds of imports in C++ (csrc/text/imports.h): 0 may be anything."""


class Family(NamedTuple):
    """The libraries of one language and of those that share them."""

    name: str
    form: str
    separator: str
    standard: frozenset[str]
    known: dict[str, str]
    """Package by import."""


def _words(table: dict[str, Any], key: str) -> dict[str, str]:
    """`name=package` and plain names of a table as package by name."""
    return {name: package or name for name, _, package in (word.partition("=") for word in table.get(key, "").split())}


@functools.cache
def _tables() -> tuple[dict[str, Any], dict[str, Any]]:
    folder = resources.files("codeshell.scorers")
    read = [
        tomllib.loads(folder.joinpath(name).read_text(encoding="utf-8"))
        for name in ("libraries.toml", "library_lists.toml")
    ]
    return read[0], read[1]


@functools.cache
def family(language: str) -> Family | None:
    """The libraries of a language; None if there is no table of them."""
    tables, lists = _tables()
    name = tables.get(language, {}).get("family", language)
    if name not in tables:
        return None
    table, more = tables[name], lists.get(name, {})
    # The hand-written table wins: it may call a package otherwise than the public list.
    known = {**_words(more, "known"), **_words(table, "known")}
    standard = frozenset((*_words(table, "standard"), *_words(more, "standard")))
    return Family(name, table["form"], table["separator"], standard, known)


def package_of(kin: Family, module: str) -> tuple[int, str]:
    """Which kind an import is, and the package that it is from: `(KNOWN, "Pillow")` for `PIL.Image`.

    A package that no list has gets the name by which it is imported: its first part, or the first two or three parts
    where an owner's name comes first (`github.com/owner/name`, `com.owner.name`).
    """
    if kin.form == "npm":
        return _npm(kin, module)
    parts = [part for part in module.split(kin.separator) if part]
    if not parts:
        return UNKNOWN, module
    if kin.form == "first":
        name = parts[0]
        if name in kin.standard:
            return STANDARD, name
        return (KNOWN, kin.known[name]) if name in kin.known else (UNKNOWN, name)
    # The longest prefix that a list has: `org.apache.kafka` before `org.apache`. A known one within the standard
    # library's names wins, as `Microsoft.EntityFrameworkCore` does.
    for length in range(min(len(parts), 5), 0, -1):
        prefix = kin.separator.join(parts[:length])
        if prefix in kin.known:
            return KNOWN, kin.known[prefix]
        if prefix in kin.standard:
            return STANDARD, prefix
    if kin.name == "go":
        return (UNKNOWN, "/".join(parts[:3])) if "." in parts[0] else (STANDARD, module)
    if kin.name == "dart":
        return (STANDARD, module) if module.startswith("dart:") else (UNKNOWN, parts[0])
    return UNKNOWN, kin.separator.join(parts[:1] if kin.form == "header" else parts[:2])


def _npm(kin: Family, module: str) -> tuple[int, str]:
    """A package of npm: `@scope/name` or the first part; `node:fs` and `fs` are Node's own."""
    if module.startswith("node:"):
        return STANDARD, module[5:]
    parts = module.split("/")
    name = "/".join(parts[:2]) if module.startswith("@") else parts[0]
    if name in kin.standard:
        return STANDARD, name
    return (KNOWN, kin.known[name]) if name in kin.known else (UNKNOWN, name)


class _Place(NamedTuple):
    """Where a document lies, made ready for `_is_own`."""

    path: str
    """With a slash before it."""
    repo: str
    folders: frozenset[str]
    project: str
    """The repository's name without its owner, as a module would write it."""


def _place(path: str, repo: str) -> _Place:
    project = repo.rpartition("/")[2].lower().replace("-", "_")
    return _Place(f"/{path}", repo, frozenset(path.split("/")[:-1]), project)


def _is_own(kin: Family, module: str, place: _Place) -> bool:
    """Whether an import names the document's own project, by its repository's name or by the folders of its path.

    A document is judged alone, so a module beside it that its path does not name is not seen.
    """
    if kin.form == "npm" or not module:
        return False
    if kin.name == "go":
        return bool(place.repo) and f"/{place.repo}/" in f"{module}/"
    parts = [part for part in module.split(kin.separator) if part]
    if kin.form == "prefix" and len(parts) > 1 and kin.name not in ("php", "c-sharp"):
        # Java's folders are its packages. The first part alone (`com`, `org`) says nothing.
        return "/" + "/".join(parts[:2]) + "/" in place.path
    return bool(parts) and (parts[0] in place.folders or parts[0].lower().replace("-", "_") == place.project)


class Libraries:
    """The columns of `COLUMNS`; see `codeshell.scorers.Scorer`.

    Args:
        from_corpus: also call those packages known that at least `REPOSITORIES` repositories of the corpus, and
            `REPOSITORY_SHARE` of them, import. The corpus is then read once more, before the first document is scored.
    """

    version = 1
    columns = COLUMNS

    def __init__(self, from_corpus: bool = False) -> None:
        if not isinstance(from_corpus, bool):
            raise UserError(f"from_corpus: {from_corpus!r} is not true or false")
        self.from_corpus = from_corpus
        self._learned: dict[str, frozenset[str]] = {}
        self._packages: dict[tuple[str, str], tuple[int, str]] = {}

    def fit(self, corpus: Corpus, home: Path, engine: Engine) -> None:
        """Count, with `from_corpus`, the repositories that import each package; see `codeshell.scorers.Learner`."""
        if not self.from_corpus or (home / "known.json").exists():
            return
        # (family, package) -> repositories. A repository may lie in several shards, so names are merged, not counts.
        importers: dict[tuple[str, str], set[str]] = defaultdict(set)
        repositories: dict[str, set[str]] = defaultdict(set)
        for found, seen in engine.map(functools.partial(_importers, corpus), list(corpus.shards)):
            for key, names in found.items():
                importers[key] |= names
            for name, names in seen.items():
                repositories[name] |= names
        known: dict[str, list[str]] = defaultdict(list)
        for (name, package), names in sorted(importers.items()):
            if len(names) >= max(REPOSITORIES, REPOSITORY_SHARE * len(repositories[name])):
                known[name].append(package)
        write_json(home / "known.json", {"known": known, "repositories": {k: len(v) for k, v in repositories.items()}})

    def load(self, home: Path) -> None:
        """Read what `fit` found; see `codeshell.scorers.Learner`."""
        if self.from_corpus:
            self._learned = {name: frozenset(names) for name, names in read_json(home / "known.json")["known"].items()}
            self._packages.clear()

    def score(self, batch: pa.Table) -> dict[str, Any]:
        """The columns of a batch, from `text`, `language`, `path` and `repo`."""
        # One number for each (document, kind, package) that is imported, so that each counts once.
        names: list[str] = []
        numbers: dict[str, int] = {}
        found: list[int] = []
        for row, kind, name in self._imports(batch):
            number = numbers.setdefault(name, len(numbers))
            if number == len(names):
                names.append(name)
            found.append(((row << 2 | kind) << 32) | number)
        distinct = np.unique(np.array(found, np.int64))
        rows, kinds = distinct >> 34, distinct >> 32 & 3
        counts = np.zeros((len(KINDS), batch.num_rows), np.int64)
        np.add.at(counts, (kinds, rows), 1)
        listed: list[list[str]] = [[] for _ in range(batch.num_rows)]
        is_known = kinds == KNOWN
        for row, number in zip(rows[is_known].tolist(), (distinct[is_known] & 0xFFFFFFFF).tolist(), strict=True):
            listed[row].append(names[number])
        known, unknown = counts[KNOWN], counts[UNKNOWN]
        third = known + unknown
        share = np.divide(known, third, out=np.full(batch.num_rows, np.nan), where=third > 0)
        return {
            "libraries": known,
            "library_names": pa.array([" ".join(sorted(some)) for some in listed], pa.string()),
            "standard_imports": counts[STANDARD],
            "unknown_imports": unknown,
            "own_imports": counts[OWN],
            "library_share": pa.array(share, from_pandas=True),
            "library_bonus": _BONUS[np.minimum(known, FULL_BONUS)],
        }

    def _imports(self, batch: pa.Table) -> Iterator[tuple[int, int, str]]:
        """(row, kind, package) of every import of the batch, in order."""
        languages = batch["language"].to_pylist()
        paths, repos = batch["path"].to_pylist(), batch["repo"].to_pylist()
        last, kin, place = -1, None, _place("", "")
        for row, module, form in _modules(batch):
            # The imports of a document come one after another.
            if row != last:
                last, kin, place = row, family(languages[row]), _place(paths[row] or "", repos[row] or "")
            if kin is None:
                continue
            if form == RELATIVE:
                yield row, OWN, module
                continue
            key = (kin.name, module)
            found = self._packages.get(key)
            if found is None:
                found = self._packages[key] = self._classified(kin, module)
            kind, package = found
            if kind != STANDARD and _is_own(kin, module, place):
                kind = OWN
            # "x.h" that no list has lies beside the file.
            if kind == UNKNOWN and form == QUOTED:
                kind = OWN
            yield row, kind, package

    def _classified(self, kin: Family, module: str) -> tuple[int, str]:
        kind, package = package_of(kin, module)
        if kind == UNKNOWN and package in self._learned.get(kin.name, ()):
            kind = KNOWN
        # The names of a document's packages are one string, with blanks between them.
        return kind, "_".join(package.split())


def _importers(corpus: Corpus, shard: int) -> tuple[dict[tuple[str, str], set[str]], dict[str, set[str]]]:
    """Repositories of one shard by the (family, package) that they import and no list has, and by family."""
    scorer = Libraries()
    importers: dict[tuple[str, str], set[str]] = defaultdict(set)
    repositories: dict[str, set[str]] = defaultdict(set)
    for table in corpus.read(shard):
        languages, repos = table["language"].to_pylist(), table["repo"].to_pylist()
        for language, repo in Counter(zip(languages, repos, strict=True)):
            if kin := family(language):
                repositories[kin.name].add(repo or "")
        for row, kind, package in scorer._imports(table):
            kin = family(languages[row])
            if kind == UNKNOWN and kin is not None:
                importers[kin.name, package].add(repos[row] or "")
    return dict(importers), dict(repositories)


def _modules(batch: pa.Table) -> Iterator[tuple[int, str, int]]:
    """(row, module, kind in C++) of every import of the batch, in order."""
    pieces, lexes, which = lexis.batch_pieces(batch)
    done = 0
    for piece in pieces:
        rows = which[done : done + len(piece)]
        data, bounds, kinds, counts = _C.lexical.imports(piece.data, piece.offsets, lexes, rows)
        # Names of modules are cut from texts that are UTF-8, at bytes of ASCII.
        modules = _strings(data, bounds)
        numbers = np.repeat(np.arange(done, done + len(piece)), counts)
        yield from zip(numbers.tolist(), modules, kinds.tolist(), strict=True)
        done += len(piece)


def _strings(data: bytes, bounds: NDArray[np.int64]) -> list[str]:
    array = pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data))
    strings: list[str] = array.to_pylist()
    return strings


_BONUS = np.array([math.log(1 + known) / math.log(1 + FULL_BONUS) for known in range(FULL_BONUS + 1)])
"""The weak prior by the number of known libraries: log(1 + known) / log 4, at most 1."""


def check_tables() -> None:
    """Raise AssertionError for what is wrong with the package's own tables; for tests."""
    tables, lists = _tables()
    for language, table in tables.items():
        assert language in language_names(), language
        assert table.get("family", language) in tables, language
        if "family" not in table:
            assert {"form", "separator", "date", "source"} <= table.keys(), language
            assert table["form"] in ("first", "npm", "prefix", "header"), language
            assert table.get("known", "").strip() or language in lists, language
