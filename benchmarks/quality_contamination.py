"""The contamination scorer against BigCode's search for the text: speed, what each finds, and what it drops wrongly.

    python benchmarks/quality_contamination.py --json FILE [--sets FILE ...] [--code FOLDER ...]

The problems are the sets named, or else functions of the standard library with a docstring, as many as HumanEval has.
Each is changed as copies are (spacing, comments, names), and both ways look for it. Speed and wrong finds are measured
on `--code` (site-packages), where problems that were taken from it are not counted.

BigCode's way is a substring: a document goes if its lower-cased text holds a problem's docstring or solution.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from codeshell.documents.texts import text_buffers
from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.randomness import draw
from codeshell.scorers.contamination import SHARE, Contamination, read

PROBLEMS = 164
ROUNDS = 5
MOST_BYTES = 64 << 20
THRESHOLDS = (0.2, 0.3, SHARE, 0.5, 0.7, 1.0)


class Problem(NamedTuple):
    prompt: str
    docstring: str
    solution: str


def of_library() -> Iterator[Problem]:
    """Functions of the standard library with a docstring and 3 to 40 lines, by a hash of their names."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                lines = text.splitlines(keepends=True)
                start, end = node.body[1].lineno - 1, node.end_lineno or 0
                if 3 <= end - start <= 40:
                    docstring = ast.get_docstring(node, clean=False) or ""
                    prompt, solution = "".join(lines[node.lineno - 1 : start]), "".join(lines[start:end])
                    found.append((draw(path.name, node.name), Problem(prompt, docstring, solution)))
    yield from (problem for _, problem in sorted(found)[:PROBLEMS])


def of_sets(names: list[str]) -> Iterator[Problem]:
    """Problems with a prompt and a solution, as HumanEval has them."""
    by_problem: dict[str, dict[str, str]] = {}
    for name in names:
        for part in read(name):
            by_problem.setdefault(part.problem, {})[part.field] = part.text
    for fields in by_problem.values():
        prompt, solution = fields.get("prompt", ""), fields.get("canonical_solution", "")
        if prompt and solution:
            quoted = re.search(r'("""|\'\'\')(.*?)\1', prompt, re.DOTALL)
            yield Problem(prompt, quoted[2] if quoted else "", solution)


def commented(text: str, every: int) -> str:
    """A comment after each n-th line that is not blank."""
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        lines.append(line)
        if number % every == 0 and line.strip() and not line.rstrip().endswith(("\\", "(", "[", "{", ",")):
            lines.append(f"{line[: len(line) - len(line.lstrip())]}# step {number} of it")
    return "\n".join(lines)


def renamed(text: str, count: int) -> str:
    """The first so many words that are assigned or looped over, by order of the alphabet, get other names."""
    names = sorted(set(re.findall(r"\b([a-z]\w*) = ", text)) | set(re.findall(r"for (\w+)(?:, \w+)? in", text)))
    for number, name in enumerate(names[:count]):
        text = re.sub(rf"\b{name}\b", f"value_{number}", text)
    return text


CHANGES: dict[str, Callable[[Problem], str]] = {
    "as published": lambda one: one.prompt + one.solution,
    "solution alone": lambda one: one.solution,
    "tabs and CRLF": lambda one: (one.prompt + one.solution).replace("    ", "\t").replace("\n", "\r\n"),
    "solution with tabs": lambda one: one.solution.replace("    ", "\t"),
    "solution, a comment after every 5th line": lambda one: commented(one.solution, 5),
    "solution, a comment after every 2nd line": lambda one: commented(one.solution, 2),
    "solution, one name changed": lambda one: renamed(one.solution, 1),
    "solution, three names changed": lambda one: renamed(one.solution, 3),
}


def table(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def code(folders: list[str]) -> list[str]:
    """Texts of files of code, up to `MOST_BYTES`, chosen by a hash of their paths."""
    paths = [path for folder in folders for path in Path(folder).rglob("*.py") if path.is_file()]
    texts, size = [], 0
    for path in sorted(paths, key=lambda one: draw("benchmark", str(one))):
        text = path.read_bytes().decode("utf-8", "replace")
        if 0 < len(text) <= 1 << 20:
            texts.append(text)
            size += len(text)
        if size > MOST_BYTES:
            break
    return texts


def cpu_seconds(call: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--code", nargs="*", default=[sysconfig.get_paths()["purelib"]])
    args = parser.parse_args()
    problems = list(of_sets(args.sets) if args.sets else of_library())
    rows = [
        {"task_id": number, "prompt": one.prompt, "canonical_solution": one.solution}
        for number, one in enumerate(problems)
    ]
    path = Path(args.json or "problems").with_suffix(".problems.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scorer = Contamination(sets=[str(path)])
    path.unlink()
    needles = [(one.docstring.lower(), one.solution.lower()) for one in problems]

    found = []
    for name, change in CHANGES.items():
        texts = [change(one) for one in problems]
        shares = np.asarray(scorer.score(table(texts))["contamination"])
        by_text = sum(
            any(needle.strip() and needle in text.lower() for needle in pair)
            for text, pair in zip(texts, needles, strict=True)
        )
        found.append(
            {
                "change": name,
                "substring": by_text / len(problems),
                "ngrams": {str(limit): float((shares >= limit).mean()) for limit in THRESHOLDS},
            }
        )

    texts = code(args.code)
    batch = table(texts)
    size = sum(piece.offsets[-1] - piece.offsets[0] for piece in text_buffers(batch["text"]))
    shares = np.asarray(scorer.score(batch)["contamination"])
    flat = [needle for pair in needles for needle in pair if needle.strip()]
    wrong = sum(any(needle in lowered for needle in flat) for lowered in map(str.lower, texts))
    ours = cpu_seconds(lambda: scorer.score(batch))
    theirs = cpu_seconds(
        lambda: [any(needle in lowered for needle in flat) for lowered in map(str.lower, texts[:2000])]
    )
    part = sum(len(text.encode()) for text in texts[:2000])
    result = {
        "benchmark": "quality_contamination",
        "environment": environment(),
        "problems": len(problems),
        "sets": [Path(name).name for name in args.sets] or ["functions of the standard library"],
        "ngrams": int(scorer._index.grams),
        "found": found,
        "files": len(texts),
        "bytes": int(size),
        "wrongly": {"substring": wrong, "ngrams": {str(limit): int((shares >= limit).sum()) for limit in THRESHOLDS}},
        "megabytes_per_second": {
            "ngrams": size / 1e6 / statistics.median(ours),
            "substring": part / 1e6 / statistics.median(theirs),
        },
        "rounds_seconds": {"ngrams": ours, "substring": theirs},
    }
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
