from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.documents import templates
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.templates import encode_documents
from codeshell.tokenizer.train import train

TEXTS = ["def f(x):\n    return x\n", "<commit_before>a<commit_msg>b", "<issue_start>Title: x\nusername_0: y"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXTS], 300)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["<commit_msg>", "<issue_start>", "<|endoftext|>", "x = 1\n", "é"])).map("".join),
            st.sampled_from(["python", "git-commits", "github-issues", "jupyter-structured", "jupyter-scripts"]),
        ),
        max_size=5,
    )
)
def test_the_templates_alone_have_special_tokens(tokenizer: Tokenizer, documents: list[tuple[str, str]]) -> None:
    found = encode_documents(tokenizer, [text for text, _ in documents], [language for _, language in documents])
    for ids, (text, language) in zip(found, documents, strict=True):
        assert tokenizer.decode(ids) == text
        special = [token for token in ids if token in set(tokenizer.specials.values())]
        marks = [part for mark, part in templates.pieces(text) if mark] if language in templates.TEMPLATED else []
        assert special == [tokenizer.specials[mark] for mark in marks]


def test_a_tokenizer_without_the_tokens_takes_them_for_text(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(tokenizer.specials, "<issue_closed>")
    (ids,) = encode_documents(tokenizer, ["<commit_msg>a"], ["git-commits"])
    assert ids == tokenizer.encode("<commit_msg>a")
