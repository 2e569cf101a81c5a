"""A user's own task from a file: on the command line, in the evaluation of a run, and in its report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lxml.html
import pytest
from helpers.evaluation_run import RECIPE, make_run

from codeshell import evaluate
from codeshell.cli import main
from codeshell.engine import LocalEngine
from codeshell.engine.files import write_json
from codeshell.errors import UserError
from codeshell.evaluate.section import Section
from codeshell.evaluate.task import Task, take_turns
from codeshell.evaluate.tasks import TASKS, get_task
from codeshell.report.run_page import render

OWN = '''
from codeshell.evaluate.task import NotRunError, Prompt, Sampling, Task


class Returns(Task):
    """Does the model return something after a held-out `def`? The baseline always does."""

    name = "returns"
    heading = "Functions that return <b>something</b>"

    def problems(self, subject):
        documents = subject.held_out.choose(subject.seed, "returns", max_bytes=2000, languages=frozenset(["python"]))
        return [document.text.partition("def ")[0] + "def f():" for document in documents]

    def prompts(self, problems):
        return [Prompt(problem) for problem in problems]

    def sampling(self, subject):
        return Sampling(max_new_tokens=8)

    def answers(self, subject, problems):
        return super().answers(subject, problems) | {"always": [" return 1"] * len(problems)}

    def judge(self, problems, answers):
        return ["return" in answer for answer in answers]


class Never(Task):
    name = "never"

    def problems(self, subject):
        raise NotRunError("nothing to ask")


class Nameless(Task):
    pass


class Taken(Task):
    name = "infill"


returns = Returns()
other = 3
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_one_file_and_one_command(own: str, run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", f"{own}:Returns", str(run_directory), "--json", "-"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert set(stats) == {"returns", "not_run", "claims"} and stats["not_run"] == {}
    part = stats["returns"]
    n = part["problems"]
    assert n > 3 and part["systems"]["always"]["count"] == n == part["systems"]["model"]["n"]
    assert part["systems"]["model"]["interval"][1] < 1 and part["differences"]["always"]["n"] == n
    assert stats["claims"][0].startswith("Functions that return <b>something</b>: the model solves 0 of ")
    # An object is as good as its class, and a task that cannot run says so.
    assert main(["eval", f"{own}:returns", str(run_directory)]) == 0
    assert capsys.readouterr().out.splitlines() == stats["claims"]
    assert main(["eval", f"{own}:Never", str(run_directory)]) == 0
    assert capsys.readouterr().out == "Not run: never (nothing to ask).\n"


def test_in_the_evaluation_of_a_run_and_in_its_report(own: str, run_directory: Path) -> None:
    names = [f"{own}:Returns", f"{own}:Never", *TASKS]
    stats = evaluate.run(RECIPE, run_directory, LocalEngine(1), names)
    plain = evaluate.run(RECIPE, make_run(run_directory.parent / "plain"), LocalEngine(1))
    # The package's tasks are not changed by their neighbours.
    assert {name: stats[name] for name in TASKS} == {name: plain[name] for name in TASKS}
    assert "sections" not in plain and set(stats["sections"]) == {"returns"}
    assert stats["not_run"] == {"never": "nothing to ask"} and stats["never"] is None
    assert (run_directory / "evaluate" / "part-returns.json").exists()
    write_json(run_directory / "evaluate" / "stats.json", stats)

    # The page needs no code of the user.
    Path(own).unlink()
    page = render(run_directory)
    text = re.sub(r"\s+", " ", lxml.html.fromstring(page).get_element_by_id("evaluation").text_content())
    count = stats["returns"]["problems"]
    assert f"Functions that return <b>something</b>{count} problems." in text
    assert f"always{count} of {count}100.0 %" in text and "Not run: nothing to ask" in text
    # A task that has not run is said once, with its reason, and not listed again as an unknown key.
    assert "Other numbers of the stage" not in text
    samples = lxml.html.fromstring(page).get_element_by_id("samples").text_content()
    assert "returns" in samples and "def f():" in samples and samples.count("wrong") == count


def test_an_edited_task_is_measured_again(own: str, run_directory: Path) -> None:
    """What another code has measured is not kept; what the same code has measured is."""
    names = [f"{own}:Returns", "bits_per_byte"]
    first = evaluate.run(RECIPE, run_directory, LocalEngine(1), names)
    parts = {name: run_directory / "evaluate" / f"part-{name}.json" for name in ("returns", "bits_per_byte")}
    written = {name: path.stat().st_mtime_ns for name, path in parts.items()}
    assert evaluate.run(RECIPE, run_directory, LocalEngine(1), names) == first
    assert {name: path.stat().st_mtime_ns for name, path in parts.items()} == written
    # The same task with one problem.
    text = Path(own).read_text()
    edited = text.replace("for document in documents]", "for document in documents][:1]")
    assert edited != text
    Path(own).write_text(edited)
    second = evaluate.run(RECIPE, run_directory, LocalEngine(1), names)
    assert second["returns"]["problems"] == 1 < first["returns"]["problems"]
    assert parts["bits_per_byte"].stat().st_mtime_ns == written["bits_per_byte"]


def test_two_tasks_of_one_name_are_refused(own: str, run_directory: Path) -> None:
    with pytest.raises(UserError, match="task returns: 2 tasks have this name"):
        evaluate.run(RECIPE, run_directory, LocalEngine(1), [f"{own}:Returns", f"{own}:returns"])


def test_a_section_that_cannot_be_read_is_listed(run_directory: Path) -> None:
    stats = evaluate.run(RECIPE, run_directory, LocalEngine(1))
    stats |= {"mine": {"deep": {"value": 12}}, "sections": {"mine": {"heading": 3}}}
    stats["infill"] = {"groups": "written by another version"}
    write_json(run_directory / "evaluate" / "stats.json", stats)
    text = lxml.html.fromstring(render(run_directory)).get_element_by_id("evaluation").text_content()
    assert "deep.value" in text and "written by another version" in text
    assert text.count("not in the form that this version of codeshell writes") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{own}:Nobody", "has no 'Nobody'"),
        ("{own}:other", "not a task; derive its class"),
        ("{own}:Path", "has no 'Path'"),
        ("{own}:Nameless", "give the class a `name`"),
        ("{own}:Taken", "the name 'infill' is taken"),
        ("infil", "did you mean infill?"),
        ("gone.py:Task", "cannot be loaded"),
    ],
)
def test_a_task_that_is_none_is_one_line(
    name: str, message: str, own: str, run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", name.format(own=own), str(run_directory)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    with pytest.raises(UserError):
        get_task(name.format(own=own))


def test_a_context_without_room_is_a_reason(own: str, run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", f"{own}:Returns", str(run_directory), "--context", "12"]) == 0
    assert capsys.readouterr().out == ("Not run: returns (a context of 12 tokens holds no prompt and 8 new tokens).\n")


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 99])
def test_turns_take_one_of_each_list_before_a_second(count: int) -> None:
    assert (
        take_turns([["a0", "a1", None], [], ["b0"], ["c0", "c1"]], count)
        == [*("a0", "b0", "c0", "a1", "c1", None)][:count]
    )


def test_every_task_of_the_package_is_whole() -> None:
    for name in TASKS:
        task = get_task(name)
        assert isinstance(task, Task) and task.name == name and task.heading
    assert get_task("bpb").name == "bits_per_byte"


def test_the_example_runs(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[2] / "examples" / "own_task.py"
    assert len(example.read_text().splitlines()) <= 60
    copy = shutil.copy(example, run_directory.parent / "imports_task.py")
    assert main(["eval", f"{copy}:Imports", str(run_directory), "--json", "-"]) == 0
    part: dict[str, Any] = json.loads(capsys.readouterr().out)["imports"]
    # Every file of the tiny run imports os, so the baseline is never wrong.
    assert part["problems"] == part["systems"]["the most common module"]["count"] == 14
    assert isinstance(get_task(f"{copy}:Imports").section(part), Section)


def test_a_page_is_drawn_without_torch(run_directory: Path) -> None:
    write_json(run_directory / "evaluate" / "stats.json", evaluate.run(RECIPE, run_directory, LocalEngine(1)))
    code = (
        "import sys; from pathlib import Path; from codeshell.report.run_page import render; "
        f"render(Path({str(run_directory)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
