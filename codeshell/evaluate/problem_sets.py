"""The problem sets of functional evaluation: found in a file, in a folder, or on the hub; checked; named by a hash.

None of the sets is in the package. `SETS` has for each its file name, the fields that its task reads, its licence and,
where the hub has it as plain tables, its place there. A file is JSON lines, plain or gzipped. A folder is looked into
for the set's file name; `FOLDER_VARIABLE` names a folder for all commands. Without either, a set is downloaded through
the package `datasets` if that is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codeshell.engine.files import user_path
from codeshell.errors import UserError

FOLDER_VARIABLE = "CODESHELL_PROBLEMS"
"""The environment variable with the folder of the sets."""

LARGEST = 1 << 30
"""Bytes of a set, decompressed; the largest known one has 12 MB. A gzipped file can claim any size."""


@dataclass(frozen=True)
class Hub:
    """The place of a set on the hub of Hugging Face, as `datasets.load_dataset` takes it."""

    path: str
    config: str | None
    splits: Sequence[str]
    """Read one after the other."""


@dataclass(frozen=True)
class Format:
    """A known problem set: its file name, and what its task reads of a row."""

    name: str
    file: str
    """Without `.jsonl` or `.jsonl.gz`."""
    id: str
    """The field that tells the problems apart."""
    fields: Mapping[str, type | tuple[type, ...]]
    licence: str
    hub: Hub | None = None


@dataclass(frozen=True)
class ProblemSet:
    """Problems as they were found."""

    name: str
    rows: list[dict[str, Any]]
    sha256: str
    """The hash of the rows in canonical JSON, so a gzipped file and its plain copy have the same."""
    source: str
    """The file, or the place on the hub."""
    licence: str = ""
    facts: dict[str, Any] = field(init=False)
    """What is stored with a result."""

    def __post_init__(self) -> None:
        facts = {"name": self.name, "problems": len(self.rows), "sha256": self.sha256, "source": self.source}
        object.__setattr__(self, "facts", facts | {"licence": self.licence})


def _texts(*names: str) -> dict[str, type]:
    return dict.fromkeys(names, str)


_HUMANEVAL = _texts("task_id", "prompt", "entry_point", "canonical_solution", "test")
_MULTIPL_E_LICENCE = "BSD-3-Clause, and not to be used as training data"
MULTIPL_E = {
    "cpp": "C++",
    "cs": "C#",
    "d": "D",
    "go": "Go",
    "java": "Java",
    "jl": "Julia",
    "js": "JavaScript",
    "lua": "Lua",
    "php": "PHP",
    "pl": "Perl",
    "r": "R",
    "rb": "Ruby",
    "rkt": "Racket",
    "rs": "Rust",
    "scala": "Scala",
    "sh": "Bash",
    "swift": "Swift",
    "ts": "TypeScript",
}
"""The languages of MultiPL-E by its short names."""
HUMANEVAL_X = ("cpp", "go", "java", "js", "python", "rust")
_HUMANEVAL_X_TOO = {"rust": ("declaration",), "go": ("test_setup",)}
SINGLE_LINE = ("java", "js", "python")
INFILLING = {
    "single": "single-line",
    "multi": "multi-line",
    "random": "random-span",
    "random-light": "random-span-light",
}
"""The parts of HumanEval-Infilling, with their file names."""

SETS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            "humaneval",
            "humaneval",
            "task_id",
            _HUMANEVAL,
            "MIT",
            Hub("openai/openai_humaneval", None, ("test",)),
        ),
        Format(
            "humaneval+",
            "humanevalplus",
            "task_id",
            _texts("task_id", "prompt", "entry_point", "canonical_solution")
            | {"base_input": list, "plus_input": list, "atol": (int, float)},
            "Apache-2.0",
        ),
        Format(
            "mbpp",
            "mbpp",
            "task_id",
            _texts("text", "code", "test_setup_code") | {"task_id": int, "test_list": list},
            "CC-BY-4.0 (Austin et al. 2021, Google)",
            Hub("google-research-datasets/mbpp", "full", ("prompt", "test", "validation", "train")),
        ),
        *(
            Format(
                f"multipl-e:{language}",
                f"multiple-humaneval-{language}",
                "name",
                _texts("name", "prompt", "tests") | {"stop_tokens": list},
                _MULTIPL_E_LICENCE,
                Hub("nuprl/MultiPL-E", f"humaneval-{language}", ("test",)),
            )
            for language in MULTIPL_E
        ),
        *(
            Format(
                f"humaneval-x:{language}",
                f"humaneval-x-{language}",
                "task_id",
                _texts("task_id", "prompt", "test", *_HUMANEVAL_X_TOO.get(language, ())),
                "Apache-2.0",
            )
            for language in HUMANEVAL_X
        ),
        *(
            Format(
                f"infill:{language}",
                f"fim-single-line-{language}",
                "task_id",
                _texts("task_id", "language", "prompt", "suffix", "canonical_solution", "test", "entry_point")
                | {"trivial": bool},
                "MIT; the problems derive from HumanEval-X, Apache-2.0",
            )
            for language in SINGLE_LINE
        ),
        *(
            Format(
                f"humaneval-infilling:{part}",
                f"humaneval-infilling-{file}",
                "task_id",
                _HUMANEVAL | _texts("suffix"),
                "MIT",
            )
            for part, file in INFILLING.items()
        ),
    )
}
"""The known sets by the names of their tasks."""


def load(name: str, data: str = "") -> ProblemSet:
    """The problems of a set.

    Args:
        name: of `SETS`.
        data: a file, or a folder that holds the set's file; "" takes the folder of `FOLDER_VARIABLE`, then the hub.

    Raises:
        UserError: the set is not there, cannot be read, or lacks a field.
    """
    known = SETS[name]
    where = data or os.environ.get(FOLDER_VARIABLE, "")
    if not where:
        rows, source = _from_hub(known)
    else:
        path = _file(known, where, "--data" if data else FOLDER_VARIABLE)
        rows, source = read_rows(path), str(path)
    return _found(known, rows, source)


def own(name: str, path: Path) -> ProblemSet:
    """The problems of a file of this package, in HumanEval's form."""
    return _found(Format(name, path.stem, "task_id", _HUMANEVAL, "Apache-2.0"), read_rows(path), path.name)


def _found(known: Format, rows: list[dict[str, Any]], source: str) -> ProblemSet:
    """The rows as a set, once they have been checked."""
    check_rows(known, rows, source)
    canonical = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return ProblemSet(known.name, rows, hashlib.sha256(canonical.encode()).hexdigest(), source, known.licence)


def _file(known: Format, where: str, flag: str) -> Path:
    """The file of a set: the path itself, or what a folder holds under the set's name."""
    path = user_path(where)
    if path.is_dir():
        names = [f"{known.file}.jsonl.gz", f"{known.file}.jsonl"]
        for name in names:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{flag} {where}: no {names[1]} or {names[0]} in this folder; put one there or give its path")
    if not path.exists():
        raise UserError(f"{flag} {where}: not there; give the set's file, or a folder that holds {known.file}.jsonl.gz")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, plain or gzipped.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object; the message has the line's number.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                raw = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        # gzip's own errors are OSErrors without a strerror.
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a .jsonl or a .jsonl.gz that is whole") from None
    if len(raw) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST >> 30} GiB of text; no problem set is that large")
    rows = []
    # Not splitlines: JSON texts may hold other line breaks than the newline.
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number}: no JSON ({error}); each line must be one problem") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: {type(row).__name__}, not an object with the problem's fields")
        rows.append(row)
    return rows


def check_rows(known: Format, rows: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuse rows that lack a field, have one of another type, or share an id.

    Raises:
        UserError: the first such row, and what the set's rows must have.
    """
    if not rows:
        raise UserError(f"{source}: no problems in it; task {known.name} needs {', '.join(known.fields)} in each line")
    seen: set[Any] = set()
    for number, row in enumerate(rows, 1):
        for name, kind in known.fields.items():
            if name not in row:
                raise UserError(
                    f"{source} problem {number}: no field {name!r}; task {known.name} needs {', '.join(known.fields)}"
                )
            # A bool is an int to isinstance.
            if not isinstance(row[name], kind) or (isinstance(row[name], bool) and kind is not bool):
                found = type(row[name]).__name__
                raise UserError(f"{source} problem {number}: field {name!r} is {found}; take the set's own file")
        if row[known.id] in seen:
            raise UserError(f"{source} problem {number}: {known.id} {row[known.id]!r} twice; take the set's own file")
        seen.add(row[known.id])


def _from_hub(known: Format) -> tuple[list[dict[str, Any]], str]:
    """The rows of a set on the hub, and where they are."""
    here = f"give a file or folder by --data or {FOLDER_VARIABLE} ({known.file}.jsonl.gz)"
    if known.hub is None:
        raise UserError(f"task {known.name}: no problems; {here}; the hub has no copy of it in plain tables")
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UserError(
            f"task {known.name}: no problems; {here}, or `pip install datasets` to download {known.hub.path}"
        ) from None
    rows: list[dict[str, Any]] = []
    try:
        for split in known.hub.splits:
            found = datasets.load_dataset(known.hub.path, known.hub.config, split=split)
            rows += [dict(row) for row in found]
    # Its errors are those of several libraries, and most of them say that there is no network.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"task {known.name}: {known.hub.path} cannot be downloaded from the hub ({reason}); {here}"
        ) from None
    return rows, f"hub: {known.hub.path}" + (f" {known.hub.config}" if known.hub.config else "")
