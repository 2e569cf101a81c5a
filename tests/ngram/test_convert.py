"""ARPA files and KenLM's binaries: read into a model, written again, and refused where they are damaged."""

from __future__ import annotations

import gzip
import math
import random
import struct
from pathlib import Path

import kenlm
import pytest
from helpers.arpa_files import ENDS, Grams, arpa, backoff_scores, float32, kenlm_binary, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.ngram.convert import kind_of, to_arpa, to_model
from codeshell.ngram.model import LanguageModel

TEXTS = ["w1 w2 w3 w4 w5", "", "w3", "nothing w1 known", "w1 w1 w1 w1 w1 w1 w2 w2 w2"]
HEAD = "\\data\\\nngram 1=4\nngram 2=1\n\n"
ONE = "\\1-grams:\n-1\t<unk>\n-99\t<s>\t-0.1\n-1\t</s>\n-2\ta\t-0.3\n\n"
TWO = "\\2-grams:\n-0.5\ta </s>\n\n"
WHOLE = HEAD + ONE + TWO + "\\end\\\n"


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def grams_of(text: str) -> Grams:
    """The n-grams of an ARPA file, read in the plainest way."""
    grams: Grams = {}
    for line in text.split("\n"):
        fields = line.split("\t")
        if len(fields) > 1:
            numbers = float32(float(fields[0])), float32(float(fields[2])) if len(fields) > 2 else 0.0
            grams[tuple(fields[1].split(" "))] = numbers
    return grams


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["again.arpa", "again.arpa.gz"])
def test_a_model_is_written_as_it_was_read(tmp_path: Path, order: int, name: str) -> None:
    grams = random_model(order, order, count=400)
    to_model(write(tmp_path / "a.arpa", arpa(grams)), tmp_path / "a.lm", keep_words=True)
    to_arpa(LanguageModel.load(tmp_path / "a.lm").handle, "a.lm", tmp_path / name)
    data = (tmp_path / name).read_bytes()
    data = gzip.decompress(data) if name.endswith("gz") else data
    assert grams_of(data.decode()) == grams
    # And once more, from what we wrote: the same bytes.
    to_model(tmp_path / name, tmp_path / "b.lm", keep_words=True)
    assert [*LanguageModel.load(tmp_path / "b.lm").words()[:3]] == list(ENDS)
    if order > 1:
        reference = kenlm.Model(str(write(tmp_path / "plain.arpa", data)))
        model = LanguageModel.load(tmp_path / "b.lm")
        for text in TEXTS:
            assert model.score_text(text) == pytest.approx(reference.score(text), rel=1e-6)


def test_bytes_depend_on_the_n_grams_alone(tmp_path: Path) -> None:
    # 70,000 bigrams are more than the least memory holds, so they are sorted in files.
    words = [f"w{i}" for i in range(1000)]
    grams: Grams = {(word,): (-1.0, -0.5) for word in (*ENDS, *words)}
    grams |= {(a, b): (-1.0 - i / 1000, 0.0) for i, a in enumerate(words) for b in words[i % 7 : i % 7 + 70]}
    files = []
    for seed, memory in ((0, 1 << 30), (1, 1 << 30), (2, 1)):
        text = arpa(grams, seed)
        # Ids follow the order of the unigrams, which stays.
        head, _, rest = text.partition("\\2-grams:")
        source = head if not files else files[0][0]
        to_model(write(tmp_path / "a.arpa", source + "\\2-grams:" + rest), tmp_path / "a.lm", memory=memory)
        files.append((source, (tmp_path / "a.lm").read_bytes()))
    assert files[0][1] == files[1][1] == files[2][1]
    assert not list(tmp_path.glob("*.run*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.arpa: empty"),
        ("hello\n", r"a.arpa: line 1: 'hello' and not \\data\\"),
        ("\n\n", r"line 2: the file ends without \\data\\"),
        ("\\data\\\nngram 2=1\n", "line 2: the orders must come as 1, 2, 3"),
        ("\\data\\\nngram 1=x\n", "line 2: expected 'ngram k=count'"),
        ("\\data\\\nngram 1=99999999999999999999\n", "line 2: expected 'ngram k=count'"),
        ("\\data\\\nngram 1=1099511627776\n", "line 2: more n-grams than any file has"),
        ("\\data\\\n" + "".join(f"ngram {i}=1\n" for i in range(1, 10)), "line 10: order 9; at most 8"),
        ("\\data\\\n\\end\\\n", r"line 2: \\end\\ before the 1-grams"),
        (HEAD + "\\2-grams:\n", r"line 5: '\\2-grams:' and not \\1-grams:"),
        (WHOLE.replace("-2\ta\t-0.3", "-2\ta\tb"), "line 9: 'b' is no backoff"),
        (WHOLE.replace("-2\ta\t-0.3", "x\ta\t-0.3"), "line 9: .* does not begin with a finite number"),
        (WHOLE.replace("-2\ta\t-0.3", "nan\ta\t-0.3"), "line 9: .* does not begin with a finite number"),
        (WHOLE.replace("-2\ta\t-0.3", "2\ta\t-0.3"), "line 9: a probability above 1"),
        (WHOLE.replace("-2\ta\t-0.3", "-2\ta\tinf"), "line 9: 'inf' is no backoff"),
        (WHOLE.replace("-2\ta\t-0.3", "-2"), "line 9: '-2' has fewer than 1 words"),
        (WHOLE.replace("-2\ta\t-0.3", "-2\t</s>"), "line 9: '</s>' is there twice"),
        (WHOLE.replace("<s>", "s"), "line 10: no unigram <s>"),
        (WHOLE.replace("a </s>", "b </s>"), "line 12: 'b' is not among the unigrams"),
        (WHOLE.replace("a </s>", "a </s> 1 2"), "line 12: .* has more than 2 words"),
        (WHOLE.replace("1=4", "1=5"), "line 10: the 1-grams end after 4 of 5"),
        (WHOLE.replace("1=4", "1=3"), "line 9: more 1-grams than the 3 announced"),
        (WHOLE.replace("2=1", "2=2").replace("a </s>\n", "a </s>\n-1\ta </s>\n"), "a.arpa: 1 n-grams are there twice"),
        (WHOLE[:-6], "line 13: the file ends here"),
        ("\\data\\\n" + "x" * (1 << 21), "line 2: longer than a megabyte"),
    ],
)
def test_damaged_arpa_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        LanguageModel.load(write(tmp_path / "a.arpa", text))
    assert "\n" not in str(error.value)


def test_an_arpa_file_cut_anywhere(tmp_path: Path) -> None:
    for end in range(1, len(WHOLE) - 1):
        with pytest.raises(UserError):
            to_model(write(tmp_path / "a.arpa", WHOLE[:end]), tmp_path / "a.lm")
        assert not (tmp_path / "a.lm").exists()
        assert not list(tmp_path.glob("*.partial"))
    packed = gzip.compress(WHOLE.encode())
    for end in range(2, len(packed)):
        with pytest.raises(UserError, match=r"gzip file is|line"):
            to_model(write(tmp_path / "a.arpa.gz", packed[:end]), tmp_path / "a.lm")
    to_model(write(tmp_path / "a.arpa", WHOLE[:-1]), tmp_path / "a.lm")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_arpa_never_crashes(changes: list[tuple[int, int]]) -> None:
    import tempfile

    data = bytearray(WHOLE.encode())
    for at, byte in changes:
        data[at] = byte
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = LanguageModel.load(write(Path(folder, "a.arpa"), bytes(data)))
        except UserError as error:
            assert str(error).startswith(folder)
        else:
            assert math.isfinite(model.score_text("a a"))


@pytest.mark.parametrize("shuffled", [False, True])
def test_binaries_of_kenlm(tmp_path: Path, shuffled: bool) -> None:
    grams = random_model(5, 4, words=20, count=300)
    ids = [gram[0] for gram in grams if len(gram) == 1]
    if shuffled:  # as in files of other toolkits, where the words are sorted
        random.Random(1).shuffle(ids)
        ids = ["<unk>", *(word for word in ids if word != "<unk>")]
    path = write(tmp_path / "a.bin", kenlm_binary(grams, ids))
    assert kind_of(path) == "kenlm"
    reference, model = kenlm.Model(str(path)), LanguageModel.load(path)
    assert sorted(model.words()) == sorted(ids)
    assert model.words()[:3] == list(ENDS)
    for seed in range(20):
        text = random.Random(seed).choices([word for word in ids if word not in ENDS] + ["other"], k=30)
        expected = backoff_scores(grams, text, True, True)
        assert model.score_text(" ".join(text)) == sum(score for score, _ in expected)
        assert model.score_text(" ".join(text)) == pytest.approx(reference.score(" ".join(text)), rel=1e-5)
    assert [word.word for word in model.trace("w1 nowhere")] == ["w1", "<unk>", "</s>"]
    # Its tables hold no words, so there is no ARPA of it.
    with pytest.raises(UserError, match="without the words of its n-grams"):
        to_arpa(model.handle, "a.bin", tmp_path / "a.arpa")
    with pytest.raises(UserError, match="KenLM's binaries have no words"):
        to_model(path, tmp_path / "a.lm", keep_words=True)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (49, b"4", "of another version than 5"),
        (60, struct.pack("<f", 2), "of another kind of machine"),
        (88, b"\x09", "order 9"),
        (92, struct.pack("<f", float("nan")), "its multiplier"),
        (96, struct.pack("<i", 2), "of kind trie"),
        (96, struct.pack("<i", 3), "of kind quantised trie"),
        (96, struct.pack("<i", 99), "of kind unknown"),
        (100, b"\0", "without its words"),
        (104, struct.pack("<I", 1), "tables of another version"),
        (108, struct.pack("<Q", 1 << 60), "cut short"),
    ],
)
def test_other_binaries_of_kenlm_are_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    data = bytearray(kenlm_binary(random_model(1, 3), [*ENDS, *(f"w{i}" for i in range(12))]))
    data[offset : offset + len(value)] = value
    with pytest.raises(UserError, match=f"a.bin: .*{message}"):
        LanguageModel.load(write(tmp_path / "a.bin", bytes(data)))


def test_a_binary_of_kenlm_cut_or_changed_anywhere(tmp_path: Path) -> None:
    data = kenlm_binary(random_model(1, 3, words=5, count=20), [*ENDS, *(f"w{i}" for i in range(5))])
    for end in range(34, len(data), 23):
        with pytest.raises(UserError):
            LanguageModel.load(write(tmp_path / "a.bin", data[:end]))
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        try:
            LanguageModel.load(write(tmp_path / "a.bin", bytes(changed))).score(["w1 w2"])
        except UserError as error:
            assert str(error).startswith(str(tmp_path))


def test_words_may_be_any_bytes(tmp_path: Path) -> None:
    words = [b"\\x", b"a\\b", b"\xff\xfe", "é\u00a0x".encode(), b"<s>x", b"\\x41", b"x" * 100, b"\x01\x7f"]
    head = f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-9\t<s>\n-1\t</s>\n".encode()
    unigrams = b"".join(b"-2\t" + word + b"\t-0.5\n" for word in words)
    data = head + unigrams + b"\n\\2-grams:\n-1\t" + words[0] + b" " + words[2] + b"\n\n\\end\\\n"
    to_model(write(tmp_path / "a.arpa", data), tmp_path / "a.lm", keep_words=True)
    model = LanguageModel.load(tmp_path / "a.lm")
    assert model.words()[5:7] == ["\\xff\\xfe", "é\u00a0x"]
    to_arpa(model.handle, "a.lm", tmp_path / "b.arpa")
    to_model(tmp_path / "b.arpa", tmp_path / "b.lm", keep_words=True)
    assert (tmp_path / "a.lm").read_bytes() == (tmp_path / "b.lm").read_bytes()
    reference = kenlm.Model(str(tmp_path / "a.arpa"))
    for word in words:
        if (text := word.decode("utf-8", "replace")) and "\ufffd" not in text:
            assert model.score_text(text) == pytest.approx(reference.score(text), rel=1e-6)
            assert model.trace(text)[0].unknown is False


def test_no_model(tmp_path: Path) -> None:
    for name, message in ((tmp_path, "a directory"), (tmp_path / "no.lm", "No such file")):
        with pytest.raises(UserError, match=message):
            LanguageModel.load(name)
    to_model(write(tmp_path / "a.arpa", WHOLE), tmp_path / "a.lm")
    with pytest.raises(UserError, match="a model of codeshell already"):
        to_model(tmp_path / "a.lm", tmp_path / "b.lm")
