"""The scorer `quality` with the package's model."""

from __future__ import annotations

import pyarrow as pa
import pytest
from helpers.quality_labels import label

from codeshell.boosting.quality_model import DIMENSIONS, SHIPPED, QualityModel, matrix
from codeshell.errors import UserError
from codeshell.quality import features
from codeshell.quality.apply import DOCUMENT
from codeshell.scorers import make
from codeshell.scorers.quality import Quality


def documents(texts: list[str], language: str = "python") -> pa.Table:
    rows = [[str(i), "", f"f{i}.py", language, text, len(text.encode())] for i, text in enumerate(texts)]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=DOCUMENT)


CARELESS = "x=1\nwhile True:\n  print(x);print('aaa')\n  x=x+1\n  if x>100:break\n"
CAREFUL = '''"""Reads the settings of a service from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where the service listens, and for how long it waits.

    Raises:
        ValueError: the port is no number.
    """

    host: str
    port: int
    timeout: float = 10.0

    @classmethod
    def from_environment(cls, prefix: str = "SERVICE_") -> Settings:
        """The settings that the environment variables with this prefix give."""
        port = os.environ.get(f"{prefix}PORT", "8080")
        if not port.isdigit():
            raise ValueError(f"{prefix}PORT: {port!r} is no number")
        return cls(os.environ.get(f"{prefix}HOST", "localhost"), int(port))
'''


def columns(table: pa.Table) -> pa.Table:
    """The documents with the columns that the model needs, or nulls where their scorer is not here."""
    model = QualityModel.load(SHIPPED)
    found = features.columns_of(table, features.scorers_of(list(model.about["scorers"]), {}))
    for name in found.column_names:
        if name not in table.column_names:
            table = table.append_column(found.schema.field(name), found.column(name))
    return table


def test_care_is_worth_more() -> None:
    scorer = make("quality", {})
    found = scorer.score(columns(documents([CARELESS, CAREFUL])))
    low, high = found["quality"].to_pylist()
    assert 0 <= low < high - 0.5 <= 5
    assert set(found) == {"quality", *DIMENSIONS} == set(scorer.columns.names)


def test_the_scorer_is_the_model() -> None:
    table = columns(documents([label(i)["text"] for i in range(30)]))
    scorer = Quality()
    found = scorer.score(table)
    expected = scorer.model.predict(matrix(table, scorer.model.columns), table["text"])
    assert found["quality"].to_pylist() == expected[:, 0].tolist()
    # One by one the same: a shard may be cut anywhere.
    single = [scorer.score(table.slice(i, 1))["quality"][0].as_py() for i in range(30)]
    assert single == found["quality"].to_pylist()


def test_what_it_needs_is_named() -> None:
    scorer = Quality()
    assert "contrast" in scorer.needs
    assert "bytes" not in scorer.needs
    assert "characters" not in scorer.needs
    with pytest.raises(UserError, match=r"no column '.*' in the batch; name the scorer that gives it first"):
        scorer.score(documents([CAREFUL]))


def test_the_version_follows_the_model() -> None:
    assert QualityModel.load(SHIPPED).about["fingerprint"] in str(Quality().version)


def test_the_model_of_the_package() -> None:
    model = QualityModel.load(SHIPPED)
    assert SHIPPED.stat().st_size < 3_000_000
    card = SHIPPED.with_name(f"{SHIPPED.name}.md").read_text(encoding="utf-8")
    assert str(model.about["fingerprint"]) in card
    assert "length only" in card
    # No column of syntax trees: they would cost more than all others together.
    assert "cyclomatic_max" not in model.columns


@pytest.mark.parametrize("settings", [{"model": "no.model"}, {"model": 3}, {"mode": "x"}])
def test_bad_settings(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        make("quality", settings)
