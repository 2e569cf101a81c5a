"""The tokens stage: one token shard a curated shard, the same bytes however it was run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeshell.data import tokens
from codeshell.documents.shards import DOCUMENTS, document_id, shard_path, write_rows
from codeshell.documents.token_shards import TokenCorpus, TokenShard
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.train import train

TEXTS = [f"<fim_prefix>def f{i}():\n\treturn '你好' * {i}\x0c\n" for i in range(30)] + [""]
RECIPE = Recipe()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXTS], 300)


def make_run(directory: Path, tokenizer: Tokenizer) -> Path:
    (directory / "curated").mkdir(parents=True)
    tokenizer.save(directory / "tokenizer")
    shards = [("train", 0, TEXTS[:14]), ("train", 1, TEXTS[14:26]), ("valid", 0, TEXTS[26:]), ("test", 0, [])]
    for split, index, texts in shards:
        rows: list[dict[str, object]] = [
            {"id": document_id(t.encode()), "repo": "r", "path": "p.py", "language": "python", "text": t}
            | {"bytes": len(t.encode())}
            for t in texts
        ]
        write_rows(shard_path(directory / "curated", split, index), DOCUMENTS, rows)
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "tokens").iterdir())}


def test_every_document_is_there_with_its_exact_text(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "GROUP_BYTES", 150)
    monkeypatch.setattr(tokens, "BATCH", 3)
    directory = make_run(tmp_path, tokenizer)
    statistics = tokens.run(RECIPE, directory, LocalEngine(1))
    paths = [directory / "tokens" / f"{name}.tokens" for name in ("train-00000", "train-00001", "valid-00000")]
    corpus = TokenCorpus(paths, tokenizer.hash)
    assert len(corpus) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        ids = corpus.document(i).tolist()
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert not set(ids) & set(tokenizer.specials.values())
        assert corpus.document_id(i) == document_id(text.encode())
        assert corpus.document_bytes(i) == len(text.encode())
    for path in paths:
        TokenShard(path, verify=True)
    nothing = {"missing_bytes": {"documents": 0, "bytes": 0}}
    assert statistics["train"] == {
        "documents": 26,
        "tokens": sum(len(tokenizer.encode(text)) for text in TEXTS[:26]),
        "bytes": len("".join(TEXTS[:26]).encode()),
        "dropped": nothing,
    }
    assert statistics["valid"]["documents"] == 5
    assert statistics["test"] == {"documents": 0, "tokens": 0, "bytes": 0, "dropped": nothing}
    assert statistics["tokenizer_hash"] == tokenizer.hash
    assert TokenShard(directory / "tokens" / "test-00000.tokens", verify=True).n_documents == 0


def test_workers_kills_and_resumes_change_no_byte(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, killed = (make_run(tmp_path / name, tokenizer) for name in ("one", "two", "killed"))
    expected = tokens.run(RECIPE, one, LocalEngine(1))
    assert tokens.run(RECIPE, two, LocalEngine(2)) == expected

    # Killed while the second shard was being written: its temporary file stays, and the third was never begun.
    original = tokens.tokenize_shard

    def stop_at_second(task: tokens.Task) -> dict[str, object]:
        if task.target.name == "train-00001.tokens":
            task.target.with_name(task.target.name + ".partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return original(task)

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "tokenize_shard", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            tokens.run(RECIPE, killed, LocalEngine(1))
    assert sorted(files(killed)) == ["tokens-00000.json", "train-00000.tokens", "train-00001.tokens.partial"]
    assert tokens.run(RECIPE, killed, LocalEngine(1)) == expected
    assert files(one) == files(two) == files(killed)
    assert not any(name.endswith(".partial") for name in files(killed))

    monkeypatch.setattr(tokens, "tokenize_shard", None)  # all is done: nothing may be done again
    assert tokens.run(RECIPE, one, LocalEngine(1)) == expected


def test_documents_the_tokenizer_would_change_are_left_out_and_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    # As the released tokenizer lacks the form feed, so does this one.
    tokenizer.save(tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    symbol = chr(0x100 + 12)
    # Its merge, if it was learnt, goes with it.
    tree["model"]["merges"] = [pair for pair in tree["model"]["merges"] if symbol not in "".join(pair)]
    tree["model"]["vocab"] = {name: index for name, index in tree["model"]["vocab"].items() if symbol not in name}
    lacking = Tokenizer(json.dumps(tree))
    assert lacking.missing_bytes == b"\x0c"
    statistics = tokens.run(RECIPE, make_run(tmp_path / "run", lacking), LocalEngine(1))
    size = len("".join(TEXTS[:26]).encode())
    assert statistics["train"]["documents"] == 0
    assert statistics["train"]["dropped"] == {"missing_bytes": {"documents": 26, "bytes": size}}
    assert statistics["valid"]["documents"] == 1  # the empty text
    assert statistics["valid"]["dropped"]["missing_bytes"]["documents"] == 4


def test_a_missing_stage_before_is_reported(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tokenizer"):
        tokens.run(RECIPE, tmp_path, LocalEngine(1))
    directory = make_run(tmp_path / "a", tokenizer)
    for path in (directory / "curated").glob("train-*"):
        path.unlink()
    with pytest.raises(UserError, match="no training shards"):
        tokens.run(RECIPE, directory, LocalEngine(1))
    directory = make_run(tmp_path / "b", tokenizer)
    shard_path(directory / "curated", "valid", 0).write_bytes(b"not Parquet")
    with pytest.raises(UserError, match="valid-00000"):
        tokens.run(RECIPE, directory, LocalEngine(1))
    assert not (directory / "tokens" / "valid-00000.tokens").exists()


def test_special_tokens_of_a_commit_are_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    directory = make_run(tmp_path, tokenizer)
    text = "<commit_before>x = 1\n<commit_msg>Say why<commit_after>x = 2\n"
    rows: list[dict[str, object]] = [
        {"id": document_id(f"{language}".encode()), "repo": "r", "path": "p.py", "language": language, "text": text}
        | {"bytes": len(text)}
        for language in ("git-commits", "python")
    ]
    write_rows(shard_path(directory / "curated", "train", 0), DOCUMENTS, rows)
    tokens.run(RECIPE, directory, LocalEngine(1))
    corpus = TokenCorpus([directory / "tokens/train-00000.tokens"], tokenizer.hash)
    commit, program = (corpus.document(i).tolist() for i in (0, 1))
    assert tokenizer.decode(commit) == tokenizer.decode(program) == text
    marks = [tokenizer.specials[name] for name in ("<commit_before>", "<commit_msg>", "<commit_after>")]
    assert [token for token in commit if token in set(tokenizer.specials.values())] == marks
    assert program == tokenizer.encode(text)
