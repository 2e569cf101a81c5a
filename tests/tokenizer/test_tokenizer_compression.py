"""Tokenizers side by side: counts that a reader can do by hand, and the command's table."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from codeshell.cli import main
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.compression import Comparison, table
from codeshell.tokenizer.extend import extend
from codeshell.tokenizer.train import train
from tests.helpers.hub_tokenizers import LINES, tree

CHINESE = ["# 返回列表中所有的值\nreturn sum(values)\n", "的值\U00020000 x\x0c"]
CODE = ["def f(x):\n    return x\n" * 3]


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return train([CODE], 270)


def test_counts_are_those_of_the_texts(base: Tokenizer) -> None:
    larger = extend(base, [CHINESE * 3], 300).tokenizer
    comparison = Comparison({"base": base, "larger": larger})
    comparison.add("chinese", [CHINESE[:1], CHINESE[1:]])
    comparison.add("code", [CODE])
    result = comparison.result()
    chinese = result["corpora"]["chinese"]
    assert (chinese["documents"], chinese["chinese"]) == (2, 9 + 3)
    assert chinese["characters"] == sum(map(len, CHINESE))
    assert chinese["bytes"] == sum(len(text.encode()) for text in CHINESE)
    for name, tokenizer in (("base", base), ("larger", larger)):
        row = chinese["tokenizers"][name]
        assert row["tokens"] == sum(len(tokenizer.encode(text)) for text in CHINESE)
        assert row["characters_per_token"] == round(chinese["characters"] / row["tokens"], 5)
        # Tokens that hold a byte of a Chinese character, counted from the bytes of each token.
        holding = 0
        for text in CHINESE:
            data = text.encode()
            marks = [byte for char in text for byte in [char >= "\u3400"] * len(char.encode())]
            at = 0
            for index in tokenizer.encode(text):
                end = at + len(tokenizer.decode_bytes([index]))
                holding += any(marks[at:end])
                at = end
            assert at == len(data)
        assert row["chinese_tokens"] == holding
        assert row["chinese_per_token"] == round(12 / holding, 5)
    assert chinese["tokenizers"]["base"]["tokens_to_first"] == 1
    code = result["corpora"]["code"]["tokenizers"]["larger"]
    assert (code["tokens_to_first"], code["chinese_per_token"]) == (1, None)
    total = result["corpora"]["total"]
    assert total["documents"] == 3 and "sha256" not in total
    assert total["tokenizers"]["base"]["tokens"] == sum(
        result["corpora"][name]["tokenizers"]["base"]["tokens"] for name in ("chinese", "code")
    )
    lines = table(result).splitlines()
    assert len(lines) == 1 + 6 + 2 and "12 Chinese" in lines[-2]


def test_the_hash_of_a_corpus_is_that_of_its_texts(base: Tokenizer) -> None:
    def digest(*batches: list[str]) -> str:
        comparison = Comparison({"base": base})
        comparison.add("c", batches)
        return str(comparison.result()["corpora"]["c"]["sha256"])

    assert digest(["a", "b"]) == digest(["b"], ["a"]) != digest(["a", "b", "b"])


@pytest.mark.filterwarnings("ignore:the tokenizer has no symbol")
def test_tokenizers_that_drop_or_change_bytes_are_measured(base: Tokenizer) -> None:
    file = json.loads(base.source)
    del file["model"]["vocab"]["Č"]  # the form feed
    lossy, normalizing = Tokenizer(json.dumps(file)), Tokenizer(json.dumps(tree("qwen2")))
    comparison = Comparison({"lossy": lossy, "qwen2": normalizing})
    comparison.add("c", [["值\x0c的", "e\u0301值 \u212b"]])
    rows = comparison.result()["corpora"]["c"]["tokenizers"]
    assert (rows["lossy"]["lost_bytes"], rows["qwen2"]["lost_bytes"]) == (1, 0)
    assert rows["lossy"]["chinese_tokens"] == 9 and 0 < rows["qwen2"]["chinese_tokens"] <= 9


def test_the_command_compares(base: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base.save(tmp_path / "base")
    extend(base, [LINES * 3], 300).tokenizer.save(tmp_path / "larger")
    (tmp_path / "a.md").write_text(CHINESE[0], encoding="utf-8")
    (tmp_path / "b.py").write_text(CODE[0])
    arguments = ["tokenizer", "compare", str(tmp_path / "base"), f"ours={tmp_path / 'larger'}"]
    corpora = ["--corpus", f"chinese={tmp_path / 'a.md'}", "--corpus", f"code={tmp_path / 'b.py'}"]
    assert main([*arguments, *corpora, "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "ours" in out and "total" in out
    said = json.loads((tmp_path / "out.json").read_text())
    assert list(said["tokenizers"]) == ["base", "ours"] and said["corpora"]["chinese"]["chinese"] == 9
    with warnings.catch_warnings():
        for more, message in (
            (["--corpus", "x"], "give NAME=PATH"),
            (["--corpus", f"total={tmp_path}"], "other than 'total'"),
            (["--corpus", f"c={tmp_path / 'none'}"], "none"),
        ):
            assert main([*arguments, *more]) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1
    assert main([*arguments, str(tmp_path / "base"), *corpora]) == 2
    assert "a second tokenizer of the name 'base'" in capsys.readouterr().err
