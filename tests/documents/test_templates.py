from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codeshell.documents import languages, templates
from codeshell.tokenizer import SPECIAL_TOKENS

PARTS = st.lists(st.sampled_from([*sorted(templates.SPECIAL), "<", "commit_", "msg>", "x", "\n"]), max_size=8).map(
    "".join
)


def test_the_special_tokens_are_those_of_the_tokenizer() -> None:
    assert set(SPECIAL_TOKENS) == templates.SPECIAL
    assert set(templates.MARKS) < templates.SPECIAL


def test_each_template_has_a_row_of_languages() -> None:
    assert {templates.COMMITS, templates.ISSUES, templates.SCRIPTS, templates.STRUCTURED} <= set(languages.names())
    # The names of StarCoderData's folders.
    found = {
        "jupyter-scripts-dedup-filtered": "jupyter-scripts",
        "jupyter-structured-clean-dedup": "jupyter-structured",
        "git-commits-cleaned": "git-commits",
        "github-issues-filtered-structured": "github-issues",
        "Jupyter Notebook": "jupyter-scripts",
    }
    assert {name: languages.by_label(name) for name in found} == found


@given(PARTS)
def test_no_special_token_is_left(text: str) -> None:
    plain = templates.plain(text)
    assert not any(token in plain for token in templates.SPECIAL)
    assert (plain == text) == (not any(token in text for token in templates.SPECIAL))


@given(PARTS)
def test_pieces_joined_are_the_text(text: str) -> None:
    pieces = list(templates.pieces(text))
    assert "".join(part for _, part in pieces) == text
    assert all((part in templates.MARKS) == special and part for special, part in pieces)


@given(PARTS, PARTS, PARTS)
def test_a_commit_is_cut_where_it_was_joined(before: str, subject: str, after: str) -> None:
    text = templates.commit(before, subject, after)
    rest = text.removeprefix("<commit_before>")
    parts = [part for one in rest.split("<commit_msg>") for part in one.split("<commit_after>")]
    assert parts == [templates.plain(one) for one in (before, subject, after)]
