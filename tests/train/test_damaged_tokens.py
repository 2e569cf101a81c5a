"""Token shards that are not what the tokens stage wrote: refused in one line, before the first step."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from helpers.tiny_run import byte_tokenizer, texts, write_run

from codeshell.documents.token_shards import HEADER_BYTES, TokenCorpus
from codeshell.errors import UserError
from codeshell.train import run


def flip(path, value=None):
    """Change one token; by default to one that is in the vocabulary, too."""
    data = bytearray(path.read_bytes())
    at = HEADER_BYTES + 2 * 40
    old = struct.unpack_from("<H", data, at)[0]
    data[at : at + 2] = struct.pack("<H", old ^ 1 if value is None else value)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train-00000", "train-00001", "valid-00000"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "content is damaged"),
        (lambda path: flip(path, 0xFFFF), "content is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "too long"),
        (lambda path: path.write_bytes(b""), "not a token shard"),
        (lambda path: path.write_bytes(b"<html>"), "not a token shard"),
        (lambda path: shutil.copy(path.with_name("other.tokens"), path), "made with tokenizer"),
    ],
)
def test_a_shard_that_is_not_whole(tiny, tmp_path, name, damage, message):
    recipe, directory = tiny()
    write_run(tmp_path / "foreign", byte_tokenizer([("a", "b")]), texts(60), texts(12, "v"))
    shutil.copy(tmp_path / "foreign" / "tokens" / f"{name}.tokens", directory / "tokens" / "other.tokens")
    path = directory / "tokens" / f"{name}.tokens"
    damage(path)
    with pytest.raises(UserError, match=rf"{path}: .*{message}.*again") as caught:
        run(recipe, directory, None)
    assert "\n" not in str(caught.value)
    assert not (directory / "train" / "log.jsonl").exists() and not (directory / "model").exists()


@pytest.mark.parametrize("change", ["a shard is gone", "all are gone", "two splits are swapped"])
def test_shards_that_are_whole_and_not_those_of_the_run(tiny, change):
    recipe, directory = tiny()
    tokens = directory / "tokens"
    stats = {}
    for split in ("train", "valid"):
        corpus = TokenCorpus(sorted(tokens.glob(f"{split}-*")))
        stats[split] = {"documents": len(corpus), "tokens": corpus.n_tokens}
    (tokens / "stats.json").write_text(json.dumps(stats))
    if change == "two splits are swapped":
        (tokens / "valid-00000.tokens").rename(tokens / "x")
        (tokens / "train-00000.tokens").rename(tokens / "valid-00000.tokens")
        (tokens / "x").rename(tokens / "train-00000.tokens")
    else:
        for path in sorted(tokens.glob("train-*"))[0 if change == "all are gone" else 1 :]:
            path.unlink()
    with pytest.raises(UserError, match=r"tokens: the train shards hold .* but the tokens stage wrote 60 .*delete it"):
        run(recipe, directory, None)
