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
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    """Where a document lies, made ready for `_Owner.owns`."""

    path: str
    """With a slash before it."""
    repo: str
    folders: frozenset[str]
    project: str
    """The repository's name without its owner, as a module would write it."""


def _place(path: str, repo: str) -> _Place:
    project = repo.rpartition("/")[2].lower().replace("-", "_")
    return _Place(f"/{path}", repo, frozenset(path.split("/")[:-1]), project)


class _Owner(NamedTuple):
    """How to see whether a module is of the document's own project: by the repository's name, or by the folders of its
    path. One of the first three is not empty.

    A document is judged alone, so a module beside it that its path does not name is not seen.
    """

    repository: str = ""
    """Go: the module and a slash, which hold the repository's name between slashes."""
    folders: str = ""
    """Java's folders are its packages: the first two parts between slashes."""
    first: str = ""
    """The first part is one of the folders, or the project's name."""
    project: str = ""
    """The first part as a project would write it."""

    def owns(self, place: _Place) -> bool:
        """Whether the module is of the project of a document that lies there."""
        if self.first:
            return self.first in place.folders or self.project == place.project
        if self.folders:
            return self.folders in place.path
        return bool(place.repo) and f"/{place.repo}/" in self.repository


def _owner(kin: Family, module: str) -> _Owner | None:
    """How to see whether a module is the project's own; None where it cannot be."""
    if kin.form == "npm" or not module:
        return None
    if kin.name == "go":
        return _Owner(repository=f"{module}/")
    parts = [part for part in module.split(kin.separator) if part]
    if not parts:
        return None
    if kin.form == "prefix" and len(parts) > 1 and kin.name not in ("php", "c-sharp"):
        # The first part alone (`com`, `org`) says nothing.
        return _Owner(folders=f"/{parts[0]}/{parts[1]}/")
    return _Owner(first=parts[0], project=parts[0].lower().replace("-", "_"))


class _Module(NamedTuple):
    """What is known of a module of a family, whatever imports it."""

    kind: int
    package: str
    owner: _Owner | None
    """None also for a module of the standard library: it is no project's own."""


class _Found(NamedTuple):
    """The imports of a batch: for each its document, its kind, and the number of its package."""

    rows: NDArray[np.int64]
    kinds: NDArray[np.int64]
    numbers: NDArray[np.int64]
    packages: list[str]


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
        self._packages: dict[tuple[str, str], _Module] = {}

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
        found = self._imports(batch)
        distinct = np.unique((found.rows << 2 | found.kinds) << 32 | found.numbers)
        rows, kinds = distinct >> 34, distinct >> 32 & 3
        counts = np.zeros((len(KINDS), batch.num_rows), np.int64)
        np.add.at(counts, (kinds, rows), 1)
        listed: list[list[str]] = [[] for _ in range(batch.num_rows)]
        is_known = kinds == KNOWN
        for row, number in zip(rows[is_known].tolist(), (distinct[is_known] & 0xFFFFFFFF).tolist(), strict=True):
            listed[row].append(found.packages[number])
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

    def _imports(self, batch: pa.Table) -> _Found:
        """Every import of the batch, in order."""
        found = lexis.imports(batch)
        coded = found.names.dictionary_encode()
        modules = coded.dictionary.to_pylist()
        # (imports,): the number of the family and of the module, as one.
        families, family_of = _families(batch["language"])
        kins = family_of[found.rows]
        keys = kins * len(modules) + coded.indices.to_numpy()
        # Of a language without libraries nothing is known. What is relative has no other kind and no other name.
        relative = found.kinds == RELATIVE
        keys[relative] += len(families) * len(modules)
        keys, rows, forms = keys[kins >= 0], found.rows[kins >= 0], found.kinds[kins >= 0]
        distinct, which = np.unique(keys, return_inverse=True)
        known: list[_Module] = []
        for key in distinct.tolist():
            kin, module = divmod(key, len(modules))
            if kin >= len(families):
                known.append(_Module(OWN, modules[module], None))
            else:
                known.append(self._module(families[kin], modules[module]))
        packages: dict[str, int] = {}
        numbers = np.array([packages.setdefault(one.package, len(packages)) for one in known], np.int64)[which]
        kinds = np.array([one.kind for one in known], np.int64)[which]
        kinds[self._own(batch, rows, which, known)] = OWN
        # "x.h" that no list has lies beside the file.
        kinds[(kinds == UNKNOWN) & (forms == QUOTED)] = OWN
        return _Found(rows, kinds, numbers, list(packages))

    def _own(
        self, batch: pa.Table, rows: NDArray[np.int64], which: NDArray[np.int64], known: list[_Module]
    ) -> NDArray[np.int64]:
        """The imports that name the project of their document."""
        asked = np.flatnonzero(np.array([one.owner is not None for one in known], bool)[which])
        paths, repos = batch["path"].to_pylist(), batch["repo"].to_pylist()
        owned: list[int] = []
        last, place = -1, _place("", "")
        for number, row, module in zip(asked.tolist(), rows[asked].tolist(), which[asked].tolist(), strict=True):
            # The imports of a document come one after another.
            if row != last:
                last, place = row, _place(paths[row] or "", repos[row] or "")
            owner = known[module].owner
            if owner is not None and owner.owns(place):
                owned.append(number)
        return np.array(owned, np.int64)

    def _module(self, kin: Family, module: str) -> _Module:
        """What is known of a module; it is looked up once."""
        found = self._packages.get((kin.name, module))
        if found is None:
            kind, package = package_of(kin, module)
            if kind == UNKNOWN and package in self._learned.get(kin.name, ()):
                kind = KNOWN
            owner = None if kind == STANDARD else _owner(kin, module)
            # The names of a document's packages are one string, with blanks between them.
            found = self._packages[kin.name, module] = _Module(kind, "_".join(package.split()), owner)
        return found


def _families(languages: pa.ChunkedArray) -> tuple[list[Family], NDArray[np.int64]]:
    """The families of a batch, and (rows,) which of them each document has; -1 for none."""
    coded = languages.combine_chunks().dictionary_encode()
    families = [family(name) if name else None for name in coded.dictionary.to_pylist()]
    numbers = np.array([-1 if kin is None else i for i, kin in enumerate(families)] + [-1], np.int64)
    which = coded.indices.fill_null(len(families)).to_numpy()
    # Those that are None are never asked for.
    return [kin if kin is not None else Family("", "", "", frozenset(), {}) for kin in families], numbers[which]


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
        found = scorer._imports(table)
        unknown = found.kinds == UNKNOWN
        for row, number in zip(found.rows[unknown].tolist(), found.numbers[unknown].tolist(), strict=True):
            if kin := family(languages[row]):
                importers[kin.name, found.packages[number]].add(repos[row] or "")
    return dict(importers), dict(repositories)


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
