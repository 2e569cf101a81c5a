"""`codeshell lm query`: lines and totals as KenLM's query has them."""

from __future__ import annotations

import io
from pathlib import Path

import kenlm
import pytest
from helpers.arpa_files import arpa, random_model

from codeshell.cli import main

LINES = ["w1 w2 w3", "other w4", "", "w5 w5 other w5"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "a.arpa").write_text(arpa(random_model(2, 3)))
    return str(tmp_path / "a.arpa")


def test_lines_and_totals(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    assert main(["lm", "query", model, str(tmp_path / "lines.txt")]) == 0
    reference = kenlm.Model(model)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == len(LINES) + 4
    for line, printed in zip(LINES, out, strict=False):
        _, total, _, unknown, _, perplexity = printed.split()
        assert float(total) == pytest.approx(reference.score(line), rel=1e-5)
        assert int(unknown) == line.split().count("other")
        assert float(perplexity) == pytest.approx(reference.perplexity(line), rel=1e-4)
    full = [item for line in LINES for item in reference.full_scores(line)]
    including = 10 ** (-sum(score for score, _, _ in full) / len(full))
    known = [score for score, _, unknown in full if not unknown]
    excluding = 10 ** (-sum(known) / len(known))
    assert float(out[-4].split("\t")[1]) == pytest.approx(including, rel=1e-4)
    assert float(out[-3].split("\t")[1]) == pytest.approx(excluding, rel=1e-4)
    assert out[-2:] == ["OOVs:\t2", f"Tokens:\t{len(full)}"]


def test_words_of_standard_input(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w1 other\n\xff\n")))
    assert main(["lm", "query", model, "-v", "--no-eos", "--no-bos"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    words = kenlm.Model(model).full_scores("w1 other", bos=False, eos=False)
    for shown, name, (score, length, _) in zip(first.split("\t"), ("w1", "<unk>"), words, strict=False):
        word, log10 = shown.split(" ")
        assert word == f"{name}={length}"
        assert float(log10) == pytest.approx(score, rel=1e-4)
    assert second.startswith("<unk>=1 ")


def test_no_lines_and_no_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert main(["lm", "query", model, str(tmp_path / "empty"), "--no-eos"]) == 0
    assert "Perplexity including OOVs:\tundefined" in capsys.readouterr().out
    assert main(["lm", "query", model, str(tmp_path / "no")]) == 2
    assert "no: No such file or directory; name a file of lines" in capsys.readouterr().err
