"""`codeshell quality train --encoder`: the trees and an encoder in one command, and bad arguments in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import tiny_encoders

from codeshell.cli import main
from codeshell.scorers import encoder_model, make


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty labels of six repositories, and a tiny encoder."""
    home = tmp_path_factory.mktemp("labels")
    tiny_encoders.write(home / "bert", "bert")
    rows = []
    for n in range(60):
        lines = ["# comments and words" if (line * 7 + n) % 6 < n % 6 else f"x{n} = x + {line}" for line in range(9)]
        rows.append({"id": f"{n}", "repo": f"r{n % 6}", "path": f"{n}.py", "language": "python", "score": n % 6})
        rows[-1] |= {"text": "\n".join(lines) + "\n", "value": n % 6, "why": "", "annotations": 1}
    (home / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def run(home: Path, *more: str) -> int:
    quick = ("--scorers", "lexical", "--repeats", "1", "--folds", "3", "--trees", "5", "--bags", "1", "--threads", "1")
    return main(["quality", "train", str(home / "labels.jsonl"), "-o", str(home / "my.model"), *quick, *more])


def test_trees_and_encoder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "--encoder", str(home / "bert"), "--window", "64", "--windows", "2") == 0
    out = capsys.readouterr().out
    assert "encoder alone: Spearman" in out and "joined: Spearman" in out and "my.model.encoder" in out
    model = encoder_model.load(home / "my.model.encoder")
    assert model.outputs == ("quality", "value") and len(model.band) == encoder_model.QUANTILES
    assert set(model.metrics["out_of_fold"]) == {"encoder", "trees", "mean", "joined", "value"}
    # The scorers that read both models agree on the columns' names.
    scorer = make("encoder", {"model": str(home / "my.model.encoder"), "band": 5})
    assert list(scorer.needs) == ["quality"]
    table = pa.table({"text": ["x = 1"], "language": ["python"], "quality": [2.0]})
    assert scorer.score(table)["joined_quality"].to_pylist()[0] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--finetune",), "--finetune: there is no encoder"),
        (("--encoder", "no/such"), "no/such: no such directory"),
        (("--encoder", "BERT", "--window", "500"), "--window 500: give 64 to 128"),
        (("--encoder", "BERT", "--windows", "0"), "--windows 0"),
        (("--encoder", "BERT", "--epochs", "0"), "--epochs 0"),
        (("--encoder", "BERT", "--batch", "0"), "--batch 0"),
        (("--encoder", "BERT", "--encoder-rate", "0"), "--encoder-rate 0"),
    ],
)
def test_bad_arguments_are_one_line_before_any_work(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(home, *(str(home / "bert") if word == "BERT" else word for word in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
