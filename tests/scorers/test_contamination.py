from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, scorers
from codeshell.documents.texts import text_buffers
from codeshell.errors import UserError
from codeshell.scorers.contamination import SHARE, Contamination, read

EVALUATE = Path(__file__).resolve().parents[3] / "shared/data/evaluate"

PROMPT = '''def has_close(numbers: list[float], threshold: float) -> bool:
    """Check if in the given list of numbers any two are closer to each other than the threshold.
    >>> has_close([1.0, 2.0, 3.0], 0.5)
    False
    """
'''
SOLUTION = """    for place, value in enumerate(numbers):
        for other_place, other in enumerate(numbers):
            if place != other_place:
                distance = abs(value - other)
                if distance < threshold:
                    return True
    return False
"""
PROBLEM = {"task_id": "Made/0", "prompt": PROMPT, "canonical_solution": SOLUTION, "test": ""}
CODE = "import os\n\n\ndef first(path):\n    return sorted(os.listdir(path))[0]\n" * 3
OTHER = "def f(x, t):\n    x = sorted(x)\n    return any(b - a < t for a, b in zip(x, x[1:]))\n"


def made(tmp_path: Path, *records: dict[str, Any], **options: Any) -> Contamination:
    path = tmp_path / "made.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode()))
    return Contamination(sets=[str(path)], **options)


def score(scorer: Contamination, *texts: str) -> list[tuple[str, float]]:
    found = scorer.score(pa.table({"text": pa.array(texts, pa.large_string())}))
    return list(zip(found["contaminated"], found["contamination"].tolist(), strict=True))


def substring(text: str) -> bool:
    """BigCode's way: the lower-cased text of the document holds the docstring or the solution as it is."""
    docstring = PROMPT.split('"""')[1].strip()
    return any(part.lower() in text.lower() for part in (docstring, SOLUTION))


# A change of a copy, and whether BigCode's way and ours find it.
CHANGES = {
    "as it is": (PROMPT + SOLUTION, True, True),
    "the solution alone": (SOLUTION, True, True),
    "the prompt alone": (PROMPT, True, True),
    "tabs in place of spaces": (SOLUTION.replace("    ", "\t"), False, True),
    "other line ends": (SOLUTION.replace("\n", "\r\n"), False, True),
    "spaces around brackets": (SOLUTION.replace("(", "( ").replace(")", " )"), False, True),
    "capital letters": (PROMPT.replace("given list", "GIVEN LIST"), True, True),
    "a comment between the lines": (SOLUTION.replace("  if dist", "  # near?\n                if dist"), False, True),
    "a comment at the end of two lines": (SOLUTION.replace("(numbers):\n", "(numbers):  # each\n"), False, False),
    "a docstring without its example": (PROMPT.split(">>>")[0], False, True),
    "another name throughout": (re.sub(r"\bnumbers\b", "values", SOLUTION), False, False),
    "another program of the same task": (OTHER, False, False),
    "code of no problem": (CODE, False, False),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_found_and_what_a_search_for_the_text_finds(tmp_path: Path, change: str) -> None:
    text, by_substring, by_grams = CHANGES[change]
    text = f"{CODE}\n{text}\n{CODE}"
    ((name, share),) = score(made(tmp_path, PROBLEM), text)
    assert substring(text) == by_substring
    assert (name == "made:Made/0") == by_grams
    assert (share >= SHARE) == by_grams


def test_the_share_is_that_of_one_part(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(30)]
    problem = {"task_id": 7, "prompt": " ".join(words), "solution": "other " * 40}
    scorer = made(tmp_path, problem)
    # 21 n-grams of ten words; a text with the first 15 words has 6 of them.
    assert score(scorer, " ".join(words[:15])) == [("", 6 / 21)]
    assert score(scorer, " ".join(words[:20])) == [("made:7", 11 / 21)]
    assert score(scorer, " ".join(words)) == [("made:7", 1.0)]
    # The word ten times is one n-gram, and is all of the other part.
    assert score(scorer, "other " * 9, "x " + "Other " * 10) == [("", 0.0), ("made:7", 1.0)]


def test_a_short_part_is_found_whole_with_every_character(tmp_path: Path) -> None:
    problem = {"name": "short", "solution": "return sum(a * b for a, b in c)"}
    scorer = made(tmp_path, problem)
    assert score(scorer, "x = 1\nreturn  sum( a*b\n for a, b in c )") == [("made:short", 1.0)]
    assert score(scorer, "return sum(a + b for a, b in c)") == [("", 0.0)]
    assert score(scorer, "return sum(a * b for a, b in d)") == [("", 0.0)]
    assert score(scorer, "returning sum(a * b for a, b in c)") == [("", 0.0)]
    # Too short to mean anything.
    assert score(made(tmp_path, {"name": "s", "text": "return x + 1", "code": SOLUTION}), "return x + 1") == [("", 0.0)]


def test_two_short_parts_that_differ_in_their_brackets(tmp_path: Path) -> None:
    first, second = "return sum(a * b for a, b in c)", "return sum(a / b for a, b in c)"
    scorer = made(tmp_path, {"name": "1", "code": first}, {"name": "2", "code": second})
    assert score(scorer, first, second) == [("made:1", 1.0), ("made:2", 1.0)]


def test_han_and_accents_are_tokens(tmp_path: Path) -> None:
    text = "给定一个整数数组和一个目标值返回两数之和"
    scorer = made(tmp_path, {"name": "zh", "prompt": text}, {"name": "fr", "prompt": "é " * 5 + "crème brûlée " * 5})
    assert score(scorer, f"# {text[:15]}\uff0c {text[15:]}\u3002", text[:12], "é é é é é crème brûlée crème") == [
        ("made:zh", 1.0),
        ("", 3 / 11),
        ("", 0.0),
    ]


def reference(parts: Sequence[str], texts: Sequence[str], n: int, shortest: int) -> list[tuple[float, int]]:
    """The definition, in sets of tuples."""
    pattern = re.compile(r"[\u3040-\udfff]|[a-z0-9_\u0080-\u1fff\U00010000-\U0010ffff]+")

    def lower(text: str) -> str:
        return "".join(c.lower() if c.isascii() else c for c in text)

    def solid(text: str) -> str:
        found = list(pattern.finditer(lower(text)))
        inside = text[found[0].start() : found[-1].end()]
        return re.sub(r"[ \t\n\r\f\v]", "", inside)

    def grams(text: str, length: int, exact: bool) -> set[Any]:
        spans = [match.span() for match in pattern.finditer(lower(text))]
        result = set()
        for at in range(len(spans) - length + 1):
            window = spans[at : at + length]
            words = tuple(lower(text)[a:b] for a, b in window)
            result.add((words, solid(text[window[0][0] : window[-1][1]]) if exact else ""))
        return result

    found = []
    for text in texts:
        best, most = (0.0, -1), 0
        for number, part in enumerate(parts):
            count = len(pattern.findall(lower(part)))
            if count < shortest:
                continue
            length, exact = min(n, count), count < n
            want = grams(part, length, exact)
            held = len(want & grams(text, length, exact))
            share = held / len(want)
            if (share, held) > (best[0], most):
                best, most = (share, number), held
        found.append(best)
    return found


WORDS = st.text(alphabet="ab_1 \n(+É数\uff0c\u3002\u2014😀", max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, max_size=6), st.integers(1, 5), st.data())
def test_against_sets_of_tuples(parts: list[str], texts: list[str], n: int, data: st.DataObject) -> None:
    shortest = data.draw(st.integers(1, n))
    texts = [*texts, " ".join(parts), parts[0]]
    (held,), (given_texts,) = text_buffers(parts), text_buffers(texts)
    index = _C.secrets.ContaminationIndex(held.data, held.offsets, n, shortest)
    share, part, _ = index.score(given_texts.data, given_texts.offsets)
    assert list(zip(share.tolist(), part.tolist(), strict=True)) == reference(parts, texts, n, shortest)


def test_a_text_is_scored_alone(tmp_path: Path) -> None:
    scorer = made(tmp_path, PROBLEM)
    texts = [CODE, PROMPT, SOLUTION, "", PROMPT + SOLUTION, CODE + SOLUTION]
    assert score(scorer, *texts) == [score(scorer, text)[0] for text in texts]
    table = pa.table({"text": pa.chunked_array([pa.array(texts[:2]), pa.array(texts[2:])])})
    assert scorer.score(table)["contaminated"] == [name for name, _ in score(scorer, *texts)]


def test_bytes_and_lengths_that_no_set_foresees(tmp_path: Path) -> None:
    (held,) = text_buffers([SOLUTION])
    index = _C.secrets.ContaminationIndex(held.data, held.offsets, 10, 8)
    # A million tokens, a token of a megabyte, bytes that are no UTF-8, a first byte of three at the very end.
    texts = [b"a " * 500_000, b"a" * 1_000_000, bytes(range(256)) * 10, SOLUTION.encode() + b"\xe3", b"\xe3"]
    offsets = np.cumsum([0, *map(len, texts)])
    share, part, grams = index.score(b"".join(texts), offsets)
    assert share.tolist() == [0, 0, 0, 1, 0]
    assert part.tolist() == [-1, -1, -1, 0, -1]
    assert grams.tolist()[3] == index.grams == index.totals.tolist()[0]


@pytest.mark.parametrize(("n", "shortest"), [(65, 8), (10, 0), (10, 11), (0, 0)])
def test_lengths_that_cannot_be(n: int, shortest: int) -> None:
    with pytest.raises(ValueError, match="shortest"):
        _C.secrets.ContaminationIndex(b"", np.zeros(1, np.int64), n, shortest)


def test_an_infilling_task_is_one_text(tmp_path: Path) -> None:
    lines = SOLUTION.splitlines(keepends=True)
    tasks = [
        {
            "task_id": f"Line/{i}",
            "prompt": PROMPT + "".join(lines[:i]),
            "canonical_solution": lines[i],
            "suffix": "".join(lines[i + 1 :]),
        }
        for i in range(len(lines))
    ]
    scorer = made(tmp_path, *tasks)
    assert score(scorer, PROMPT + SOLUTION, lines[1]) == [("made:Line/0", 1.0), ("", 0.0)]


def test_forms_of_sets(tmp_path: Path) -> None:
    row = {"task_id": 11, "text": "Write a function.", "code": SOLUTION, "test_list": ["assert f(1)", "assert f(2)"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "mbpp.parquet")
    (tmp_path / "multiple.jsonl").write_text(json.dumps({"name": "M_1", "prompt": PROMPT, "tests": "x" * 5}) + "\n\n")
    parts = list(read(str(tmp_path)))
    assert [(part.problem, part.field) for part in parts] == [
        ("mbpp:11", "code"),
        ("mbpp:11", "text"),
        ("mbpp:11", "test_list"),
        ("multiple:M_1", "prompt"),
        ("multiple:M_1", "tests"),
    ]
    assert parts[2].text == "assert f(1)\nassert f(2)"
    assert [part.text for part in read(str(tmp_path / "mbpp.parquet"), ["code"])] == [SOLUTION]


def test_the_version_is_that_of_the_sets_and_settings(tmp_path: Path) -> None:
    first = made(tmp_path, PROBLEM)
    assert made(tmp_path, PROBLEM).version == first.version
    assert made(tmp_path, PROBLEM, share=0.6).version != first.version
    assert made(tmp_path, PROBLEM | {"prompt": "other"}).version != first.version


def test_it_is_a_scorer_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(PROBLEM))
    scorer = scorers.make("contamination", {"sets": [str(tmp_path / "s.jsonl")]})
    assert set(scorer.score(pa.table({"text": [CODE]}))) == set(scorer.columns.names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "sets: name the files"),
        ({"sets": "a.jsonl"}, "as a list"),
        ({"sets": ["no.jsonl"]}, "no.jsonl: no such evaluation set"),
        ({"sets": ["empty"]}, "empty: no file of JSON Lines"),
        ({"sets": ["bad.jsonl"]}, "line 2 is no JSON object"),
        ({"sets": ["other.jsonl"]}, "none of the fields prompt"),
        ({"sets": ["nothing.jsonl"]}, "no rows"),
        ({"sets": ["cut.jsonl.gz"]}, "cannot be read whole"),
        ({"sets": ["good.jsonl"], "n": 65}, "n is 65"),
        ({"sets": ["good.jsonl"], "shortest": 11}, "shortest is 11"),
        ({"sets": ["good.jsonl"], "share": 0.0}, "share is 0.0"),
        ({"sets": ["good.jsonl"], "fields": ["nothing"]}, "none of the fields nothing"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(PROBLEM) + "\n[1]\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "nothing.jsonl").write_text("")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(PROBLEM).encode() * 50)[:-20])
    with pytest.raises(UserError, match=re.escape(message)):
        Contamination(**options)


def test_published_sets_are_read_and_found() -> None:
    path = EVALUATE / "humaneval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here: the published HumanEval is not looked for")
    scorer = Contamination(sets=[str(path)])
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    texts = [row["prompt"] + row["canonical_solution"] for row in rows]
    found = score(scorer, *texts)
    # 61 is 56 with other brackets: both are in each.
    others = {
        row["task_id"]: name for row, (name, _) in zip(rows, found, strict=True) if not name.endswith(row["task_id"])
    }
    assert others == {"HumanEval/61": "humaneval:HumanEval/56"}
    assert all(share == 1.0 for _, share in found)
