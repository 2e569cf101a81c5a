"""No pattern and no loop over user text is quadratic: a megabyte of hostile repetition goes through each.

The limits are generous. What is quadratic takes minutes to days on these texts; what is linear takes a second or two.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.long_runs import long_runs

from codeshell.documents import languages
from codeshell.report.diff import compare
from codeshell.scorers.text import html_text_characters

SIZE = 1_000_000
SECONDS = 300

# Beginnings of what the patterns look for, again and again, without the end.
STARTS = "a( ) a.o \\. (* std:: :- a: /* x. .o class #! #!a % <?xml @ @generated -*- vim: -min.js . 1. ; '"
UNITS = (*STARTS.split(), " a", "\t\n ", "# ", "1 ", "do not edi")
HOSTILE = long_runs(SIZE) | {unit: unit * (SIZE // len(unit)) for unit in UNITS}

SCORES = """
from helpers.long_runs import long_runs
from codeshell.dedup import find_duplicates
from codeshell.scorers.text import measure, score

for text in long_runs(1_000_000).values():
    data = text.encode()
    score([data], ["x"], ["html"], measure([data])[2])
for shingles in ("code", "starcoder", "stack-v2", "datatrove", "char-24"):
    for text in long_runs(200_000).values():
        find_duplicates([text, text + "x", "y" + text], shingles=shingles)
"""


def in_time(script: str, *arguments: str) -> None:
    """Run a script in a process of its own, so that one that hangs can be stopped."""
    command = [sys.executable, "-c", script, *arguments]
    subprocess.run(command, check=True, timeout=SECONDS, cwd=Path(__file__).parent)


def test_scores_and_signatures_of_a_long_run() -> None:
    in_time(SCORES)


PATTERNS = """
import sys, time
from test_linear import HOSTILE, patterns

slow = {}
for name, pattern in patterns():
    start = time.process_time()
    for text in HOSTILE.values():
        text = text[: int(sys.argv[1])]
        pattern.search(text.encode() if isinstance(pattern.pattern, bytes) else text)
    seconds = time.process_time() - start
    if seconds > 4:
        slow[name] = f"{seconds:.1f} s"
assert not slow, slow
"""


def patterns() -> list[tuple[str, re.Pattern[Any]]]:
    """Every compiled pattern that a module of these packages holds by name, also those inside its tables."""

    def inside(value: Any) -> list[re.Pattern[Any]]:
        if isinstance(value, re.Pattern):
            return [value]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
        return [found for item in items for found in inside(item)]

    result = []
    for package in ("data", "dedup", "documents", "report", "scorers", "tokenizer"):
        home = importlib.import_module(f"codeshell.{package}")
        for module in pkgutil.iter_modules(home.__path__, f"codeshell.{package}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                result += [(f"{module.name}.{name}", pattern) for pattern in inside(value)]
    return result


def test_every_pattern_on_hostile_text() -> None:
    """Processor time of a pattern on all texts of 16 kB, from which a file's language is read: 0.2 s at most; one that
    is quadratic takes 10 s and more. Anchor one that is for the beginning: `search` tries all others everywhere."""
    assert {"codeshell.scorers.text._PHRASES", "codeshell.report.diff._WORD"} <= {name for name, _ in patterns()}
    in_time(PATTERNS, str(languages.HEAD_BYTES))


@pytest.mark.parametrize("name", ["a" + suffix for suffix in (".d", ".pl", ".m", ".h", ".s", ".cls", ".ts", "")])
def test_the_language_of_hostile_text(name: str) -> None:
    for text in HOSTILE.values():
        languages.by_path(name, text.encode())


HTML = """
from codeshell.scorers.text import html_text_characters

for unit in ("<div>", "<b><i>", "<p>", "<", "<!--", "<![CDATA[", "&amp", "<?", "<a href='", "<table><td>", "</div>"):
    html_text_characters((unit * (1_000_000 // len(unit))).encode())
for attributes in (" a%d=1", " a%d", " a%d='1'", "a%d='1'"):
    html_text_characters(b"<html><p" + "".join(attributes % n for n in range(110_000)).encode() + b">five!</p></html>")
"""


def test_pages_of_one_tag() -> None:
    in_time(HTML)


def test_a_tag_without_its_attributes_leaves_the_text_of_the_page() -> None:
    image = b"<img alt='x' src='data:image/png;base64," + b"iVBORw0KGgo=" * 400 + b"'>"
    path = b"<svg><path d='" + b"M 10 20 " * 800 + b"'/></svg>"
    many = b"<p " + b" ".join(b"a%d=1" % n for n in range(5000)) + b">"
    for tag in (image, path, many, b"<a" + b"b" * 5000 + b">", b"<i a=1>"):
        assert html_text_characters(b"<html><body>one" + tag + b"two<br>three</body></html>") == 11


def test_a_diff_of_texts_that_repeat_their_lines() -> None:
    left = "".join(f"\nu{n}\n" for n in range(2000))
    diff = compare(left, left.replace("u", "v"))
    assert diff.changed == 750
    # Fewer repetitions are compared as ever, blank lines too.
    assert compare("a\n\nb\n\nc\n" * 20, "a\n\nb\n\nd\n" * 20).changed == 20
