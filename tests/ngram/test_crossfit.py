"""Models of a corpus by halves: who trains which, and who is scored by which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from codeshell.errors import UserError
from codeshell.ngram import crossfit
from codeshell.ngram.model import LanguageModel
from codeshell.ngram.training import Settings, Units

KINDS = (pa.string(), pa.string(), pa.large_string())
SETTINGS = Settings(order=2, memory=1 << 28)


def text(language: str, number: int) -> str:
    """A document with a word that no other has, often enough to be one of the vocabulary."""
    line = f"{language}_word = only{number}(x, {number % 7}) + common\n"
    return line * 12


class Documents:
    """A corpus as `codeshell.documents.corpus.Corpus` gives it, cut into any shards."""

    def __init__(self, rows: list[tuple[str, str, str]], shards: int) -> None:
        self._parts = [rows[number::shards] for number in range(shards)]
        self.languages: dict[str, int] = {}
        for _, language, content in rows:
            self.languages[language] = self.languages.get(language, 0) + len(content)

    @property
    def shards(self) -> Sequence[int]:
        return range(len(self._parts))

    def read(self, shard: int) -> Iterator[pa.Table]:
        columns = zip(*self._parts[shard], strict=True)
        yield pa.table(
            [
                pa.array(values, kind)
                for values, kind in zip(columns, (pa.string(), pa.string(), pa.large_string()), strict=True)
            ],
            names=["id", "language", "text"],
        )


def rows() -> list[tuple[str, str, str]]:
    found = [
        (hashlib.sha256(f"{language}{number}".encode()).hexdigest(), language, text(language, number))
        for language in ("python", "go")
        for number in range(40)
    ]
    return [*found, ("one", "rust", text("rust", 0))]


def fit(home: Path, shards: int = 1, settings: Settings = SETTINGS, **options: Any) -> crossfit.Fitted:
    corpus: Any = Documents(rows(), shards)
    return crossfit.fit(corpus, home, settings, least_bytes=2000, **options)


def test_document_is_unknown_to_the_model_that_scores_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = fit(tmp_path)
    assert set(fitted.files) == {"python", "go"}
    assert set(fitted.left_out) == {"rust"}
    assert "1 languages with less than 0.002 MB of text get none (rust)" in capsys.readouterr().err
    python = [row for row in rows() if row[1] == "python"]
    halves = crossfit.halves([row[0] for row in python]).tolist()
    assert {0, 1} == set(halves)
    paths = [fitted.path("python", half) for half in (0, 1)]
    assert paths[0] and paths[1] and paths[0] != paths[1]
    models = [LanguageModel.load(path) for path in paths if path]
    assert models[0].handle.units.serialize() == models[1].handle.units.serialize()
    for (_, _, content), half in zip(python, halves, strict=True):
        seen, unseen = models[1 - half].score([content]), models[half].score([content])
        # Its own word is one that the other model has never met, in any place.
        assert unseen.bits[0] > 1.5 * seen.bits[0]
    assert fitted.path("rust", 0) is None
    assert fitted.statistics["python"]["documents"] == [halves.count(0), halves.count(1)]


def test_models_are_the_same_for_any_shards_and_threads(tmp_path: Path) -> None:
    made = []
    for number, (shards, threads, memory) in enumerate([(1, 1, 1 << 28), (5, 3, 1 << 30)]):
        home = tmp_path / str(number)
        fit(home, shards, Settings(order=2, threads=threads, memory=memory))
        made.append({path.name: path.read_bytes() for path in home.iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) == 5


def test_sample_is_a_part_and_units_may_be_given(tmp_path: Path) -> None:
    units = Units("lexical", [b"common", b"x"])
    fitted = fit(tmp_path, units={"python": units, "java": units}, sample_bytes=10_000)
    numbers = fitted.statistics["python"]
    assert 0.1 < numbers["share"] < 0.9
    assert 0 < sum(numbers["documents"]) < 40
    python, go = (LanguageModel.load(fitted.path(language, 0) or "") for language in ("python", "go"))
    assert python.handle.units.serialize() == units.serialize()
    assert go.handle.units.serialize() != units.serialize()


def test_killed_fit_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no language models"):
        crossfit.read(tmp_path)
    fit(tmp_path)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crossfit, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    with pytest.raises(UserError, match="holds no language models"):
        crossfit.read(tmp_path)
    monkeypatch.undo()
    assert crossfit.read(tmp_path) if (tmp_path / crossfit.MODELS).exists() else fit(tmp_path).files


def test_language_with_one_document_has_no_other_half(tmp_path: Path) -> None:
    corpus: Any = Documents([("a", "python", text("python", 1) * 10)], 1)
    fitted = crossfit.fit(corpus, tmp_path, SETTINGS, least_bytes=100)
    assert not fitted.files
    assert set(fitted.left_out) == {"python"}
