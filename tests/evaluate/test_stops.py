"""Where answers end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.evaluate.stops import HUMANEVAL, MBPP, NOTHING, RUST_FILE, Stops, humaneval_x, of_problem


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("    return 1\n\n\ndef g():\n    pass\n", "    return 1\n\n"),
        ("    return 1\n# next\n", "    return 1"),
        ("    return 1\nprint(f())\n", "    return 1"),
        ("    return 1\n@decorated\ndef g", "    return 1"),
        ("    return 1\n```\nSo it is.", "    return 1"),
        ("    return 1\nif __name__ == '__main__':", "    return 1"),
        # What a body holds is no stop.
        ("    def g():\n        # x\n        print(1)\n    if a:\n        return g", None),
        ("    return 1\nclassify = 2\n", None),
    ],
)
def test_a_python_function_ends_at_the_first_column(text: str, answer: str | None) -> None:
    assert HUMANEVAL.cut(text) == (text if answer is None else answer)
    assert HUMANEVAL.found(text) == (answer is not None)


def test_the_first_stop_counts_whatever_its_place_in_the_list() -> None:
    stops = Stops(("bb", "a"))
    assert stops.cut("xaybbz") == "x" and stops.cut("xbbya") == "x"


def test_mbpp_ends_at_its_mark() -> None:
    assert MBPP.cut("def f():\n    return 1\n[DONE]\n\nYou are") == "def f():\n    return 1\n"


@pytest.mark.parametrize("language", ["cpp", "go", "js", "rust"])
def test_braces_close_a_function(language: str) -> None:
    stops = humaneval_x(language)
    body = '  if (a) { b("}"); } // }\n  /* } */ return c;\n}'
    assert stops.cut(body + "\n\nint main() { }") == body
    assert stops.end(body[:-1]) is None


def test_java_closes_the_class() -> None:
    body = "        return 1;\n    }\n    int g() { return '}'; }\n}"
    assert humaneval_x("java").cut(body + "\nclass Other {}") == body


def test_texts_of_each_language() -> None:
    # JavaScript has long texts in single quotes, Rust has lifetimes, Go and JavaScript texts in backquotes.
    assert humaneval_x("js").cut("  f('// }', `}`)\n}\nrest") == "  f('// }', `}`)\n}"
    assert humaneval_x("go").cut("  f(`}`)\n}\nrest") == "  f(`}`)\n}"
    assert humaneval_x("rust").cut("  let x: &'a str = f('}', \"\\\"}\");\n}\nrest").endswith("\n}")
    assert humaneval_x("cpp").cut("  f('\\'', '\"');\n}\nrest") == "  f('\\'', '\"');\n}"


def test_other_rules() -> None:
    assert RUST_FILE.cut("}\nfn g() {}\nfn main() {}") == "}\nfn g() {}"
    assert of_problem(["\nfunction", ""]) == Stops(("\nfunction",))
    assert NOTHING.cut("a\nclass ") == "a\nclass " and not NOTHING.found("x")


def test_a_brace_in_a_character_that_is_not_yet_closed() -> None:
    # A token may end between the brace and the second quote.
    for text in ("  case '}", "  case '\\u{7D}"):
        assert humaneval_x("rust").end(text) is None and humaneval_x("rust").end(text + "'") is None
        assert humaneval_x("rust").cut(text + "' => 1 }\nrest") == text + "' => 1 }"
    assert humaneval_x("rust").cut("  f('a}\nrest") == "  f('a}"


TEXT = st.text(alphabet="ab{}\"'/*\n\\`", max_size=24)


@settings(max_examples=1000, deadline=None)
@given(TEXT, TEXT)
def test_an_answer_that_has_ended_stays_what_it_is(text: str, more: str) -> None:
    # Generation stops at the first token that ends the answer, and the cut of a longer text must be the same.
    for stops in (HUMANEVAL, *(humaneval_x(language) for language in ("cpp", "go", "java", "js", "rust"))):
        end = stops.end(text)
        assert end is None or (0 <= end <= len(text) and stops.cut(text + more) == text[:end])
