"""Scores of n-gram models: equal to the definition bit for bit, and to KenLM within the rounding of float32."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pyarrow as pa
import pytest
from helpers.arpa_files import Grams, arpa, backoff_scores, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.errors import UserError
from codeshell.ngram import LanguageModel, Settings, score_all, train
from codeshell.ngram.convert import to_model
from codeshell.ngram.training import Units

WORDS = [*(f"w{i}" for i in range(12)), "other"]
CODE = [
    "import os\n\n\ndef main(argument):\n    return os.path.join(argument, 'x')\n",
    "for i in range(10):\n    print(i, 2 * i)\n",
    "class Point:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n",
    "x = {'a': 1}\n\n\ny = [value for value in x.values() if value > 1]\n",
] * 3


def model_of(grams: Grams, folder: Path, **options: Any) -> LanguageModel:
    path = folder / "a.arpa"
    path.write_text(arpa(grams))
    to_model(path, folder / "a.lm", **options)
    return LanguageModel.load(folder / "a.lm")


def texts_of(seed: int, count: int = 20, longest: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def lexical(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A small model of code, trained."""
    path = tmp_path_factory.mktemp("lexical") / "code.lm"
    train(CODE, path, Settings(order=3, memory=256 << 20))
    return LanguageModel.load(path)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_scores_equal_the_definition_and_kenlm(tmp_path: Path, order: int, closed: bool) -> None:
    grams = random_model(order, order, count=400, closed=closed)
    model = model_of(grams, tmp_path)
    reference = kenlm.Model(str(tmp_path / "a.arpa"))
    # A model with missing suffixes must be searched to its highest order; the file says which it is.
    missing = [gram for gram in grams if len(gram) > 1 and gram[1:] not in grams]
    assert model.about["suffix_closed"] == (not missing)
    assert closed or order == 2 or missing
    texts = texts_of(order)
    for bos in (True, False):
        for eos in (True, False):
            scores = model.score(texts, bos=bos, eos=eos)
            for i, text in enumerate(texts):
                expected = backoff_scores(grams, text.split(), bos, eos)
                assert scores.log10[i] == sum(score for score, _ in expected)
                assert scores.tokens[i] == len(text.split())
                assert scores.unknown[i] == text.split().count("other")
                assert scores.log10[i] == pytest.approx(reference.score(text, bos=bos, eos=eos), rel=1e-5, abs=1e-6)
                words = model.trace(text, bos=bos, eos=eos)
                assert [(word.log10, word.length) for word in words] == expected
                # KenLM tells another length where an n-gram ends in one that its table had to add.
                full = reference.full_scores(text, bos=bos, eos=eos)
                assert not closed or [word.length for word in words] == [length for _, length, _ in full]
    for text in texts[:5]:
        assert model.perplexity(text) == pytest.approx(reference.perplexity(text), rel=1e-4)
        assert model.score_text(text, False, False) == model.score([text], bos=False, eos=False).log10[0]


def test_texts_longer_than_a_block_of_searches(tmp_path: Path) -> None:
    grams = random_model(9, 4, count=600)
    model = model_of(grams, tmp_path)
    for size in (509, 510, 511, 512, 513, 1023, 1024, 1025, 3000):
        text = random.Random(size).choices(WORDS, k=size)
        for bos in (True, False):
            expected = backoff_scores(grams, text, bos, True)
            assert [word.log10 for word in model.trace(" ".join(text), bos=bos)] == [score for score, _ in expected]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.lists(st.text("ab \n\t\x00é", max_size=40), max_size=6))
def test_any_text(order: int, seed: int, texts: list[str]) -> None:
    grams = random_model(seed, order, words=3, count=100)
    grams |= {(word,): (-1.5, -0.25 if order > 1 else 0.0) for word in ("a", "b", "ab")}
    with tempfile.TemporaryDirectory() as folder:
        scores = model_of(grams, Path(folder)).score(texts)
        for i, text in enumerate(texts):
            words = text.replace("\0", " ").split()
            assert scores.log10[i] == sum(score for score, _ in backoff_scores(grams, words, True, True))
            assert scores.bytes[i] == len(text.encode())


def test_quantised_values_are_near(tmp_path: Path) -> None:
    grams = random_model(3, 3, words=200, count=5000)
    model = model_of(grams, tmp_path, quantize=True)
    assert model.about["quantised"]
    differences = []
    for text in texts_of(1, 200):
        expected = backoff_scores(grams, text.split(), True, True)
        found = model.trace(text)
        assert len(found) == len(expected)
        differences += [
            abs(word.log10 - score) for word, (score, length) in zip(found, expected, strict=True)
            if word.length == length
        ]  # fmt: skip
        # Checks of 16 bits take one search in some thousands for another n-gram's.
        assert sum(word.length != length for word, (_, length) in zip(found, expected, strict=True)) <= 1
    # Values lie within 5 and 256 codes: steps of 0.02 for the probability and two backoffs of 0.005.
    assert max(differences) < 0.03
    assert np.mean(differences) < 0.008


def test_few_different_values_are_kept(tmp_path: Path) -> None:
    grams = {gram: (-1.25, -0.5 if len(gram) < 3 else 0.0) for gram in random_model(4, 3)}
    model = model_of(grams, tmp_path, quantize=True)
    for text in texts_of(2):
        expected = sum(score for score, _ in backoff_scores(grams, text.split(), True, True))
        # A histogram of values has steps of 2^-11.
        assert model.score_text(text) == pytest.approx(expected, rel=2**-11)


def test_scores_do_not_depend_on_batches_threads_or_memory(lexical: LanguageModel) -> None:
    texts = [*CODE, "", "é" * 600, "x\n" * 3000] * 40
    whole = lexical.score(texts)
    mapped = LanguageModel.load(lexical.name, "mapped").score(pa.chunked_array([texts[:7], texts[7:]]), threads=2)
    single = [lexical.score([text]) for text in texts[:20]]
    np.testing.assert_array_equal(whole.log10, mapped.log10)
    np.testing.assert_array_equal(whole.log10[:20], [score.log10[0] for score in single])
    np.testing.assert_array_equal(whole.tokens, mapped.tokens)
    assert np.isnan(whole.bits_per_byte[len(CODE)]) and whole.tokens[len(CODE)] == 0
    assert lexical.score([]).log10.shape == (0,)


def test_several_models_at_once(lexical: LanguageModel, tmp_path: Path) -> None:
    units = lexical.handle.units
    train(CODE[1:2], tmp_path / "same.lm", Settings(order=2, memory=256 << 20), units=units)
    train(CODE, tmp_path / "bytes.lm", Settings(order=4, units="bytes", memory=256 << 20))
    models = [lexical, *(LanguageModel.load(tmp_path / name) for name in ("same.lm", "bytes.lm"))]
    together = score_all(models, CODE)
    for model, scores in zip(models, together, strict=True):
        np.testing.assert_array_equal(scores.log10, model.score(CODE).log10)
    assert together[2].tokens.tolist() == [len(text.encode()) for text in CODE]
    assert score_all([], CODE) == []


def test_some_rows_score_as_the_texts_do_and_memos_change_nothing(lexical: LanguageModel, tmp_path: Path) -> None:
    # More text than a memo has places for, and three models of which two share a memo.
    draw = random.Random(5)
    names = [f"name{draw.randrange(300)}" for _ in range(400)] + [*"+-*/()[]{}=.,:;"]
    texts = [" ".join(draw.choices(names, k=draw.randrange(1500))) for _ in range(60)]
    train(CODE + texts[:20], tmp_path / "two.lm", Settings(order=3, memory=256 << 20), units=lexical.handle.units)
    two = LanguageModel.load(tmp_path / "two.lm")
    models = [lexical, two, lexical]
    column = pa.chunked_array([pa.array(texts[:25], pa.large_string()), pa.array(texts[25:], pa.large_string())])
    # Word by word there is no memo: sums in the order of the words are the definition.
    for model, scores in zip(models, score_all(models, column), strict=True):
        for text, log10 in zip(texts, scores.log10.tolist(), strict=True):
            total = 0.0
            for word in model.trace(text):
                total += word.log10
            assert log10 == total
    rows = np.array([0, 3, 24, 25, 59])
    for whole, some in zip(score_all(models, column), score_all(models, column, rows=rows), strict=True):
        for name in ("tokens", "unknown", "log10", "bytes"):
            assert np.array_equal(getattr(some, name), getattr(whole, name)[rows]), name
    with pytest.raises(ValueError, match="rows"):
        _C.ngram.score_texts([lexical.handle], b"abc", np.array([0, 3], np.int64), True, True, 1, np.array([1]))


def test_lines_share_out_the_bits_of_a_text(lexical: LanguageModel) -> None:
    text = CODE[0] + "\n\n  é = 1"
    lines = lexical.lines(text)
    assert [line.number for line in lines] == list(range(1, 9))
    assert [line.bytes for line in lines] == [len(line.encode()) for line in text.splitlines(keepends=True)]
    assert sum(line.bits for line in lines) == pytest.approx(lexical.score([text]).bits[0], rel=1e-12)
    # A blank line belongs to the line break before it.
    assert lines[1].bits == 0 < lines[0].bits
    strange = lexical.lines("import os\nzq9 ~~ @@ $$ `` zq9\n")
    assert strange[1].bits / strange[1].bytes > strange[0].bits / strange[0].bytes
    assert lexical.lines("") == []
    assert len(lexical.lines("\n")) == 1


def test_units_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CODE, tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bpe = Settings(order=2, units="bpe", memory=256 << 20)
    train(CODE, tmp_path / "bpe.lm", bpe, tokenizer=tmp_path / "tokenizer.json")
    model = LanguageModel.load(tmp_path / "bpe.lm")
    text = CODE[0] + "é = 'ü'\n"
    scores = model.score([text])
    assert scores.tokens[0] == len(tokenizer.encode(text).ids)
    lines = model.lines(text)
    assert [line.bytes for line in lines] == [len(line.encode()) for line in text.splitlines(keepends=True)]
    assert sum(line.bits for line in lines) == pytest.approx(scores.bits[0], rel=1e-12)
    assert all(line.bits > 0 for line in lines[3:])
    assert sum(word.log10 for word in model.trace(text)) == pytest.approx(scores.log10[0], rel=1e-12)


def damaged(data: bytes) -> None:
    """Load it and score; only a `UserError` of one line may come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.lm")
        path.write_bytes(data)
        for memory in ("mapped", "copied"):
            try:
                model = LanguageModel.load(path, memory)  # type: ignore[arg-type]
                model.score(["w1 w2 w3 w1 w2 other"])
                model.trace("w1 w2")
                model.handle.write_arpa(str(Path(folder, "out.arpa")))
            except UserError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
            except ValueError as error:
                assert "damaged" in str(error)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "quantised"])
def whole_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    model_of(random_model(1, 3, count=60), folder, quantize=request.param, keep_words=True)
    return (folder / "a.lm").read_bytes()


def test_a_model_cut_short_is_refused(whole_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.lm"
    for end in [*range(1, 640, 31), *range(640, len(whole_file), 199), len(whole_file) - 1]:
        path.write_bytes(whole_file[:end])
        with pytest.raises(UserError, match=r"a\.lm: "):
            LanguageModel.load(path)
    path.write_bytes(whole_file + b"\0")
    with pytest.raises(UserError, match="it should have"):
        LanguageModel.load(path)


def sealed(data: bytearray) -> bytes:
    """The file with the checksum of its header made right again, as an attacker would."""
    size, value = 616, 0xCBF29CE484222325
    for at in range(0, size - 8, 8):
        value = (value ^ int.from_bytes(data[at : at + 8], "little")) * 0x100000001B3 % 2**64
        value ^= value >> 32
    data[size - 8 : size] = value.to_bytes(8, "little")
    return bytes(data)


def test_the_checksum_of_the_test_is_that_of_the_format(whole_file: bytes) -> None:
    assert sealed(bytearray(whole_file)) == whole_file


def test_another_version_is_named(whole_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.lm").write_bytes(whole_file[:16] + b"\x63" + whole_file[17:])
    with pytest.raises(UserError, match="a model of format 99, and this codeshell reads format 1"):
        LanguageModel.load(tmp_path / "a.lm")
    (tmp_path / "a.lm").write_bytes(whole_file[:40] + b"\x63" + whole_file[41:])
    with pytest.raises(UserError, match="its header is damaged"):
        LanguageModel.load(tmp_path / "a.lm")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_hostile_header_never_crashes(whole_file: bytes, data: st.DataObject) -> None:
    # Whole fields of the header, with values at the edges; then the checksum fits.
    changed = bytearray(whole_file)
    for _ in range(data.draw(st.integers(1, 3))):
        at = 4 * data.draw(st.integers(4, 151))
        value = data.draw(st.sampled_from([0, 1, 2, 63, 64, 2**16, 2**31, 2**32 - 1]) | st.integers(0, 5000))
        changed[at : at + 4] = value.to_bytes(4, "little")
    damaged(sealed(changed))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_changed_tables_never_crash(whole_file: bytes, data: st.DataObject) -> None:
    changed = bytearray(whole_file)
    for _ in range(data.draw(st.integers(1, 30))):
        changed[data.draw(st.integers(616, len(changed) - 1))] = data.draw(st.integers(0, 255))
    damaged(bytes(changed))


def test_arguments(lexical: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give auto, mapped or copied"):
        LanguageModel.load(lexical.name, "huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 of 2 are null"):
        lexical.score(pa.array(["a", None]))
    with pytest.raises(ValueError, match="beyond the model's vocabulary"):
        lexical.handle.score_ids(np.array([1 << 20], np.uint32), np.array([0, 1], np.int64), True, True)
    with pytest.raises(ValueError, match="offsets: must not fall"):
        _C.ngram.score_texts([lexical.handle], b"abc", np.array([0, 3, 1], np.int64), True, True, 1)
    assert lexical.order == 3 and lexical.kind == "lexical"
    assert len(lexical.words()) == lexical.about["vocabulary"] == len(lexical.handle.units)
    assert lexical.metadata["order"] == 3
    assert isinstance(lexical.handle.units, Units)
    # A file that is gone while it is in use stays mapped.
    path = tmp_path / "gone.lm"
    path.write_bytes(Path(lexical.name).read_bytes())
    model = LanguageModel.load(path, "mapped")
    path.unlink()
    np.testing.assert_array_equal(model.score(CODE).log10, lexical.score(CODE).log10)
