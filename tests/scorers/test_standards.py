"""Coding standards: each check against texts that keep and break it, their mean, and ruff."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.scorers import lexis, ruff
from codeshell.scorers.lexical import Lexical
from codeshell.scorers.standards import CHECKS, Standards


def table(texts: list[str], language: str) -> pa.Table:
    """Documents with the columns of `lexical`, as the score stage gives them."""
    batch = pa.table(
        {
            "text": pa.array(texts, pa.large_string()),
            "language": pa.array([language] * len(texts), pa.string()),
            "path": pa.array(["a/b.x"] * len(texts), pa.string()),
            "repo": pa.array(["o/r"] * len(texts), pa.string()),
        }
    )
    for name, column in Lexical().score(batch).items():
        batch = batch.append_column(name, column)
    return batch


def score(text: str, language: str, **settings: Any) -> dict[str, Any]:
    columns = Standards(**settings).score(table([text], language))
    return {name: pa.array(column).to_pylist()[0] for name, column in columns.items()}


LINE = "value = compute_total(items, limit)\n"

# (check, language, text, score)
CASES = [
    ("std_line_length", "python", LINE * 10, 1.0),
    ("std_line_length", "python", LINE * 19 + "x = " + "a" * 85 + "\n", 0.5),
    ("std_line_length", "java", LINE * 19 + "x = " + "a" * 85 + "\n", 1.0),
    ("std_line_length", "python", ("x = " + "a" * 85 + "\n") * 3, 0.0),
    ("std_indentation", "python", "if a:\n    b()\n    if c:\n        d()\n", 1.0),
    ("std_indentation", "python", "if a:\n  b()\n  if c:\n    d()\n", 0.5),
    ("std_indentation", "python", "if a:\n\tb()\n", 0.5),
    ("std_indentation", "go", "func a() {\n\tb()\n}\n", 1.0),
    ("std_indentation", "go", "func a() {\n    b()\n}\n", 0.5),
    ("std_indentation", "java", "class A {\n  int b;\n}\n", 1.0),
    ("std_indentation", "c", "{\n\ta;\n    b;\n}\n", 0.5),
    ("std_trailing_blanks", "python", LINE * 19 + "x = 1 \n", 0.5),
    ("std_final_newline", "python", "x = 1", 0.0),
    ("std_final_newline", "python", "x = 1\n", 1.0),
    ("std_naming", "python", "one_two = threeFour = five_six = seven_eight\n", 0.75),
    ("std_naming", "javascript", "let oneTwo = threeFour(five_six, sevenEight);\n", 0.75),
    ("std_naming", "cpp", "int one_two;\n", None),
    ("std_naming", "python", "x = y\n", None),
    ("std_comments", "python", LINE * 19 + "# why\n", 0.5),
    ("std_comments", "python", LINE * 9 + '"""text"""\n', 0.0),
    ("std_comments", "python", LINE * 3, None),
    ("std_dead_code", "python", "# x = 1\n" + "# A sentence about it\n" * 7 + LINE, 0.5),
    ("std_magic_numbers", "c", "a = 17;\nb = 2;\nc = 1;\nd = 0;\n", 0.5),
    ("std_errors", "python", "try:\n    f()\nexcept:\n    g()\n", 0.5),
    ("std_calls", "c", "gets(a); strcpy(a, b);\n", 0.25),
    ("std_prints", "python", LINE * 19 + "print(1)\n", 0.5),
    ("std_spacing", "python", "a = f(b,c, d)\n", 0.75),
    ("std_spacing", "shell", "a=1\n", None),
    ("std_spacing", "java", "f(a, b);\n", 1.0),
    ("std_todos", "python", LINE * 99 + "# TODO: more\n", 0.5),
]


@pytest.mark.parametrize(("check", "language", "text", "wanted"), CASES)
def test_checks(check: str, language: str, text: str, wanted: float | None) -> None:
    found = score(text, language)[check]
    assert found is None if wanted is None else found == pytest.approx(wanted)


def test_every_check_has_a_case_that_keeps_it_and_one_that_does_not() -> None:
    for check in CHECKS:
        scores = {wanted for name, _, _, wanted in CASES if name == check.name}
        kept = {score(LINE * 12 + "# why\n\n# a\n", "python")[check.name], *scores}
        assert {1.0} & kept and any(value is not None and value < 1 for value in scores), check.name


TEXTS = st.lists(
    st.sampled_from(
        ["x=1\n", "def f_a(b, c):\n", "    return b\n", "\tpass \n", "# TODO\n", "eval(x)\n", "\n", "print(1)"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=20, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.sampled_from(["python", "go", "c", "no such language"]))
def test_the_mean_of_those_that_apply_whatever_the_batch(texts: list[str], language: str) -> None:
    columns = {name: pa.array(column).to_pylist() for name, column in Standards().score(table(texts, language)).items()}
    for i, text in enumerate(texts):
        row = {name: column[i] for name, column in columns.items()}
        assert row == score(text, language), "bit for bit as alone"
        applies = [(check.weight, row[check.name]) for check in CHECKS if row[check.name] is not None]
        assert all(0 <= value <= 1 for _, value in applies)
        wanted = math.fsum(w * v for w, v in applies) / math.fsum(w for w, _ in applies)
        assert row["standards"] == pytest.approx(wanted)


def test_every_convention_has_a_source_and_usual_values() -> None:
    for language, entry in lexis._tables()[1].items():
        asked = lexis.conventions(language)
        assert entry["source"] and 60 <= asked.line_length <= 140, language
        assert asked.indent in ("", "tabs", "2", "4", "8") and asked.names in ("", "snake", "camel"), language
    assert lexis.conventions("no such language") == lexis.conventions("default")


# ---- ruff

FAULTY = textwrap.dedent(
    """
    import os
    def f(a=[]):
        eval(a)
        l = 1
    """
)


def test_ruff_counts_its_findings() -> None:
    texts = [FAULTY, '"""Nothing to find."""\n\nx = 1\n', "def (:\n", FAULTY.replace("import os", "import os  # noqa")]
    program, version = ruff.find()
    counts = ruff.count(program, texts)
    # F401 unused, E302 blank lines (a preview rule: not selected), B006 default, S307 eval, E741 and F841 the name.
    command = [
        program,
        "check",
        "--isolated",
        "--select",
        ruff.RULES,
        "--ignore",
        ruff.IGNORED,
        "--output-format",
        "concise",
    ]
    alone = subprocess.run([*command, "--stdin-filename", "x.py", "-"], input=FAULTY, capture_output=True, text=True)
    lines = [line for line in alone.stdout.splitlines() if line.startswith("x.py:")]
    assert counts[0] == counts[3] == len(lines) >= 4
    assert counts[1] == 0 and counts[2] >= 1
    found = score(FAULTY, "python", ruff=True)
    assert found["ruff_findings"] == pytest.approx(100 * counts[0] / 4)
    assert version in str(Standards(ruff=True).version)


def test_ruff_is_asked_about_python_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruff, "FILES", 2)
    batch = table([FAULTY, "x = 1\n", "", FAULTY, "y = 2\n"], "python")
    batch = batch.set_column(1, "language", pa.array(["python", "go", "python", "python", "python"], pa.string()))
    found = Standards(ruff=True).score(batch)["ruff_findings"].to_pylist()
    assert found[1] is None and found[2] is None and found[0] == found[3] > 0 and found[4] == 0


def test_without_ruff_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(UserError, match="ruff: 'yes' is not true or false"):
        Standards(ruff="yes")  # type: ignore[arg-type]
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="the program ruff is not there; pip install ruff, or leave the setting out"):
        Standards(ruff=True)
    broken = tmp_path / "ruff"
    broken.write_text(f"#!{sys.executable}\nraise SystemExit('no licence')\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"--version: failed \(no licence\)"):
        Standards(ruff=True)
    with pytest.raises(UserError, match="ruff check: failed"):
        ruff.count(str(broken), ["x = 1\n"])
