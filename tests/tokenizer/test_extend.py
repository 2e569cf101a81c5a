"""An extension is closed, reaches every token, loses no byte, and leaves the base's ids alone."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell.cli import main
from codeshell.errors import UserError
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.encoder import BYTE_SYMBOLS
from codeshell.tokenizer.extend import Extension, extend
from codeshell.tokenizer.repair import inspect
from codeshell.tokenizer.rules import Rules, from_symbols
from codeshell.tokenizer.train import train
from codeshell.tokenizer.words import Words
from tests.helpers.hub_tokenizers import LINES, library, tree

CODE = [
    "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n" * 3,
    "class Reader:\n    def read(self, path):\n        return open(path).read()\n\n\nif __name__ == '__main__':\n" * 3,
    "for (int index = 0; index < size; ++index) {\n\treturn values[index];\n}\n" * 4,
]
CHINESE = [
    "# 返回列表中所有的值的总和\ndef total(values):\n    return sum(values)  # 返回总和\n" * 3,
    "读取文件的内容,如果文件不存在,则返回空的内容。\n参数: 文件的路径。\n" * 4,
    "这个函数返回列表中的值。这个函数不读取文件。值的列表不能为空。\n" * 4,
]
HOSTILE = [
    "",
    "\x00\x01\x0b\x7f",
    "的" * 3001,
    "a" * 5000 + "的a" * 2000,
    " \t\r\n" * 700,
    "返回列表中所有" * 500,
    "".join(map(chr, range(0x4E00, 0x5200))),
    "\U0010ffff\U00040000\ufeff\u200b",
    "<|endoftext|><fim_prefix>返回",
    "".join(random.Random(1).choices("的值返回 列表\n中a_1", k=5000)),
]
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("返回列表中所有的值文件不存在def return(values):\n \t01"),
    max_size=60,
)


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return train([CODE], 300)


@pytest.fixture(scope="module", params=["keep", "end"])
def extension(base: Tokenizer, request: pytest.FixtureRequest) -> Extension:
    return extend(base, [CODE[:1], CHINESE], 360, specials=request.param)


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [(a, b) for a, b in tokenizer.core()["model"]["merges"]]


def test_every_token_encodes_to_itself_and_parts_come_first(extension: Extension) -> None:
    tokenizer = extension.tokenizer
    assert inspect(tokenizer).clean and len(extension.added) == 60
    vocabulary: dict[str, int] = tokenizer.core()["model"]["vocab"]
    # All 256 bytes, then each product once and after both of its parts.
    known = set(BYTE_SYMBOLS)
    assert known <= set(vocabulary)
    for first, second in merges_of(tokenizer):
        assert first in known and second in known
        assert first + second not in known
        known.add(first + second)
    assert known == set(vocabulary)
    # By the encoder itself, where a token is text of its own.
    whole = 0
    for name, index in vocabulary.items():
        data = from_symbols(name)
        assert data is not None and tokenizer.decode_bytes([index]) == data
        text = data.decode(errors="ignore")
        if text.encode() == data:
            assert tokenizer.encode(text) == [index], text
            whole += 1
    assert whole > 180


def test_the_bases_ids_stay_unless_a_new_merge_applies(base: Tokenizer, extension: Extension) -> None:
    tokenizer = extension.tokenizer
    old = base.core()["model"]["vocab"]
    assert {name: tokenizer.core()["model"]["vocab"][name] for name in old} == old
    new = set(extension.added.values())

    @settings(max_examples=200, deadline=None)
    @given(TEXTS)
    @example("".join(CODE))
    def check(text: str) -> None:
        before, after = base.encode(text), tokenizer.encode(text)
        assert len(after) <= len(before)
        if not new & set(after):
            assert after == before
        assert tokenizer.decode(after) == text

    check()
    for text in [*CODE[1:], *LINES[:4], *HOSTILE]:
        ids = tokenizer.encode(text)
        assert ids == base.encode(text) or new & set(ids)
    # Text of the base that has nothing of the new texts in it.
    assert tokenizer.encode(CODE[2]) == base.encode(CODE[2])


def test_the_library_and_the_plain_rules_agree(extension: Extension) -> None:
    tokenizer = extension.tokenizer
    theirs = library(json.loads(tokenizer.source) | {"added_tokens": []})
    rules, words = Rules.of(tokenizer.core()), Words(tokenizer)
    for text in [*HOSTILE, *CHINESE, *CODE]:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text).ids
        assert tokenizer.decode(ids) == text
        pieces = [piece for word in words.split(text) for piece in rules.apply(word).pieces]
        assert ids == [rules.vocabulary[piece] for piece in pieces]


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=50))
def test_any_bytes_survive(extension: Extension, data: bytes) -> None:
    # Bytes that are no text have ids too: by merging alone, as a caller would that has no text.
    ids, _ = Words(extension.tokenizer).encode([data.decode("latin-1").translate(_SYMBOLS)])
    assert extension.tokenizer.decode_bytes(ids.tolist()) == data


_SYMBOLS = {byte: symbol for symbol, byte in BYTE_SYMBOLS.items()}


def test_it_continues_where_training_stopped() -> None:
    # The library's own trainer, in one go, is the independent reference: 320 merges, and 280 continued to 320.
    assert inspect(train([CODE], 280)).clean
    whole = train([CODE + CHINESE], 320)
    part = train([CODE + CHINESE], 280)
    continued = extend(part, [CODE + CHINESE], 320).tokenizer
    assert merges_of(continued) == merges_of(whole)
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel(False)]
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        CODE + CHINESE,
        tokenizers.trainers.BpeTrainer(vocab_size=320, min_frequency=2, initial_alphabet=alphabet, show_progress=False),
    )
    assert merges_of(continued) == [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]


def test_it_learns_the_most_frequent_pair_of_the_bases_tokens(base: Tokenizer) -> None:
    # Counted again from the base's encoding, merge by merge, in plain Python.
    words = Counter(word for text in CHINESE for word in Words(base).split(text))
    rules = Rules.of(base.core())
    sequences = {word: rules.apply(word).pieces for word in words}
    number = dict(base.core()["model"]["vocab"])
    expected = []
    for step in range(25):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in sequences.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], number[pair[0]], number[pair[1]]))
        expected.append(best)
        number[best[0] + best[1]] = 10_000 + step
        for pieces in sequences.values():
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = [best[0] + best[1]]
                at += 1
    result = extend(base, [CHINESE], base.base_vocab_size + 25).tokenizer
    assert merges_of(result) == merges_of(base) + expected


def test_the_order_and_the_batches_of_the_texts_do_not_matter(base: Tokenizer) -> None:
    texts = CODE + CHINESE
    once = extend(base, [texts], 340).tokenizer
    assert extend(base, [[text] for text in reversed(texts)], 340).tokenizer.source == once.source
    assert extend(base, [pa.array(texts, pa.large_string())], 340).tokenizer.source == once.source


def test_where_special_tokens_go(base: Tokenizer) -> None:
    keep = extend(base, [CHINESE], 340)
    assert keep.tokenizer.specials == base.specials
    assert sorted(keep.added.values()) == list(range(base.vocab_size, base.vocab_size + 40))
    end = extend(base, [CHINESE], 340, specials="end")
    assert sorted(end.added.values()) == list(range(300, 340))
    assert end.tokenizer.specials == {name: 340 + n for n, name in enumerate(base.specials)}
    assert list(keep.added) == list(end.added)
    # Special tokens at the beginning, as StarCoder has them, leave places that new tokens fill.
    star = Tokenizer(json.dumps(tree("starcoder2")))
    moved = extend(star, [CHINESE], star.base_vocab_size + 10, specials="end", repairing=False)
    assert sorted(moved.added.values())[:6] == list(range(6))
    assert list(moved.tokenizer.specials.values()) == list(range(star.vocab_size + 4, star.vocab_size + 10))
    text = CHINESE[0]
    theirs = library(json.loads(moved.tokenizer.source))
    assert moved.tokenizer.encode(text) == theirs.encode(text).ids


def test_a_released_like_base_is_repaired_first_and_its_free_ids_are_used() -> None:
    base = Tokenizer(json.dumps(tree("starcoder2")))
    file = json.loads(base.source)
    # A token that nothing can make: its text is always cut.
    free = base.vocab_size
    file["model"]["vocab"]["a1b"] = free
    broken = Tokenizer(json.dumps(file))
    result = extend(broken, [CHINESE], base.base_vocab_size + 5)
    assert result.repairs is not None and [dead.id for dead in result.repairs.freed] == [free]
    assert free in result.added.values() and inspect(result.tokenizer).clean
    with pytest.raises(UserError, match=r"--vocab-size \d+: the base has"):
        extend(broken, [CHINESE], base.base_vocab_size)


def test_one_long_word_takes_no_longer_than_its_length(base: Tokenizer) -> None:
    long = "返" * 200_000 + "回" * 100_001
    result = extend(base, [[long]], 310)
    assert len(result.added) == 10
    assert result.tokenizer.decode(result.tokenizer.encode(long)) == long


def test_a_special_token_among_what_is_learnt_is_refused() -> None:
    file = tree("starcoder2")
    size = len(file["model"]["vocab"])
    file["added_tokens"].append(file["added_tokens"][0] | {"id": size, "content": "EINSZWEI"})
    base = Tokenizer(json.dumps(file))
    with pytest.raises(UserError, match="EINSZWEI: the new texts spell this special token"):
        extend(base, [["EINSZWEI " * 9]], base.base_vocab_size + 50)


def test_the_command_extends_and_says_what_it_did(
    base: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base.save(tmp_path / "base")
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(CHINESE):
        (tmp_path / "texts" / f"{number}.md").write_text(text, encoding="utf-8")
    arguments = ["tokenizer", "extend", str(tmp_path / "base"), str(tmp_path / "texts"), "--vocab-size", "340"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--specials", "end"]) == 0
    assert "40 of them are new" in capsys.readouterr().out
    written = Tokenizer.load(tmp_path / "out")
    assert written.hash == extend(base, [CHINESE], 340, specials="end").tokenizer.hash
    said = json.loads((tmp_path / "out" / "extension.json").read_text(encoding="utf-8"))
    assert (said["added"], said["hash"], said["repairs"]) == (40, written.hash, None)
    # A corpus too small for the size is no error, but is said; one that holds nothing to learn is an error.
    assert main([*arguments[:-1], "9000", "-o", str(tmp_path / "more")]) == 0
    assert "fewer than the 9,000 asked for" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2(
    base: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base.save(tmp_path / "base")
    (tmp_path / "a.py").write_text("x1")
    (tmp_path / "unigram").mkdir()
    (tmp_path / "unigram" / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text(base.source[: len(base.source) // 2])
    collides = json.loads(base.source)
    collides["added_tokens"][0]["content"] = "".join(merges_of(base)[-1])
    (tmp_path / "collides.json").write_text(json.dumps(collides))
    text = tmp_path / "a.py"
    for arguments, message in (
        ([tmp_path / "unigram", text, "--vocab-size", 999], "Unigram"),
        ([tmp_path / "base", text, "--vocab-size", 300], "has 300 tokens without the special ones; ask for more"),
        ([tmp_path / "base", text, "--vocab-size", 10**10], "too large"),
        ([tmp_path / "base", text, "--vocab-size", 310], "no pair of tokens occurs twice"),
        ([tmp_path / "base", tmp_path / "none", "--vocab-size", 310], "none"),
        ([tmp_path / "damaged", text, "--vocab-size", 310], "not valid JSON"),
        ([tmp_path / "collides.json", text, "--vocab-size", 310], "its merges spell the special token"),
    ):
        assert main(["tokenizer", "extend", *map(str, arguments), "-o", str(tmp_path / "out")]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()
