"""Tokenizers of other families: their ids are those of the library, their special tokens have the roles of ours."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.extend import extend
from codeshell.tokenizer.repair import inspect
from tests.helpers.hub_tokenizers import DEEPSEEK_LETTERS, LINES, PRE_TOKENIZERS, library, tree, write

HOSTILE = [
    "",
    " ",
    "   x",
    "a\n\n\n  b\r\n\r\n\t c",
    "don't DON'T we'll'll 'sx !'sx",
    "12345678901 ٣٤٥ \uff14\uff12 12½ x²",
    "é e\u0301 ﬁ Å \u212b 각 \u1100\u1161\u11a8",
    "函数ab函数12 \uff0c。的的的的的的的的的",
    "\x00\x01\x7f\ufeff\u200b\u3000\x85",
    "\U0010ffff\U00040000\u0800\ud7ff",
    "a" * 300 + " " * 300 + "\n" * 50,
    "õ÷Áý naïve õõ xõy",
    "      \t      ",
]


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(family: str) -> dict[str, Any]:
    return tree(family)


@pytest.fixture(scope="module")
def loaded(file: dict[str, Any]) -> Tokenizer:
    return Tokenizer(json.dumps(file))


def as_text(file: dict[str, Any], tokenizer: Tokenizer) -> Any:
    """The library on the same file, without the added tokens that a text must not produce."""
    added = [token for token in file["added_tokens"] if token["content"] in tokenizer.added_text]
    model = file["model"]
    vocab = {name: index for name, index in model["vocab"].items() if name not in tokenizer.specials}
    return library(file | {"added_tokens": added, "model": model | {"vocab": vocab | tokenizer.added_text}})


def test_ids_are_the_librarys(file: dict[str, Any], loaded: Tokenizer) -> None:
    theirs = as_text(file, loaded)

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab' \n\r\t19函数õé\u0301"), max_size=40))
    @example("".join(LINES))
    def check(text: str) -> None:
        ids = loaded.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        kept = unicodedata.normalize("NFC", text) if loaded.normalizer else text
        # Python's tables may know newer characters than the library's.
        assert loaded.decode(ids) == kept or loaded.normalizer

    check()
    for text in [*HOSTILE, *LINES]:
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


def test_the_whole_file_agrees_where_no_marker_is_in_the_text(file: dict[str, Any], loaded: Tokenizer) -> None:
    # The library with all added tokens and the post-processor, which is what transformers uses.
    theirs = library(file)
    for text in [*HOSTILE, *LINES]:
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


def test_no_text_gives_a_special_token(loaded: Tokenizer) -> None:
    for name in loaded.specials:
        assert not set(loaded.encode(f"a{name}b {name}")) & set(loaded.specials.values())
        assert loaded.decode(loaded.encode(f"a{name}b")) == f"a{name}b"


def test_the_roles_of_the_special_tokens(family: str, loaded: Tokenizer, tmp_path: Path) -> None:
    end, start, fim = {
        "llama-3": ("<|end_of_text|>", "<|begin_of_text|>", None),
        "qwen2": ("<|endoftext|>", None, ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")),
        "starcoder2": ("<|endoftext|>", None, ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")),
        "deepseek-coder": (
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
            ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
        ),
        "gpt-neox": ("<|endoftext|>", None, None),
    }[family]
    assert loaded.eot == loaded.specials[end]
    assert loaded.bos == (None if start is None else loaded.specials[start])
    if fim is None:
        with pytest.raises(UserError, match=r"no fill-in-the-middle tokens .*train\.fim_rate"):
            loaded.fim_prompt("a", "b")
    else:
        before, after, middle = (loaded.specials[name] for name in fim)
        assert loaded.fim_prompt("a", "b") == [before, *loaded.encode("a"), after, *loaded.encode("b"), middle]
    loaded.save(tmp_path)
    said = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (said["eos_token"], said["bos_token"]) == (end, start or end)
    again = Tokenizer.load(tmp_path)
    assert (again.hash, again.specials, again.added_text) == (loaded.hash, loaded.specials, loaded.added_text)


def test_added_tokens_that_are_text(family: str, loaded: Tokenizer) -> None:
    expected = {"deepseek-coder": set(DEEPSEEK_LETTERS), "gpt-neox": {" " * n for n in range(3, 7)}}
    assert set(loaded.added_text) == expected.get(family, set())
    for name, index in loaded.added_text.items():
        assert loaded.encode(name) == [index]
        assert loaded.decode([index]) == name


def test_a_family_can_be_extended(family: str, file: dict[str, Any], loaded: Tokenizer) -> None:
    texts = [line.replace("a", "ab").replace("的", "的的") for line in LINES] * 3
    size = loaded.base_vocab_size + 20
    result = extend(loaded, [texts], size, repairing=False)
    ours = result.tokenizer
    assert len(result.added) == 20 and ours.base_vocab_size == size
    assert ours.specials == loaded.specials and ours.added_text == loaded.added_text
    theirs = as_text(json.loads(ours.source), ours)
    for text in [*HOSTILE, *LINES, *texts]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert len(ids) <= len(loaded.encode(text))
        if not set(ids) & set(result.added.values()):
            assert ids == loaded.encode(text)
    dead = {item.id for item in inspect(loaded).dead}
    assert not [item for item in inspect(ours).dead if item.id not in dead]


def test_specials_at_the_end_move_in_the_post_processor_too() -> None:
    base = Tokenizer(json.dumps(tree("llama-3")))
    moved = extend(base, [["的的的的 ab ab ab"] * 4], base.base_vocab_size + 3, specials="end").tokenizer
    theirs = library(json.loads(moved.source))
    begin = moved.specials["<|begin_of_text|>"]
    assert begin == moved.vocab_size - 4 and begin != base.specials["<|begin_of_text|>"]
    assert theirs.encode("x").ids[0] == begin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Unigram", "vocab": [["a", -1.0]]}, "Unigram"),
        ({"type": "WordPiece", "vocab": {"a": 0}}, "WordPiece"),
        ({"type": "WordLevel", "vocab": {"a": 0}}, "WordLevel"),
        ({"byte_fallback": True}, "byte_fallback"),
        ({"end_of_word_suffix": "</w>"}, "affixes"),
    ],
)
def test_models_that_are_not_byte_level_bpe_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    file = tree("starcoder2")
    file["model"] = change if "type" in change else file["model"] | change
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer(json.dumps(file), "their/tokenizer.json")
    assert "their/tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["NFKC", "NFD", "Lowercase", "Prepend", "Replace"])
def test_normalisers_that_change_text_are_refused_by_name(name: str) -> None:
    for normalizer in ({"type": name}, {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": name}]}):
        with pytest.raises(UserError, match=name):
            Tokenizer(json.dumps(tree("qwen2") | {"normalizer": normalizer}))


def test_metaspace_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Metaspace"):
        Tokenizer(json.dumps(tree("qwen2") | {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581"}}))


def test_a_directory_without_tokenizer_json_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
    with pytest.raises(UserError, match="SentencePiece"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UserError, match=r"vocab\.json and merges\.txt alone"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("family", ["llama-3", "qwen2", "starcoder2"])
def test_transformers_reads_a_saved_directory_to_the_same_ids(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = Tokenizer.load(write(family, tmp_path / "hub"))
    loaded.save(tmp_path / "ours")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "ours" / "tokenizer.json"))
    order = random.Random(0)
    for _ in range(20):
        text = "".join(order.sample(LINES, 3))
        assert theirs(text, add_special_tokens=False)["input_ids"] == loaded.encode(text)
