"""The tokenizer of a GGUF: llama.cpp's rules, applied to what is written, must give our ids."""

from __future__ import annotations

import pytest
from helpers import hub_tokenizers
from helpers.exported import TEXTS, llama_cpp_ids, tokenizer, with_merges
from helpers.tiny_run import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.export.gguf_tokenizer import CONTROL, NORMAL, UNUSED, convert
from codeshell.tokenizer import Tokenizer

OURS = tokenizer()
WRITTEN = convert(OURS, OURS.padded_vocab_size, "tokenizer.json")


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_gives_our_ids(text: str) -> None:
    assert llama_cpp_ids(WRITTEN.pre, WRITTEN.tokens, WRITTEN.merges, text) == OURS.encode(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=60))
def test_any_text_gives_our_ids(text: str) -> None:
    assert llama_cpp_ids(WRITTEN.pre, WRITTEN.tokens, WRITTEN.merges, text) == OURS.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_gpt_2s_expression_alone_has_another_name(text: str) -> None:
    plain = byte_tokenizer()
    written = convert(plain, 384, "tokenizer.json")
    assert written.pre == "trillion" != WRITTEN.pre
    assert llama_cpp_ids(written.pre, written.tokens, written.merges, text) == plain.encode(text)
    digits = "12 345"
    assert llama_cpp_ids("trillion", WRITTEN.tokens, [*WRITTEN.merges, "1 2"], digits) != OURS.encode(digits)


def test_starcoder2s_tokenizer_with_its_tokens_first(tmp_path) -> None:
    theirs = Tokenizer.load(hub_tokenizers.write("starcoder2", tmp_path))
    written = convert(theirs, 512, "tokenizer.json")
    assert written.types[0] == CONTROL and written.tokens[:2] == ["<|endoftext|>", "<fim_prefix>"]
    for text in TEXTS:
        assert llama_cpp_ids(written.pre, written.tokens, written.merges, text) == theirs.encode(text)


def test_a_pair_that_is_listed_twice_counts_where_it_stands_last() -> None:
    # "ab" stands before "bc", and again after it: "abc" is a + bc.
    twice = with_merges([("a", "b"), ("b", "c"), ("a", "b")])
    written = convert(twice, 384, "tokenizer.json")
    assert written.merges == ["b c", "a b"]
    for text in ("abc", "ab", "bc", "xabcab"):
        assert llama_cpp_ids(written.pre, written.tokens, written.merges, text) == twice.encode(text)
    as_listed = ["a b", "b c", "a b"]
    assert llama_cpp_ids(written.pre, written.tokens, as_listed, "abc") != twice.encode("abc")


def test_every_row_has_a_name_and_a_type() -> None:
    assert len(WRITTEN.tokens) == len(WRITTEN.types) == len(set(WRITTEN.tokens)) == OURS.padded_vocab_size
    kinds = [WRITTEN.types.count(kind) for kind in (NORMAL, CONTROL, UNUSED)]
    assert kinds == [OURS.base_vocab_size, 20, OURS.padded_vocab_size - OURS.vocab_size]
    for name, index in OURS.specials.items():
        assert WRITTEN.tokens[index] == name and WRITTEN.types[index] == CONTROL


def test_the_ids_that_llama_cpp_asks_for() -> None:
    at = OURS.specials
    assert WRITTEN.ids == {
        "bos_token_id": at["<|endoftext|>"],
        "eos_token_id": at["<|endoftext|>"],
        "eot_token_id": at["<|endoftext|>"],
        "padding_token_id": at["<fim_pad>"],
        "fim_pre_token_id": at["<fim_prefix>"],
        "fim_suf_token_id": at["<fim_suffix>"],
        "fim_mid_token_id": at["<fim_middle>"],
        "fim_pad_token_id": at["<fim_pad>"],
        "fim_rep_token_id": at["<reponame>"],
        "fim_sep_token_id": at["<filename>"],
    }
    assert not WRITTEN.adds_bos
    other = convert(OURS, OURS.padded_vocab_size, "x", bos=7, eos=8)
    assert (other.ids["bos_token_id"], other.ids["eos_token_id"]) == (7, 8)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("llama-3", "its pre-tokenizer is Split"),
        ("qwen2", "normaliser NFC"),
        ("deepseek-coder", "added tokens that are text"),
        ("gpt-neox", "added tokens that are text"),
    ],
)
def test_what_llama_cpp_would_encode_otherwise_is_refused_by_name(family: str, reason: str, tmp_path) -> None:
    theirs = Tokenizer.load(hub_tokenizers.write(family, tmp_path))
    with pytest.raises(UserError, match=f"(?s)^here: .*{reason}.*pre-tokenizer digits-gpt2 or gpt2$"):
        convert(theirs, 1024, "here")


def test_a_tokenizer_that_does_not_fit_the_model() -> None:
    with pytest.raises(UserError, match=r"tokens, but the model has 384 rows; give the model's own"):
        convert(OURS, 384, "here")
    with pytest.raises(UserError, match=r"eos_token_id is 70000, but the model has 640 rows; correct config.json"):
        convert(OURS, 640, "here", eos=70000)
