"""Training against a slow reading of the papers, and against what lmplz made of a text."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interrupted import interrupted
from helpers.kneser_ney import Gram, Model, kneser_ney
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.errors import UserError
from codeshell.ngram.training import Settings, Summary, Vocabulary, train

FIXED = Path(__file__).parent / "lmplz"
WORDS = [b"a", b"b", b"c", b"d", b"e", b"f"]


def read_arpa(path: Path) -> tuple[list[int], dict[Gram, tuple[float, float]]]:
    """Numbers of n-grams by order, and of each n-gram the logarithms of its probability and its backoff."""
    counts: list[int] = []
    found: dict[Gram, tuple[float, float]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("ngram "):
            counts.append(int(line.split("=")[1]))
        parts = line.split("\t")
        if len(parts) > 1:
            found[tuple(parts[1].split(" "))] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return counts, found


def trained(
    path: Path, documents: list[list[str]], order: int, prune: tuple[int, ...] = (), threads: int = 1
) -> tuple[Summary, list[int], dict[Gram, tuple[float, float]]]:
    units = _C.ngram.Units("words", sorted({word.encode() for document in documents for word in document} | set(WORDS)))
    texts = [" ".join(document) for document in documents]
    chosen = Settings(order=order, prune=prune, threads=threads)
    summary = train(texts, path / "m.lm", chosen, units=units, arpa=path / "m.arpa")
    return (summary, *read_arpa(path / "m.arpa"))


def check(model: Model, summary: Summary, counts: list[int], found: dict[Gram, tuple[float, float]]) -> None:
    assert [one["ngrams"] for one in summary.orders] == model.ngrams
    assert [one["counts"] for one in summary.orders] == model.counts
    assert [one["fallback"] for one in summary.orders] == model.fallback
    for one, exact in zip(summary.orders, model.discounts, strict=True):
        assert one["discounts"] == pytest.approx([float(value) for value in exact], abs=1e-12)
    assert set(found) == set(model.probabilities)
    assert counts == [sum(len(gram) == size for gram in found) for size in range(1, len(counts) + 1)]
    for gram, (probability, backoff) in found.items():
        assert probability == pytest.approx(math.log10(model.probabilities[gram]), abs=2e-6), gram
        # The highest order has no backoff, and what is no context has none to give.
        left = model.backoffs.get(gram, 1) if len(gram) < len(counts) else 1
        assert backoff == pytest.approx(math.log10(left), abs=2e-6), gram


DOCUMENTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS, st.integers(1, 6), st.sampled_from([(), (0, 1), (0, 0, 1), (0, 0, 1, 2)]), st.integers(1, 3))
def test_counts_discounts_and_probabilities_are_those_of_the_papers(
    tmp_path: Path, documents: list[list[str]], order: int, prune: tuple[int, ...], threads: int
) -> None:
    prune = prune[:order]
    summary, counts, found = trained(tmp_path, documents, order, prune, threads)
    check(kneser_ney(documents, order, prune), summary, counts, found)
    assert summary.documents == len(documents)
    assert summary.tokens == sum(len(document) + 1 for document in documents)


@pytest.mark.parametrize(("order", "prune"), [(2, ()), (3, (0, 0, 1)), (4, (0, 1))])
def test_text_with_usable_discounts(tmp_path: Path, order: int, prune: tuple[int, ...]) -> None:
    documents = [line.split() for line in (FIXED / "text.txt").read_text().splitlines()]
    model = kneser_ney(documents, order, prune)
    assert not any(model.fallback)
    check(model, *trained(tmp_path, documents, order, prune))


@pytest.mark.parametrize(("name", "order", "prune"), [("3", 3, ()), ("4-pruned", 4, (0, 0, 1, 2))])
def test_model_is_that_of_lmplz(tmp_path: Path, name: str, order: int, prune: tuple[int, ...]) -> None:
    documents = [line.split() for line in (FIXED / "text.txt").read_text().splitlines()]
    _, counts, found = trained(tmp_path, documents, order, prune, threads=2)
    their_counts, theirs = read_arpa(FIXED / f"{name}.arpa")
    assert counts == their_counts
    assert set(found) == set(theirs)
    for gram, pair in theirs.items():
        assert found[gram] == pytest.approx(pair, abs=2e-6), gram


def test_probabilities_sum_to_one(tmp_path: Path) -> None:
    documents = [line.split() for line in (FIXED / "text.txt").read_text().splitlines()][:40]
    _, _, found = trained(tmp_path, documents, 3, (0, 0, 1))
    words = [gram[0] for gram in found if len(gram) == 1 and gram != ("<s>",)]

    def log10(context: Gram, word: str) -> float:
        if (*context, word) in found:
            return found[*context, word][0]
        return found.get(context, (0.0, 0.0))[1] + log10(context[1:], word)

    for context in [(), ("<s>",), ("<s>", documents[0][0]), tuple(documents[3][2:4]), ("<unk>", documents[0][1])]:
        assert sum(10 ** log10(context, word) for word in words) == pytest.approx(1, abs=1e-5)


def corpus(megabytes: float = 0.6) -> list[str]:
    """Python sources that every machine has."""
    texts, size = [], 0.0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        texts.append(path.read_text("utf-8", "replace"))
        size += len(texts[-1]) / 1e6
        if size > megabytes:
            break
    return texts


@pytest.mark.parametrize("order", [3, 6])  # 36 bits, and 72: keys of two sizes
def test_model_is_the_same_for_any_memory_threads_and_batches(tmp_path: Path, order: int) -> None:
    texts = corpus(0.3)
    vocabulary = Vocabulary(1 << 20, 1, tmp_path)
    vocabulary.add(texts)
    units, _ = vocabulary.units(4096)
    data = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, data)])
    made: list[tuple[list[dict[str, Any]], bytes]] = []
    for memory, threads, step in ((1 << 28, 1, len(texts)), (1 << 20, 1, 1), (1 << 20, 3, 5)):
        trainer = _C.ngram.Trainer(units, order, [0, 0, 1], memory, threads, str(tmp_path))
        for first in range(0, len(texts), step):
            trainer.add(b"".join(data), offsets[first : first + step + 1])
        orders = trainer.estimate()
        path = tmp_path / f"{len(made)}.lm"
        trainer.write(str(path), "", "{}", _C.ngram.WriterOptions())
        made.append((orders, path.read_bytes()))
        # A megabyte holds no part of this: runs went to the disk and were merged, some of them twice.
        assert bool(trainer.spilled) == (memory == 1 << 20)
    assert made[0] == made[1] == made[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.lm", "1.lm", "2.lm"]


def test_vocabulary_has_the_commonest_words(tmp_path: Path) -> None:
    from collections import Counter

    texts = corpus(0.3)
    lexical = _C.ngram.Units("lexical")
    counted: Counter[bytes] = Counter()
    for text in texts:
        data = text.encode()
        for begin, end in lexical.encode_spans(data)[1].tolist():
            if (chr(data[begin]).isalnum() or data[begin] in b"_" or data[begin] > 127) and end - begin <= 64:
                counted[data[begin:end]] += 1
    ranked = sorted((-count, word) for word, count in counted.items() if count >= 3)
    for memory, threads in ((1 << 28, 1), (1 << 20, 3)):
        counter = _C.ngram.WordCounter(threads, memory, str(tmp_path))
        for text in texts:
            counter.add(text.encode(), np.array([0, len(text.encode())]))
        found = counter.commonest(200, 3)
        assert found["words"] == [word for _, word in ranked[:200]]
        assert found["types"] == len(counted)
        assert found["occurrences"] == counted.total()
        assert found["covered"] == -sum(count for count, _ in ranked[:200])


def test_units_of_another_model_and_bytes(tmp_path: Path) -> None:
    texts = corpus(0.1)
    one = train(texts, tmp_path / "one.lm")
    assert 0 < one.covered <= 1
    units = _C.ngram.Units.deserialize(_C.ngram.Model(str(tmp_path / "one.lm"), True).units.serialize())
    two = train(texts[:1], tmp_path / "two.lm", units=units)
    assert (two.units, two.types) == (one.units, 0)
    third = train(texts, tmp_path / "bytes.lm", Settings(units="bytes", order=2, quantize=True))
    assert third.units == 259
    assert third.tokens == third.bytes + third.documents


def test_unseen_units_have_the_probability_of_unknown(tmp_path: Path) -> None:
    train(["a b"] * 5, tmp_path / "m.lm", units=_C.ngram.Units("words", [b"a", b"b", b"never"]))
    model = _C.ngram.Model(str(tmp_path / "m.lm"), True)
    ids = np.array([5, 0], np.uint32)
    scores = model.score_ids(ids, np.array([0, 1, 2]), False, False)["log10"].reshape(-1)
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Settings(order=0), "order 0: give 1 to 6"),
        (Settings(order=7), "order 7"),
        (Settings(prune=(1,)), "prune 1: give at most 3 numbers that do not fall, the first 0"),
        (Settings(prune=(0, 2, 1)), "do not fall"),
        (Settings(prune=(0, 0, 0, 1)), "at most 3"),
        (Settings(vocabulary=10), "vocabulary 10"),
        (Settings(memory=1 << 20), "too little"),
        (Settings(units="letters"), "lexical, bpe, bytes"),
        (Settings(threads=0), "threads 0"),
        (Settings(units="bpe"), "tokenizer"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, chosen: Settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(["a"], tmp_path / "m.lm", chosen)
    assert not list(tmp_path.iterdir())


def test_no_text_no_folder_and_special_ids(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to train on"):
        train([], tmp_path / "m.lm")
    with pytest.raises(UserError, match="no such directory"):
        train(["a"], tmp_path / "nowhere" / "m.lm")
    assert not list(tmp_path.iterdir())
    trainer = _C.ngram.Trainer(_C.ngram.Units("bytes"), 3, [], 1 << 20, 1, str(tmp_path))
    for bad in (1, 259):
        with pytest.raises(ValueError, match=f"{bad} is no unit"):
            trainer.add_ids(np.array([5, bad], np.uint32), np.array([0, 2]))


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    summary, _, found = trained(tmp_path, [[], [], ["a"]], 3)
    assert summary.documents == 3
    assert ("<s>", "</s>") in found


FULL = """
import resource, signal, sys
from codeshell.errors import UserError
from codeshell.ngram import training

# As a full disk: no file may grow beyond a megabyte.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
training.PROCESS_MEMORY = training.LEAST_MEMORY - (1 << 20)
text = "".join(f"name{i} = other{i * 7919 % 1000} + {i}\\n" for i in range(80_000))
try:
    training.train([text], sys.argv[1] + "/m.lm", training.Settings(memory=training.LEAST_MEMORY))
except (UserError, OSError) as error:
    print(error)
"""


def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout
    assert "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


LONG_CALL = """
import sys
import numpy as np
from codeshell import _C

data = b"".join(b"name%d = %d\\n" % (i, i) for i in range(3000)) * 400
offsets = np.linspace(0, len(data), 2000).astype(np.int64)
trainer = _C.ngram.Trainer(_C.ngram.Units("bytes"), 6, [], 1 << 26, 1, sys.argv[1])
try:
    print("begun", flush=True)
    for _ in range(100):
        trainer.add(data, offsets)
    print("ended")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_long_call(tmp_path: Path) -> None:
    assert interrupted(LONG_CALL, str(tmp_path)) == "interrupted\n"
    assert not list(tmp_path.iterdir())
