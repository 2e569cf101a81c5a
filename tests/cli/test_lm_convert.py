"""`codeshell lm convert`: there and back, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.arpa_files import ENDS, arpa, kenlm_binary, random_model

from codeshell.cli import main
from codeshell.ngram import LanguageModel

GRAMS = random_model(2, 3)


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.arpa").write_text(arpa(GRAMS))
    (tmp_path / "a.bin").write_bytes(kenlm_binary(GRAMS, [*ENDS, *(f"w{i}" for i in range(12))]))
    for source, target, flags in (
        ("a.arpa", "a.lm", ["--keep-words"]),
        ("a.lm", "b.arpa.gz", []),
        ("b.arpa.gz", "b.lm", ["--keep-words"]),
        ("a.bin", "c.lm", []),
        ("a.arpa", "small.lm", ["--quantize", "--memory", "300MiB"]),
    ):
        assert main(["lm", "convert", str(tmp_path / source), str(tmp_path / target), *flags]) == 0
        assert target in capsys.readouterr().out
    assert (tmp_path / "a.lm").read_bytes() == (tmp_path / "b.lm").read_bytes()
    scores = {LanguageModel.load(tmp_path / name).score_text("w1 w2 x") for name in ("a.lm", "b.lm", "c.lm", "a.bin")}
    assert len(scores) == 1
    assert LanguageModel.load(tmp_path / "small.lm").about["quantised"]


@pytest.mark.parametrize(
    ("source", "target", "flags", "message"),
    [
        ("a.arpa", "b.arpa", [], "becomes a model of codeshell; name the output MODEL.lm"),
        ("a.arpa", ".", [], "a directory; name the file to write"),
        ("a.arpa", "no/such/a.lm", [], "a.lm"),
        ("a.lm", "b.lm", [], "is a model of codeshell already"),
        ("a.lm", "b.arpa", [], "written without the words of its n-grams; train it with --keep-words, or with --arpa"),
        ("a.lm", "b.arpa", ["--quantize"], "leave them out for ARPA"),
        ("no.arpa", "b.lm", [], "no.arpa: No such file"),
        ("a.arpa", "b.lm", ["--memory", "many"], "--memory: 'many' is not a size"),
    ],
)
def test_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    target: str,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.arpa").write_text(arpa(GRAMS))
    assert main(["lm", "convert", "a.arpa", "a.lm"]) == 0
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert main(["lm", "convert", source, target, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
