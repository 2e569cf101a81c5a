"""Contamination: which problem of an evaluation set a document holds, by token n-grams that are compared as text.

A model that has read a benchmark's problems in its training data is not tested by them. The recipe names the files:

    [score]
    scorers = ["contamination"]
    [score.settings.contamination]
    sets = ["data/humaneval.jsonl.gz", "data/mbpp.jsonl.gz"]

and a rule on `contaminated` (or a limit on `contamination`) drops what holds a problem; the column names it.

A set is a file of JSON Lines or Parquet (packed or not), or a folder of them. HumanEval and its variants, MBPP,
MultiPL-E and whatever has such fields are read as they are published. The parts of a problem are its fields (`FIELDS`):
a document may hold the solution alone. csrc/text/contamination.h says what a token is and how parts are found: a long
part by the share of its 10-grams, a part of 8 or 9 tokens as a whole, a shorter one not at all: every corpus holds
those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from codeshell import _C
from codeshell.documents import formats, readers
from codeshell.documents.json_lines import decode_record
from codeshell.documents.texts import text_buffers
from codeshell.engine.files import user_path
from codeshell.errors import UserError

NGRAM = 10
"""Tokens of an n-gram: DeepSeek-Coder and OpenCoder take 10, GPT-3 took 13 words of prose."""

SHARE = 0.4
"""The share of a part's n-grams from which a document counts as contaminated. What each value finds and drops is in
docs/quality.md."""

SHORTEST = 8
"""Tokens of the shortest part that is looked for."""

LONGEST_LINE = 1 << 28
"""Bytes of a line of a set at most."""

IDS = ("task_id", "name", "question_id", "problem_id", "id")
"""Fields that name a problem; the first that is there counts. Without one, it is the number of the row."""

FIELDS = (
    "prompt",
    "canonical_solution",
    "solution",
    "code",
    "text",
    "test",
    "tests",
    "test_list",
    "question",
    "docstring",
    "instruction",
    "buggy_solution",
)
"""Fields that are parts of a problem: those of HumanEval, HumanEvalPack, MBPP and MultiPL-E."""

INFILLING = ("prompt", "canonical_solution", "suffix")
"""Fields of a task of infilling. Together they are one text: the span to fill in may be a line that many files have."""


class Part(NamedTuple):
    """A field of a problem."""

    problem: str
    """`SET:ID`."""
    field: str
    text: str


class Contamination:
    """Columns `contaminated` (`SET:ID` of the problem, empty without one) and `contamination` (share of its n-grams).

    Args:
        sets: files, or folders of files, of problems.
        fields: the fields that are looked for, in place of `FIELDS`.
        n: tokens of an n-gram.
        share: the share of a part's n-grams from which a document is contaminated, above 0.
        shortest: tokens of the shortest part that is looked for.

    Raises:
        UserError: no set is named, one is not there, is damaged or has none of the fields; a number out of range.
    """

    columns = pa.schema([("contaminated", pa.string()), ("contamination", pa.float64())])

    def __init__(
        self,
        sets: Sequence[str] = (),
        fields: Sequence[str] = FIELDS,
        n: int = NGRAM,
        share: float = SHARE,
        shortest: int = SHORTEST,
    ) -> None:
        where = "score.settings.contamination"
        if isinstance(sets, str) or not sets:
            raise UserError(f"{where}: sets: name the files of the evaluation sets, as a list")
        if not 1 <= n <= 64:
            raise UserError(f"{where}: n is {n}; it must be from 1 to 64 tokens")
        if not 1 <= shortest <= n:
            raise UserError(f"{where}: shortest is {shortest}; it must be from 1 to n, which is {n}")
        if not 0 < share <= 1:
            raise UserError(f"{where}: share is {share}; it must be above 0 and at most 1")
        self._share = share
        parts = [part for name in sets for part in read(name, fields)]
        # A text that several problems have counts for the first: sets are variants of one another.
        parts = list({part.text: part for part in reversed(parts)}.values())[::-1]
        self._problems = [part.problem for part in parts]
        (buffers,) = text_buffers([part.text for part in parts])
        self._index = _C.secrets.ContaminationIndex(buffers.data, buffers.offsets, n, shortest)
        # Another set or setting scores again.
        content = hashlib.blake2b(repr((n, share, shortest)).encode(), digest_size=8)
        for part in parts:
            content.update("\0".join((part.problem, part.text)).encode() + b"\0")
        self.version = f"1-{content.hexdigest()}"

    def score(self, batch: pa.Table) -> dict[str, Any]:
        """See `codeshell.scorers.Scorer`."""
        names: list[str] = []
        shares = []
        for piece in text_buffers(batch["text"]):
            share, part, _ = self._index.score(piece.data, piece.offsets)
            held = np.flatnonzero(share >= self._share).tolist()
            found = [""] * len(share)
            for place in held:
                found[place] = self._problems[part[place]]
            names += found
            shares.append(share)
        return {
            "contaminated": names,
            "contamination": np.concatenate(shares) if shares else np.empty(0, np.float64),
        }


def read(name: str, fields: Sequence[str] = FIELDS) -> Iterator[Part]:
    """The parts of the problems of a set: a file, or a folder of files.

    Raises:
        UserError: it is not there, is damaged, or has none of the fields.
    """
    place = user_path(name)
    if place.is_dir():
        inside = sorted(path for path in place.iterdir() if formats.named(path.name) in ("jsonl", "parquet"))
        if not inside:
            raise UserError(f"{name}: no file of JSON Lines or Parquet in it; name the files of evaluation sets")
        for path in inside:
            yield from _read_file(path, fields)
        return
    yield from _read_file(place, fields)


def _read_file(path: Path, fields: Sequence[str]) -> Iterator[Part]:
    if not path.is_file():
        raise UserError(f"{path}: no such evaluation set; fix score.settings.contamination.sets")
    base = path.name.split(".", 1)[0]
    any_row = found = False
    for row, record in enumerate(_records(path)):
        any_row = True
        if record is None:
            raise UserError(f"{path}: line {row + 1} is no JSON object; fix the evaluation set")
        identity = next((record[key] for key in IDS if isinstance(record.get(key), (str, int))), row)
        texts = {field: _text(record.get(field)) for field in fields}
        if all(isinstance(record.get(field), str) for field in INFILLING) and "prompt" in fields:
            texts |= dict.fromkeys(INFILLING, "") | {"prompt": "".join(_text(record[field]) for field in INFILLING)}
        for field, text in texts.items():
            if text.strip():
                found = True
                yield Part(f"{base}:{identity}", field, text)
    if not found:
        why = f"none of the fields {', '.join(fields)}" if any_row else "no rows"
        raise UserError(f"{path}: {why}; set score.settings.contamination.fields to those that hold the problems")


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    if readers.kind_of(str(path)) == "parquet":
        with readers.open_parquet(str(path)) as file:
            for batch in file.iter_batches(256, use_threads=False):
                yield from batch.to_pylist()
        return
    for _, _, line in readers.numbered_lines(str(path), 0, None, LONGEST_LINE):
        if line is None or not line.isspace():
            yield decode_record(line) if line is not None else None


def _text(value: Any) -> str:
    """A text, or a list of them, as one."""
    if isinstance(value, list):
        return "\n".join(one for one in value if isinstance(one, str))
    return readers.storable(value) if isinstance(value, str) else ""
