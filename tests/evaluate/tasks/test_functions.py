"""Generated functions: which headers are asked, where an answer ends, and what parses. Hostile text included."""

from __future__ import annotations

import pytest
from helpers.evaluation_fakes import document

from codeshell.evaluate.sandbox import parsing
from codeshell.evaluate.sandbox.parsing import headers, verdicts
from codeshell.evaluate.tasks.functions import Body, Functions, Header, cut_at_dedent, find_headers, summarise

SOURCE = '''
import os

@decorated
def plain(a, b=1):
    return a

class C:
    def method(
        self,
        x: int,
    ) -> int:
        """Says

        something."""
        # why
        if x:
            return x

    async def waits(self): # comment
        @wraps
        def inner():
            pass
        await inner()

def one_line(): return 1

def only_docstring():
    """Nothing else."""

def same_line():
    """Doc."""; return 2
'''


def test_headers_end_before_the_first_statement() -> None:
    found = {item["name"]: item for item in headers([SOURCE])[0]}
    assert set(found) == {"plain", "method", "waits", "inner"}
    assert found["plain"]["header"] == "def plain(a, b=1):" and not found["plain"]["documented"]
    assert found["method"]["header"] == (
        'def method(\n    self,\n    x: int,\n) -> int:\n    """Says\n\n    something."""\n    # why'
    )
    assert found["method"]["documented"]
    assert found["waits"]["header"] == "async def waits(self): # comment"
    assert found["plain"]["line"] == 5


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_other_newlines_do_not_move_the_header(newline: str) -> None:
    source = "x = 1\ndef f(a):\n    return a\n".replace("\n", newline)
    assert [item["header"] for item in headers(["\ufeff" + source])[0]] == ["def f(a):"]


def test_a_file_that_is_not_python_has_no_functions() -> None:
    assert headers(["def f(:\n", "print 'python 2'", "", "a\0b", SOURCE])[:4] == [[], [], [], []]


@pytest.mark.parametrize(
    ("text", "ended", "body", "finished"),
    [
        ("\n    return 1\n\ndef g():\n    pass", False, "\n    return 1", True),
        ("\n    return 1\nx = 2", False, "\n    return 1", True),
        ("\n    return 1\n# comment at column 0\n    more", False, "\n    return 1", True),
        ("\n    return 1\n)", False, "\n    return 1", True),
        ("\n    a = 1\n\n\n    return a\n\n\n", True, "\n    a = 1\n\n\n    return a", True),
        ("\n\treturn 1\n\tpass", True, "\n\treturn 1\n\tpass", True),
        ("\n    a = 1\n    b = (2 +", False, "\n    a = 1", False),
        ("\n    a = 1\n    b = (2 +", True, "\n    a = 1\n    b = (2 +", True),
        (" return 1\ny", False, " return 1", True),
        (" return 1", False, " return 1", False),
        ("\nreturn 1", False, "", True),
        ("", True, "", True),
        ("", False, "", False),
        ("\n    if a:\n        b\n    c\nd", False, "\n    if a:\n        b\n    c", True),
    ],
)
def test_the_cut_at_the_dedent(text: str, ended: bool, body: str, finished: bool) -> None:
    assert cut_at_dedent(text, ended=ended) == Body(body, finished)


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("def f():\n    return 1", "parsed"),
        ("def f(): return 1", "parsed"),
        ("async def f():\n    await g()", "parsed"),
        ('def f():\n    """Doc."""\n    return 1', "parsed"),
        ('def f():\n    """Doc."""', "empty"),
        ("def f():", "syntax_error"),
        ("def f():\n    # only a comment", "syntax_error"),
        ("def f():\n    return (1", "syntax_error"),
        ("def f():\n  a\n    b", "syntax_error"),
        ("def f():\n    pass\ndef g():\n    pass", "not_one_function"),
        ("x = 1", "not_one_function"),
        ("", "not_one_function"),
        # Hostile text: none of it may end the process that asks, nor be run.
        ("def f():\n    x = '\0'", "syntax_error"),
        ("def f():\n    " + "(" * 100_000, "syntax_error"),
        ("def f():\n    return " + "-" * 100_000 + "1", "syntax_error"),
        ("def f():\n    return x" + ".a" * 100_000, "syntax_error"),
        ("def f():\n    return " + "lambda:" * 50_000 + "1", "syntax_error"),
        ("def f():\n    return " + "9" * 10_000, "syntax_error"),
        ("def f():\n    return '\ud800'", "syntax_error"),
        ("def f():\n    raise SystemExit(0)\n", "parsed"),
        ("def f(x=exit()):\n    import os; os._exit(0)", "parsed"),
    ],
)
def test_verdicts(source: str, verdict: str) -> None:
    assert verdicts([source]) == [verdict]


def test_a_child_that_dies_costs_one_answer(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"  # type: ignore[operator]
    child.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    text = json.loads(line)['text']\n"
        "    if text == 'die': os.kill(os.getpid(), 11)\n"
        "    if text == 'half': sys.stdout.write('\"par'); sys.stdout.flush(); os._exit(1)\n"
        "    print(json.dumps('parsed'), flush=True)\n"
    )
    monkeypatch.setattr(parsing, "CHILD", child)
    asked = ["a", "die", "b", "die", "half", "c"]
    assert verdicts(asked) == ["parsed", "crashed", "parsed", "crashed", "crashed", "parsed"]
    assert verdicts(["die"]) == ["crashed"] and verdicts([]) == []
    assert headers(["die"]) == [[]]


def test_a_child_that_hangs_is_killed(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"  # type: ignore[operator]
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(parsing, "CHILD", child)
    monkeypatch.setattr(parsing, "TIMEOUT", 0.2)
    assert verdicts(["a"]) == ["crashed"]


def test_headers_are_chosen_by_hash_and_by_file() -> None:
    files = [document("".join(f"def {name}{n}():\n    return {n}\n" for n in range(8)), path=name) for name in "abc"]
    chosen = find_headers(files, seed=0, count=5)
    assert [item.document.path for item in chosen] == ["a", "b", "c", "a", "b"]
    assert {item.name for item in find_headers(files[::-1], seed=0, count=3)} == {item.name for item in chosen[:3]}
    assert [item.name for item in find_headers(files, seed=1, count=5)] != [item.name for item in chosen]
    assert len(find_headers(files, seed=0, count=100)) == 24
    assert {item.name for item in find_headers(files, seed=0, count=9, fits=lambda text: "7" in text)} == {
        "a7",
        "b7",
        "c7",
    }


def test_the_summary_compares_on_the_same_headers() -> None:
    found = [Header(document("x"), n, f"f{n}", f"def f{n}():", False) for n in range(12)]
    good, bad = [Body("\n    return 1", True)] * 12, [Body("\n    return (", False)] * 12
    judge = Functions().judge
    systems = {"model": (good, judge(found, good)), "untrained": (bad, judge(found, bad))}
    result = summarise(found, systems)
    assert result["systems"]["model"]["parses"]["count"] == 12
    assert result["systems"]["model"]["finished_and_parses"] == 12
    assert result["systems"]["untrained"]["verdicts"] == {"syntax_error": 12}
    assert result["systems"]["untrained"]["finished"] == 0
    assert result["differences"]["untrained"] == {
        "n": 12,
        "difference": 1.0,
        "p_value": pytest.approx(2 / 2**12, abs=1e-6),
        "significant": True,
    }
