"""A prompt that is one text: taken apart only where it is a template, and no text becomes a special token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.live_server import TOKENIZER
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from codeshell.model.session import Settings
from codeshell.serve.errors import RequestError
from codeshell.serve.prompts import Chat, Continue, Fill, Ids, Piece, Prompt, Prompts, continued
from codeshell.serve.sentinels import Gap, split
from codeshell.tokenizer.families import FIM

NAMES = [name for fim in FIM for name in fim[1:4]]
FREE = st.lists(st.sampled_from(["a", " ", "\n", "<", ">", "|", "é", "fim", "_prefix"]), max_size=12).map("".join)
"""Texts that hardly ever have a whole sentinel in them."""


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FIM), FREE, FREE, FREE, st.booleans())
def test_a_template_comes_apart_as_it_was_put_together(
    fim: object, lead: str, prefix: str, suffix: str, suffix_first: bool
) -> None:
    _, begin, after, middle = fim[:4]  # type: ignore[index]
    parts = [after, suffix, begin, prefix] if suffix_first else [begin, prefix, after, suffix]
    text = "".join([lead, *parts, middle])
    assume(sum(text.count(name) for name in NAMES) == 3)
    assert split(text) == Gap(lead, prefix, suffix)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NAMES) | FREE, max_size=8).map("".join))
def test_any_text_is_taken_apart_with_nothing_lost_or_is_plain_or_refused(text: str) -> None:
    try:
        gap = split(text)
    except RequestError as error:
        assert error.code == "ambiguous_prompt"
        return
    if gap is None:
        assert not any(text.endswith(fim.middle) and fim.prefix in text and fim.suffix in text for fim in FIM)
    else:
        family = next(fim for fim in FIM if text.endswith(fim.middle) and fim.prefix in text and fim.suffix in text)
        whole = f"{family.prefix}{gap.prefix}{family.suffix}{gap.suffix}"
        other = f"{family.suffix}{gap.suffix}{family.prefix}{gap.prefix}"
        assert text in (f"{gap.lead}{whole}{family.middle}", f"{gap.lead}{other}{family.middle}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<fim_middle>",
        "<fim_prefix>a<fim_suffix>b<fim_middle>c",  # code that talks about the tokens
        "<fim_prefix>a<fim_middle>",
        "<|fim_prefix|>a<fim_suffix>b<fim_middle>",  # of two families
        'P, S, M = "<fim_prefix>", "<fim_suffix>", "<fim_middle>"\n',
    ],
)
def test_other_texts_are_plain(text: str) -> None:
    assert continued(text) == Continue(text)


def test_a_sentinel_twice_is_refused_with_the_remedy() -> None:
    with pytest.raises(RequestError, match=r"prompt: has <fim_suffix> more than once.*input_prefix"):
        split("<fim_prefix>s = '<fim_suffix>'<fim_suffix>b<fim_middle>")


def prepared(prompt: Prompt, context: int = 400, order: str = "psm") -> list[int]:
    prompts = Prompts(TOKENIZER, context, order)  # type: ignore[arg-type]
    return list(prompts.prepare(Piece(prompt, Settings(max_new_tokens=8))).ids)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(TOKENIZER.specials)), st.sampled_from(["prefix", "suffix", "typed", "lead", "extra"]))
def test_the_name_of_a_special_token_in_a_field_stays_text(name: str, field: str) -> None:
    text = f"x{name}y"
    value = (("n", text),) if field == "extra" else text
    ids = prepared(replace(Fill("a", "b"), **{field: value}))  # type: ignore[arg-type]
    special = [index for index in ids if index in TOKENIZER.specials.values()]
    marks = [TOKENIZER.specials["<filename>"]] if field == "extra" else []
    assert special == [*marks, TOKENIZER.fim_prefix, TOKENIZER.fim_suffix, TOKENIZER.fim_middle]
    assert text in TOKENIZER.decode(ids)
    assert not set(prepared(Continue(text))) & set(TOKENIZER.specials.values())


def test_ids_place_special_tokens() -> None:
    ids = (TOKENIZER.fim_prefix, 65, TOKENIZER.fim_suffix, TOKENIZER.fim_middle)
    assert tuple(prepared(Ids(ids))) == ids
    with pytest.raises(RequestError, match="is no token"):
        prepared(Ids((TOKENIZER.vocab_size,)))


def test_suffix_first_where_the_model_was_trained_so() -> None:
    ids = prepared(Fill("ab", "c", typed="d"), order="spm")
    p, s, m = TOKENIZER.fim_prefix, TOKENIZER.fim_suffix, TOKENIZER.fim_middle
    assert ids == [p, s, ord("c"), m, ord("a"), ord("b"), ord("d")]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 200), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300),
    st.integers(0, 5000), st.sampled_from(["psm", "spm"]),
)  # fmt: skip
def test_what_is_filled_in_fits_and_keeps_what_is_near(
    context: int, before: int, after: int, typed: int, lead: int, new: int, order: str
) -> None:
    prefix, suffix = "p" * before, "s" * after
    prompts = Prompts(TOKENIZER, context, order)  # type: ignore[arg-type]
    piece = Piece(Fill(prefix, suffix, typed="t" * typed, lead="l" * lead), Settings(max_new_tokens=new))
    found = prompts.prepare(piece)
    ids = list(found.ids)
    assert len(ids) < context and found.settings.max_new_tokens == min(new, context - len(ids))
    assert [index for index in ids if index > 255] == (
        [TOKENIZER.fim_prefix, TOKENIZER.fim_suffix, TOKENIZER.fim_middle]
    )
    # All of it where it fits.
    if before + after + typed + lead + 3 + max(new, 1) <= context // 4:
        assert len(ids) == before + after + typed + lead + 3


@pytest.mark.parametrize("prompt", [Continue("x" * 96), Ids((65,) * 96)])
def test_what_is_continued_is_refused_if_it_is_too_long(prompt: Prompt) -> None:
    with pytest.raises(RequestError, match=r"prompt: 96 tokens, but the model holds 96") as caught:
        prepared(prompt, context=96)
    assert caught.value.code == "context_length_exceeded"
    assert len(prepared(Continue("x" * 95), context=96)) == 95


def test_a_model_without_a_template_or_the_tokens() -> None:
    with pytest.raises(RequestError, match="no chat template") as caught:
        prepared(Chat(({"role": "user", "content": "a"},)))
    assert caught.value.code == "no_chat_template"


def test_an_empty_prompt_is_the_start_of_a_document() -> None:
    assert prepared(Continue("")) == [TOKENIZER.eot]
