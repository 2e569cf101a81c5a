"""A fine-tuned model beside its base: both are asked the same, and the lines for the terminal say what came of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.evaluation_run import RECIPE, byte_tokenizer, tiny_model

from codeshell.engine import LocalEngine
from codeshell.evaluate import before_after, evaluate_run
from codeshell.evaluate.corpus import Corpus
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.tasks.infill import Infill
from codeshell.recipe import Recipe
from codeshell.recipe_finetune import Finetune

TASKS = ["bits_per_byte", "infill", "functions"]


def measured(recipe: Recipe, run: Path) -> dict[str, Any]:
    return evaluate_run.run(recipe, run, LocalEngine(1), TASKS)


@pytest.fixture
def tuned(run_directory: Path, tmp_path: Path) -> tuple[Recipe, Path]:
    """A recipe whose base has other weights than the run's model, and the run."""
    tiny_model(9).save_pretrained(tmp_path / "base")
    byte_tokenizer().save(tmp_path / "base")
    return msgspec.structs.replace(RECIPE, finetune=Finetune(base=str(tmp_path / "base"))), run_directory


def test_the_base_is_asked_what_the_model_is_asked(tuned: tuple[Recipe, Path], tmp_path: Path) -> None:
    """Its numbers are those of a run whose model it is."""
    recipe, run = tuned
    found = measured(recipe, run)
    shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("evaluate"))
    shutil.rmtree(tmp_path / "other" / "model")
    shutil.copytree(tmp_path / "base", tmp_path / "other" / "model")
    of_base = measured(RECIPE, tmp_path / "other")
    bits, expected = found["bits_per_byte"]["systems"], of_base["bits_per_byte"]["systems"]["model"]
    assert bits["base"] == expected != bits["model"]
    difference = found["bits_per_byte"]["differences"]["base"]["difference"]
    assert difference == pytest.approx(bits["model"]["bits_per_byte"] - expected["bits_per_byte"], abs=2e-4)
    for group, scores in found["infill"]["groups"].items():
        assert scores["base"] == of_base["infill"]["groups"][group]["exact_match"]
        assert scores["against_base"]["n"] == scores["base"]["n"]
    # A random model fills in nothing, so its answers are compared, too.
    subject, other = (
        evaluate_run._subject(one, where, Corpus([where / "curated" / "test-00000.parquet"]), Execution())
        for one, where in ((recipe, run), (RECIPE, tmp_path / "other"))
    )
    problems = Infill().problems(subject)
    answers = Infill().answers(subject, problems)
    assert answers["base"] == Infill().answers(other, problems)["model"] != answers["model"]

    lines = before_after.lines(found)
    held = found["held_out"]
    assert lines[0] == f"before and after tuning, on 15 held-out files of {held['bytes']:,} bytes:"
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "bits per byte",
        "masked lines filled in",
        "functions that parse",
    ]
    assert f"{expected['bits_per_byte']:.3f} before, {bits['model']['bits_per_byte']:.3f} after" in lines[1]
    assert "of 12 before" in lines[2] and "may be chance" in lines[2]
    assert any("the base before tuning" in claim for claim in found["claims"])


def test_without_a_base_or_room_for_it_nothing_is_compared(
    tuned: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = tuned
    shutil.copytree(run, tmp_path / "plain")
    plain = measured(RECIPE, tmp_path / "plain")
    assert "base" not in plain["bits_per_byte"]["systems"] and "base" not in plain["infill"]["groups"]["all"]
    monkeypatch.setattr("codeshell.evaluate.subject.usable_memory", lambda: 1000)
    found = measured(recipe, run)
    assert "base" not in found["bits_per_byte"]["systems"] and before_after.lines(found) == []


def share(count: int, n: int = 50) -> dict[str, Any]:
    return {"count": count, "n": n, "share": count / n, "interval": [0.0, 1.0]}


def test_what_the_lines_say() -> None:
    """Two cases reckoned by hand: a clear gain, and no held-out file."""
    statistics = {
        "held_out": {"documents": 40, "bytes": 12_345},
        "bits_per_byte": {
            "systems": {"base": {"bits_per_byte": 1.5}, "model": {"bits_per_byte": 1.25}},
            "differences": {"base": {"difference": -0.25, "interval": [-0.3, -0.2], "significant": True}},
        },
        "infill": {
            "groups": {
                "all": {
                    "exact_match": share(30),
                    "base": share(10),
                    "against_base": {"n": 50, "difference": 0.4, "p_value": 0.0012, "significant": True},
                }
            }
        },
        "functions": None,
    }
    assert before_after.lines(statistics) == [
        "before and after tuning, on 40 held-out files of 12,345 bytes:",
        "  bits per byte           1.500 before, 1.250 after (\u22120.250, 95 % interval \u22120.300 to \u22120.200)",
        "  masked lines filled in  10 of 50 before, 30 after (p = 0.001)",
    ]
    assert before_after.lines({"held_out": {"documents": 0}, "infill": None}) == [
        "before and after tuning: not compared, because no file is held out (split.test says how many)"
    ]
