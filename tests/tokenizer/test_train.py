"""Training: deterministic, bounded by its sample, resumable, measured on held-out text."""

from __future__ import annotations

import itertools
import json
import keyword
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from helpers.library_training import library_training
from helpers.long_runs import long_runs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.documents.shards import DOCUMENTS, document_id, shard_path, write_rows
from codeshell.documents.texts import text_buffers
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.recipe import Tokenizer as Settings
from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
from codeshell.tokenizer.encoder import tokenizer_threads
from codeshell.tokenizer.statistics import Meter, table
from codeshell.tokenizer.train import LONGEST_WORD, choose, run, train

STDLIB = Path(os.__file__).parent
ENGINE = LocalEngine(1)


def rows(texts: list[str], language: str = "python") -> list[dict[str, object]]:
    return [
        {"id": document_id(t.encode()), "repo": "r", "path": f"{i}.py", "language": language, "text": t}
        | {"bytes": len(t.encode())}
        for i, t in enumerate(texts)
    ]


def curated(directory: Path, **splits: list[list[dict[str, object]]]) -> Path:
    (directory / "curated").mkdir(parents=True)
    for split, shards in splits.items():
        for index, shard in enumerate(shards):
            write_rows(shard_path(directory / "curated", split, index), DOCUMENTS, shard)
    return directory


WORDS = keyword.kwlist
TEXTS = [f"def {WORDS[i % 16]}_{i}({WORDS[i % 5]}):\n    return {WORDS[i // 4]} + {i}  # 你好\n" for i in range(40)]


def recipe(**settings: Any) -> Recipe:
    return Recipe(tokenizer=Settings(**({"base_vocab_size": 300} | settings)))


def test_every_merge_is_a_most_frequent_pair(tmp_path: Path) -> None:
    # Byte-pair encoding by its definition (Sennrich et al. 2016): count the pairs in all words, merge one of the most
    # frequent, count again. Replayed merge by merge, so that ties may fall as they like.
    train([TEXTS], 300).save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == 300 - 256
    cut = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer
    words = Counter(tuple(piece) for text in TEXTS for piece, _ in cut.pre_tokenize_str(text))
    for merge in merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        assert pairs[tuple(merge)] == max(pairs.values()) >= 2
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            out: list[str] = []
            i = 0
            while i < len(word):
                both = word[i : i + 2] == tuple(merge)
                out.append(word[i] + word[i + 1] if both else word[i])
                i += 2 if both else 1
            merged[tuple(out)] += count
        words = merged


def test_fewer_merges_than_asked_put_the_specials_directly_after() -> None:
    small = train([["aaaa bbbb", "aaaa bbbb"]], 5000)
    assert 256 < small.base_vocab_size < 270
    assert small.specials["<|endoftext|>"] == small.base_vocab_size
    assert small.vocab_size == small.base_vocab_size + len(SPECIAL_TOKENS)
    assert train([["abcdefgh"]], 300).base_vocab_size == 256  # every pair of it occurs once
    nothing = train([], 300)
    assert (nothing.base_vocab_size, nothing.vocab_size) == (256, 276)
    assert nothing.decode(nothing.encode("né")) == "né"
    with pytest.raises(ValueError, match="256"):
        train([], 255)


def test_order_and_batches_do_not_matter() -> None:
    one = train([TEXTS], 350)
    assert one.hash == train([[text] for text in reversed(TEXTS)], 350).hash
    assert one.hash != train([TEXTS[:20]], 350).hash


def test_an_error_while_reading_is_raised_as_it_is() -> None:
    def broken() -> Any:
        yield TEXTS
        raise UserError("shard 2 is damaged; delete it")

    with pytest.raises(UserError, match="shard 2"):
        train(broken(), 300)


def test_threads_change_no_byte() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(STDLIB.glob("a*.py"))]
    made = []
    for threads in (1, 3):
        with tokenizer_threads(threads):
            made.append(our_bytes(texts, 1500))
    assert made[0] == made[1]


def test_the_sample_is_bounded_nested_and_free_of_sharding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeshell.tokenizer.train.ROWS", 7)
    everything = rows(TEXTS)
    one = curated(tmp_path / "a", train=[everything])
    many = curated(tmp_path / "b", train=[everything[30:], [], everything[:30]])
    total = sum(len(text.encode()) for text in TEXTS)

    def chosen(directory: Path, max_bytes: int, seed: int = 1) -> set[str]:
        paths = sorted((directory / "curated").glob("train-*"))
        sample = choose(paths, seed=seed, purpose="tokenizer", max_bytes=max_bytes)
        texts = [text for batch in sample.batches(["text"]) for text in batch.column("text").to_pylist()]
        assert sample.documents == len(texts) == len(set(texts))
        assert sample.bytes == sum(len(text.encode()) for text in texts) <= max_bytes
        return set(texts)

    assert chosen(one, total) == set(TEXTS)
    half, third = chosen(one, total // 2), chosen(one, total // 3)
    assert third < half < set(TEXTS)
    assert len(half) > 15
    assert chosen(many, total // 2) == half
    assert chosen(one, total // 2, seed=2) != half
    assert chosen(one, 10) == set()


def test_run_trains_on_train_alone_and_measures_valid(tmp_path: Path) -> None:
    held_out = rows(["held_out_word = 1\n" * 5], "python") + rows(["int x = 2; // é\n"], "c")
    directory = curated(tmp_path, train=[rows(TEXTS[:20]), rows(TEXTS[20:])], valid=[held_out])
    statistics = run(recipe(), directory, ENGINE)
    tokenizer = Tokenizer.load(directory / "tokenizer")
    assert tokenizer.hash == train([TEXTS], 300).hash == statistics["hash"]
    assert (statistics["vocab_size"], statistics["base_vocab_size"]) == (320, 300)
    assert (statistics["trained_on_documents"], statistics["trained_on_bytes"]) == (40, len("".join(TEXTS).encode()))
    assert statistics["measured_on"] == "valid"
    assert set(statistics["by_language"]) == {"python", "c"}
    c = statistics["by_language"]["c"]
    assert (c["characters"], c["bytes"]) == (16, 17)
    assert c["tokens"] == len(tokenizer.encode("int x = 2; // é\n"))
    assert c["characters_per_token"] == round(16 / c["tokens"], 4)
    assert statistics["train_sample"]["documents"] == 40
    json.dumps(statistics, allow_nan=False)


def test_run_goes_on_where_it_was_killed_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = curated(tmp_path, train=[rows(TEXTS)], valid=[rows(["x = 1\n"])])
    save = Tokenizer.save

    def killed(self: Tokenizer, where: str | Path) -> None:
        save(self, where)
        (Path(where) / "tokenizer.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(), directory, ENGINE)
    first = run(recipe(), directory, ENGINE)
    data = (directory / "tokenizer" / "tokenizer.json").read_bytes()
    monkeypatch.setattr("codeshell.tokenizer.train.train", None)  # must not be needed again
    assert run(recipe(), directory, ENGINE) == first
    assert (directory / "tokenizer" / "tokenizer.json").read_bytes() == data


def test_run_adopts_a_tokenizer(tmp_path: Path) -> None:
    train([TEXTS], 280).save(tmp_path / "mine")
    directory = curated(tmp_path / "run", train=[rows(TEXTS)], valid=[[]])
    statistics = run(recipe(path=str(tmp_path / "mine")), directory, ENGINE)
    assert Tokenizer.load(directory / "tokenizer").hash == Tokenizer.load(tmp_path / "mine").hash
    assert (statistics["trained"], statistics["trained_on_bytes"], statistics["vocab_size"]) == (False, 0, 300)
    assert statistics["measured_on"] == "train"  # no held-out document here
    assert statistics["by_language"]["python"]["documents"] == 40
    with pytest.raises(UserError, match="no such tokenizer"):
        run(recipe(path=str(tmp_path / "none")), curated(tmp_path / "other", train=[rows(TEXTS)]), ENGINE)


def test_run_without_training_text_is_refused(tmp_path: Path) -> None:
    for name, shards in (("none", []), ("empty", [[]])):
        with pytest.raises(UserError, match="no training document"):
            run(recipe(), curated(tmp_path / name, train=shards), ENGINE)
    with pytest.raises(UserError, match="sample_bytes = 5"):
        run(recipe(sample_bytes=5), curated(tmp_path / "small", train=[rows(TEXTS)]), ENGINE)
    damaged = curated(tmp_path / "damaged", train=[rows(TEXTS)])
    shard_path(damaged / "curated", "train", 0).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="train-00000"):
        run(recipe(), damaged, ENGINE)


def test_the_meter_is_table_2s_ratio_of_sums() -> None:
    tokenizer = train([TEXTS], 300)
    meter = Meter(tokenizer)
    meter.add(["a", "b"], ["xyz", "你好"])
    meter.add([None, "a"], ["", "123456"])
    result = meter.result()
    tokens = [len(tokenizer.encode(text)) for text in ("xyz", "你好", "", "123456")]
    assert result["characters_per_token"] == round(11 / sum(tokens), 4)
    assert result["bytes_per_token"] == round(15 / sum(tokens), 4)
    assert result["by_language"]["a"]["characters_per_token"] == round(9 / (tokens[0] + tokens[3]), 4)
    assert result["by_language"]["unknown"] == {
        "documents": 1,
        "characters": 0,
        "bytes": 0,
        "tokens": 0,
        "characters_per_token": None,
        "bytes_per_token": None,
    }
    used = {index for text in ("xyz", "你好", "123456") for index in tokenizer.encode(text)}
    assert result["vocabulary_used"] == round(len(used) / 300, 6)
    lines = table(result).splitlines()
    assert [line.split()[0] for line in lines] == ["language", "a", "b", "unknown", "total"]
    assert lines[-1].split()[1:4] == ["4", "15", str(sum(tokens))]


LINEAR = """
import sys
from codeshell.tokenizer.train import train
from helpers.long_runs import long_runs

for name, text in long_runs(int(sys.argv[1])).items():
    tokenizer = train([[text, "def f():"]], 500)
    assert tokenizer.decode(tokenizer.encode(text)) == text, name
"""


def test_a_long_run_of_any_class_is_learnt_from_and_encoded_in_linear_time() -> None:
    # 24 runs of 200,000 characters take three seconds on a busy core. A single one of the quadratic kind took longer.
    subprocess.run([sys.executable, "-c", LINEAR, "200000"], check=True, timeout=200, cwd=Path(__file__).parents[1])


def library_bytes(texts: list[str], size: int) -> str:
    return library_training([texts], size, LONGEST_WORD)


def our_bytes(texts: list[str], size: int) -> str:
    return str(train([texts], size).__reduce__()[1][0])


def test_it_is_the_library_s_training_byte_for_byte() -> None:
    # Real code, with Chinese, long words of every class that are cut, and words just below and above the length.
    texts = [path.read_text(encoding="utf-8") for path in sorted(STDLIB.glob("a*.py"))] + TEXTS
    for name, long in long_runs(2 * LONGEST_WORD + 7).items():
        texts += [f"x = 1  # it's {name}\n{long}\n\n{name} + 2", long[: LONGEST_WORD - 1], long[: LONGEST_WORD + 1]]
    assert our_bytes(texts, 1500) == library_bytes(texts, 1500)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(st.text("ab c1-é", max_size=40), max_size=12), size=st.integers(256, 330))
@example(["abab", "aab", "aaaa aaa", "abcabc bcbc ab", "cabc"], 330)
@example(["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"], 300)
def test_ties_repeats_and_exhausted_texts_are_learnt_as_the_library_learns(texts: list[str], size: int) -> None:
    assert our_bytes(texts, size) == library_bytes(texts, size)


def test_words_that_overlap_with_themselves_are_learnt_as_the_library_learns_them() -> None:
    # Two letters and long words: nearly every pair stands beside itself somewhere, and many counts are equal.
    noise = random.Random(11)
    texts = [" ".join("".join(noise.choices("ab", k=noise.randrange(2, 30))) for _ in range(300)) for _ in range(3)]
    assert our_bytes(texts, 900) == library_bytes(texts, 900)


def test_arrow_arrays_and_lists_are_the_same_texts() -> None:
    expected = our_bytes(TEXTS, 320)
    for array in (pa.array(TEXTS), pa.array(TEXTS, pa.large_string()), pa.chunked_array([TEXTS[:7], TEXTS[7:]])):
        assert str(train([array], 320).__reduce__()[1][0]) == expected
    with pytest.raises(ValueError, match="null"):
        train([pa.array(["a", None])], 300)


def test_words_are_counted_in_any_number_of_threads() -> None:
    counts = []
    for threads in (1, 2, 5):
        counter = _C.bpe.Counter("digits-gpt2", LONGEST_WORD)
        for piece in text_buffers(TEXTS * 3):
            counter.add(piece.data, piece.offsets, threads)
        words, offsets, times = counter.words()
        counts.append({words[a:b]: n for (a, b), n in zip(itertools.pairwise(offsets), times.tolist(), strict=True)})
        assert len(counter) == len(counts[-1])
    expected = Counter(word for text in TEXTS * 3 for word in _words(text))
    assert counts == [expected] * 3


def _words(text: str) -> list[bytes]:
    begins = _C.bpe.split("digits-gpt2", text.encode()).tolist()
    return [text.encode()[begin:end] for begin, end in itertools.pairwise(begins)]


def test_arguments_that_do_not_fit_are_refused() -> None:
    def learn(**changes: Any) -> Any:
        good: dict[str, Any] = {
            "tokens": np.array([0, 1, 0], np.uint32),
            "offsets": np.array([0, 2, 3]),
            "counts": np.array([3, 1]),
            "names": [b"a", b"b"],
            "size": 3,
            "least": 2,
        }
        return _C.bpe.learn(**(good | changes))

    names, merges = learn()
    assert (names, merges.tolist()) == ([b"a", b"b", b"ab"], [[0, 1, 2]])
    # A product that is a token already gets its id.
    assert learn(names=[b"a", b"b", b"ab"], size=4)[1].tolist() == [[0, 1, 2]]
    for name, value in [
        ("tokens", np.array([0, 9, 0], np.uint32)),
        ("offsets", np.array([0, 3, 2])),
        ("offsets", np.array([0, 2, 9])),
        ("counts", np.array([1])),
        ("counts", np.array([1, -1])),
        ("size", 0),
        ("least", 0),
    ]:
        with pytest.raises(ValueError, match=name):
            learn(**{name: value})
    with pytest.raises(ValueError, match="UTF-8"):
        _C.bpe.Counter("gpt2", 9).add(b"\xff", np.array([0, 1]))


def test_a_run_in_a_corpus_leaves_the_vocabulary_of_the_rest() -> None:
    # Too short for a cut, the run is learnt from whole; with cuts, the merges of the other text are the same.
    run = "ACGT" * 400
    known = train([TEXTS, [run]], 320)
    assert known.hash == train([TEXTS, [run[:1000], run[1000:]]], 320).hash
