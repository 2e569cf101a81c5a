"""Training: deterministic, bounded by its sample, resumable, measured on held-out text."""

from __future__ import annotations

import hashlib
import itertools
import json
import keyword
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from helpers.long_runs import long_runs
from tokenizers import pre_tokenizers

from codeshell.documents.shards import DOCUMENTS, document_id, shard_path, write_rows
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.recipe import Tokenizer as Settings
from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
from codeshell.tokenizer.statistics import Meter, table
from codeshell.tokenizer.train import LONGEST_WORD, _pieces, choose, run, train

STDLIB = Path(os.__file__).parent
WORDS_OF = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
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


def test_threads_change_no_byte(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from codeshell.tokenizer.train import train\n"
        "texts = [p.read_text(encoding='utf-8') for p in sorted(Path(sys.argv[1]).glob('a*.py'))]\n"
        "train([texts], 1500).save(sys.argv[2])\n"
    )
    digests = set()
    for threads in ("1", "2"):
        out = tmp_path / threads
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        subprocess.run([sys.executable, "-c", script, str(STDLIB), str(out)], check=True, env=environment)
        digests.add(hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest())
    assert len(digests) == 1


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
    # 24 runs of 300,000 characters take half a minute on a busy core. A single one of the quadratic kind took longer.
    subprocess.run([sys.executable, "-c", LINEAR, "300000"], check=True, timeout=400, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("name", ["letters", "spaces", "white space", "punctuation", "separators", "cjk", "emoji"])
def test_only_words_beyond_the_limit_are_cut(name: str) -> None:
    run = long_runs(LONGEST_WORD)[name]
    words = [f"x{n} = call_{n}(a, 'b')  # it's\n" for n in range(100)]
    before, after = "".join(words[:60]), "".join(words[60:])
    cut = _pieces(before + run * 3 + after, WORDS_OF)
    assert "".join(cut) == before + run * 3 + after
    assert 3 <= len(cut) <= 4
    split = WORDS_OF.pre_tokenize_str
    whole = Counter(word for word, _ in split(before + run * 3 + after) if len(word) < LONGEST_WORD)
    parts = Counter(word for piece in cut for word, _ in split(piece) if len(word) < LONGEST_WORD)
    assert not whole - parts  # every other word is still there


def test_text_without_long_words_is_never_cut() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(STDLIB.glob("a*.py"))]
    texts += ["word" * 249, "x = '" + "ab1+" * 5000 + "'", "'s" * 3000, " ".join(["a" * 999] * 9), "12345" * 1000]
    assert all(_pieces(text, WORDS_OF) == [text] for text in texts)
    assert len(_pieces("a" * 2001, WORDS_OF)) == 3


def test_a_run_in_a_corpus_leaves_the_vocabulary_of_the_rest() -> None:
    # Too short for a cut, the run is learnt from whole; with cuts, the merges of the other text are the same.
    run = "ACGT" * 400
    known = train([TEXTS, [run]], 320)
    assert known.hash == train([TEXTS, [run[:1000], run[1000:]]], 320).hash
