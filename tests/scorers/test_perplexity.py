"""The scorer `perplexity`: its columns, its models by language, and models of the corpus by halves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from codeshell.errors import UserError
from codeshell.ngram import LanguageModel, Settings, crossfit, train
from codeshell.scorers import make
from codeshell.scorers.perplexity import Perplexity

SMALL = Settings(memory=256 << 20)


def code(seed: int, lines: int = 40) -> str:
    """A text of a few hundred units that has no copy."""
    rows = [f"    value_{(seed * 7 + i) % 23} = compute({i % 5}, name='{seed % 11}')" for i in range(lines)]
    return "def run():\n" + "\n".join(rows) + "\n"


def sloppy(seed: int) -> str:
    return "".join(f"x{(seed + i) % 9}=foo (y,{i});print x{i % 4}\n" for i in range(40))


def table(texts: list[str], languages: list[str]) -> pa.Table:
    return pa.table(
        {
            "id": [f"{i:032x}" for i in range(len(texts))],
            "language": languages,
            "text": pa.array(texts, pa.large_string()),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """python.good.lm, python.bad.lm with the same units, and c.lm."""
    path = tmp_path_factory.mktemp("models")
    train([code(i) for i in range(100, 130)], path / "python.good.lm", SMALL)
    units = LanguageModel.load(path / "python.good.lm").handle.units
    train([sloppy(i) for i in range(100, 130)], path / "python.bad.lm", SMALL, units=units)
    train(["int main() { return 0; }\n" * 50], path / "c.lm", SMALL)
    return path


def columns(scorer: Perplexity, batch: pa.Table) -> dict[str, list[Any]]:
    found = scorer.score(batch)
    assert set(found) == set(scorer.columns.names)
    return {field.name: found[field.name].cast(field.type).to_pylist() for field in scorer.columns}


def test_columns(folder: Path) -> None:
    scorer = make("perplexity", {"good": str(folder), "bad": str(folder)})
    texts = [code(1), sloppy(1), "x = 1\n", "int x = 0;\n" * 50, code(2), ""]
    languages = ["python", "python", "python", "c", "cobol", "python"]
    found = columns(scorer, table(texts, languages))
    good, bad = (LanguageModel.load(folder / f"python.{kind}.lm") for kind in ("good", "bad"))
    for row in (0, 1):
        for name, model in (("bits_per_byte", good), ("bad_bits_per_byte", bad)):
            assert found[name][row] == model.score([texts[row]]).bits_per_byte[0]
        assert found["contrast"][row] == found["bad_bits_per_byte"][row] - found["bits_per_byte"][row]
    # What is like the good text costs less under its model, and stands out by its contrast.
    assert found["contrast"][0] > 0 > found["contrast"][1]
    # Short: the count is there, a score is not. One model serves for both in a folder of LANGUAGE.lm.
    assert found["tokens"][2] == 3 and found["bits_per_byte"][2] is None and found["contrast"][2] is None
    assert found["tokens"][3] > 100 and found["contrast"][3] == 0
    # No model of the language; an empty text.
    assert [found[name][4] for name in scorer.columns.names] == [None] * 4
    assert found["tokens"][5] == 0 and found["bits_per_byte"][5] is None


def test_columns_do_not_depend_on_the_batch(folder: Path) -> None:
    scorer = Perplexity(good=str(folder), bad=str(folder), minimum_tokens=1)
    texts = [code(i) if i % 3 else sloppy(i) for i in range(30)]
    languages = [("python", "c", "none")[i % 3 if i % 2 else 0] for i in range(30)]
    whole = table(texts, languages)
    found = columns(scorer, whole)
    for cuts in ([0, 1, 2, 30], [0, 17, 30]):
        parts = [columns(scorer, whole.slice(a, b - a)) for a, b in itertools.pairwise(cuts)]
        assert {name: [value for part in parts for value in part[name]] for name in found} == found
    shuffled = columns(scorer, whole.take(pa.array(list(reversed(range(30))))))
    assert {name: values[::-1] for name, values in shuffled.items()} == found
    assert columns(scorer, whole.slice(0, 0)) == {name: [] for name in found}


def test_one_model_alone(folder: Path) -> None:
    batch = table([code(1)], ["anything"])
    only_good = columns(Perplexity(good=str(folder / "python.good.lm"), bad=""), batch)
    only_bad = columns(Perplexity(good="", bad=str(folder / "python.good.lm")), batch)
    assert only_good["bits_per_byte"] == only_bad["bad_bits_per_byte"] != [None]
    assert only_good["bad_bits_per_byte"] == only_good["contrast"] == only_bad["contrast"] == [None]
    assert only_good["tokens"] == only_bad["tokens"]


def test_lines(folder: Path) -> None:
    batch = table([code(1), "x", "y"], ["python", "python", "cobol"])
    found = Perplexity(good=str(folder), bad=str(folder)).lines(batch)
    model = LanguageModel.load(folder / "python.good.lm")
    assert found == [model.lines(code(1)), model.lines("x"), []]


def test_another_model_is_another_version(folder: Path, tmp_path: Path) -> None:
    first = Perplexity(good=str(folder), bad="")
    assert first.version == Perplexity(good=str(folder), bad="").version
    assert first.version != Perplexity(good=str(folder), bad=str(folder)).version
    train([code(1)], tmp_path / "python.lm", SMALL)
    assert first.version != Perplexity(good=str(tmp_path), bad="").version


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"good": "no/such/model"}, "good no/such/model: no such model or folder"),
        ({"bad": "corpus"}, "bad 'corpus'"),
        ({"good": "", "bad": ""}, "both empty"),
        ({"good": 3}, "good 3: give a path"),
        ({"minimum_tokens": 0}, "minimum_tokens 0"),
        ({"good": "corpus", "order": 9}, "order 9"),
        ({"god": "x"}, "its settings: good, bad, order"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("perplexity", settings)


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no LANGUAGE\.lm in this folder"):
        Perplexity(good=str(tmp_path))
    (tmp_path / "a.lm").write_bytes(b"codeshell n-gram" + b"\0" * 700)
    with pytest.raises(UserError, match="a model of format 0"):
        Perplexity(good=str(tmp_path / "a.lm"))


@dataclass(frozen=True)
class FakeCorpus:
    """Some documents in shards; see `codeshell.documents.corpus.Corpus`."""

    tables: tuple[pa.Table, ...]

    @property
    def shards(self) -> range:
        return range(len(self.tables))

    def read(self, shard: int) -> Iterator[pa.Table]:
        yield self.tables[shard]

    @property
    def languages(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for part in self.tables:
            for language, text in zip(part["language"].to_pylist(), part["text"].to_pylist(), strict=True):
                sizes[language] = sizes.get(language, 0) + len(text)
        return sizes


def test_models_of_the_corpus_have_not_seen_what_they_score(tmp_path: Path) -> None:
    # Each document has words of its own, which only a model that has seen it expects.
    texts = [code(i, 400) + f"secret_{i} = own_{i}(secret_{i}, own_{i})\n" * 200 for i in range(40)]
    batch = table([*texts, "tiny = 1\n"], ["python"] * 40 + ["c"])
    cuts = ((batch,), (batch.slice(0, 7), batch.slice(7, 1), batch.slice(8)))
    scorers, homes = [], []
    for number, parts in enumerate(cuts):
        scorer = Perplexity(good="corpus", bad="", order=2, vocabulary=2000, memory=256 << 20)
        home = tmp_path / str(number)
        scorer.fit(FakeCorpus(parts), home, None)  # type: ignore[arg-type]
        scorer.load(home)
        scorers.append(scorer)
        homes.append(home)
    found = columns(scorers[0], batch)
    # The same whatever the shards; a language with little text has no model.
    assert columns(scorers[1], batch) == found
    for path in homes[0].glob("*.lm"):
        assert path.read_bytes() == (homes[1] / path.name).read_bytes()
    assert found["tokens"][40] is None
    # Each half by the model of the other one, and worse than by its own.
    halves = crossfit.halves(batch["id"])
    fitted = crossfit.read(homes[0])
    for row, text in enumerate(texts):
        paths = [fitted.path("python", int(half)) for half in (halves[row], 1 - halves[row])]
        other, own = (LanguageModel.load(path).score([text]).bits_per_byte[0] for path in paths if path)
        assert found["bits_per_byte"][row] == other
        assert other > own + 0.05
    assert 8 < np.sum(halves[:40]) < 32
    with pytest.raises(UserError, match="the models are trained by a run"):
        Perplexity(good="corpus", bad="").score(batch)
