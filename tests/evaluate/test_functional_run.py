"""Functional tasks in the evaluation of a run: named by the recipe, not run where something is missing, resumed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import lxml.html
import msgspec
import pytest
from helpers.evaluation_run import RECIPE, make_run
from helpers.functional_sets import without_sandbox, write_sets

from codeshell import evaluate
from codeshell.engine import LocalEngine
from codeshell.engine.files import write_json
from codeshell.engine.stages import STAGES
from codeshell.errors import UserError
from codeshell.evaluate import functional
from codeshell.evaluate.prompts import NotRunError
from codeshell.evaluate.tasks import TASKS
from codeshell.pipeline import stage_settings
from codeshell.recipe import Recipe
from codeshell.report.run_page import render


def recipe_with(**changes: Any) -> Recipe:
    return msgspec.structs.replace(RECIPE, evaluate=msgspec.structs.replace(RECIPE.evaluate, **changes))


def run(directory: Path, recipe: Recipe) -> dict[str, Any]:
    return evaluate.run(recipe, directory, LocalEngine(1))


def test_the_default_is_what_always_ran() -> None:
    assert Recipe().evaluate.tasks == tuple(TASKS)


def test_a_task_that_the_recipe_names_is_done_and_shown(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = without_sandbox(monkeypatch)
    recipe = recipe_with(tasks=("functions", "simple"))
    stats = run(run_directory, recipe)
    assert set(stats) == {"held_out", "not_run", "functions", "simple", "claims"} and stats["not_run"] == {}
    assert stats["simple"]["problems"] == 20 == len(programs)
    assert stats["simple"]["model"]["name"] == recipe.name
    assert any(claim.startswith("Twenty simple functions: pass@1 is ") for claim in stats["claims"])
    write_json(run_directory / "evaluate" / "stats.json", stats)
    page = lxml.html.fromstring(render(run_directory))
    text = re.sub(r"\s+", " ", page.get_element_by_id("evaluation").text_content())
    assert "Twenty simple functions" in text and "20 problems." in text and "this modelpass@1" in text
    assert "Other numbers of the stage" not in text
    assert "simple/0" in page.get_element_by_id("samples").text_content()


def test_what_is_missing_is_not_run_and_never_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data, no isolation, no toolchain: each with its reason, before the model is loaded; other tasks are done."""
    directory = make_run(tmp_path / "run")

    def require(execution: Any, language: str, style: str) -> None:
        if language == "lua":
            raise NotRunError("install lua5.4")
        if language == "python":
            raise UserError("level 2 or more cannot be had here; see docs/evaluation.md")

    monkeypatch.setattr(functional, "require_judge", require)
    monkeypatch.delenv("CODESHELL_PROBLEMS", raising=False)
    sets = write_sets(tmp_path / "sets")
    (sets / "mbpp.jsonl").unlink(missing_ok=True)
    (sets / "mbpp.jsonl.gz").unlink(missing_ok=True)
    recipe = recipe_with(tasks=("simple", "bits_per_byte", "multipl-e:lua", "mbpp"), data=str(sets))
    stats = run(directory, recipe)
    assert list(stats["not_run"]) == ["simple", "multipl-e:lua", "mbpp"]
    assert "cannot be had" in stats["not_run"]["simple"] and stats["not_run"]["multipl-e:lua"] == "install lua5.4"
    assert str(sets) in stats["not_run"]["mbpp"]
    assert stats["simple"] is stats["mbpp"] is stats["multipl-e:lua"] is None and stats["bits_per_byte"]
    write_json(directory / "evaluate" / "stats.json", stats)
    text = lxml.html.fromstring(render(directory)).get_element_by_id("evaluation").text_content()
    assert "Not run: install lua5.4" in text and "Twenty simple functions" in text
    # With functional tasks alone no model is needed to know it.
    monkeypatch.setattr("codeshell.evaluate.evaluate_run.load_any", lambda path: pytest.fail("loaded a model"))
    assert run(directory, recipe_with(tasks=("simple",)))["not_run"].keys() == {"simple"}


def test_another_task_does_not_undo_those_that_are_done(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch)
    run(run_directory, recipe_with(tasks=("simple",)))
    part = run_directory / "evaluate" / "part-simple.json"
    before = part.stat().st_mtime_ns
    run(run_directory, recipe_with(tasks=("bits_per_byte", "simple")))
    assert part.stat().st_mtime_ns == before
    # Another setting does.
    stats = run(run_directory, recipe_with(tasks=("simple",), problems=5))
    assert part.stat().st_mtime_ns > before and stats["simple"]["problems"] == 5


def test_samples_and_temperature_of_the_recipe(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = without_sandbox(monkeypatch)
    stats = run(run_directory, recipe_with(tasks=("simple",), samples=3, temperature=0.5, top_p=0.9, problems=2))
    assert len(programs) == 6
    sampling = stats["simple"]["sampling"]
    assert (sampling["samples"], sampling["temperature"], sampling["top_p"]) == (3, 0.5, 0.9)
    # Greedy samples would all be equal: said before a model is loaded, as the task's reason.
    stats = run(run_directory, recipe_with(tasks=("simple",), samples=3, temperature=0.0))
    assert "temperature 0 gives 3 equal completions" in stats["not_run"]["simple"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [(("humanevla",), "did you mean humaneval"), (("multipl-e:cobol",), "cobol"), (("infill", "infill"), "2 times")],
)
def test_wrong_names_are_found_before_the_run(tasks: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate.check(recipe_with(tasks=tasks))


def test_own_code_is_in_the_key_and_the_packages_is_not(tmp_path: Path) -> None:
    stage = next(stage for stage in STAGES if stage.name == "evaluate")
    own = tmp_path / "own.py"
    own.write_text("from codeshell.evaluate.task import Task\nclass T(Task):\n    name = 't'\n    problems = 1\n")
    settings = stage_settings(recipe_with(tasks=("infill", "multipl-e:lua", f"{own}:T")), stage)
    assert [key for key in settings if key.startswith("code of ")] == [f"code of {own}:T"]
    own.write_text(own.read_text() + "# edited\n")
    assert stage_settings(recipe_with(tasks=(f"{own}:T",)), stage)[f"code of {own}:T"] != settings[f"code of {own}:T"]
    # Today's default has the key that the run of an earlier version recorded.
    assert not [key for key in stage_settings(Recipe(), stage) if key.startswith("code of ")]


def test_the_problems_of_the_package_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a solution that passes, and answers that do nothing fail; the file is in the package."""
    from codeshell.evaluate.tasks.simple import Simple

    task = Simple()
    rows = task.load().rows
    assert len(rows) == 20 and len({row["entry_point"] for row in rows}) == 20
    for row in rows:
        for completion, good in (
            (row["canonical_solution"], True),
            ("    pass\n", False),
            ("    return None\n", False),
            ("    return True\n", False),
            ("    return ''\n", False),
        ):
            # Our own code, so it may run here.
            space: dict[str, Any] = {}
            program = task.program(row, completion)
            exec(program.code + "\n" + program.tests, space)
            try:
                space["check"](space[program.entry_point])
                passed = True
            except (AssertionError, TypeError):
                passed = False
            assert passed is good, (row["task_id"], completion)
        # A first parameter given back is no solution.
        first = re.search(r"\((\w+)", row["prompt"])
        assert first is not None
        space = {}
        exec(task.program(row, f"    return {first[1]}\n").code + "\n" + row["test"], space)
        with pytest.raises(AssertionError):
            space["check"](space[row["entry_point"]])
    assert json.dumps(rows).count("HumanEval") == 0
