"""What has changed below the inputs since they were listed: what a finished run says, and `--refresh`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.trees import program, recipe, rows, run_collect, write_tree

from codeshell import pipeline
from codeshell.cli import main
from codeshell.data import collect
from codeshell.documents import changes
from codeshell.documents.changes import Changes, Stamp
from codeshell.errors import UserError
from codeshell.recipe import Recipe


def stamp(name: str, size: int = 1, time: int = 1, *, read: bool = True) -> Stamp:
    return Stamp(name, size, time, read)


def test_new_changed_and_gone_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "BLOCK", 2)
    then = [stamp("a"), stamp("b"), stamp("c"), stamp("d"), stamp("picture", read=False)]
    now = [stamp("e"), stamp("a"), stamp("b", 2), stamp("c", time=2), stamp("other", read=False)]
    found = changes.compare(lambda: then, now)
    assert found == Changes(1, 2, 1, ["e", "b", "c"])
    assert str(found) == "1 file is new, 2 changed and 1 gone since (e, b, c, …)"
    assert not changes.compare(lambda: then, then)
    assert str(changes.compare(lambda: then, [])) == "4 files are gone since (a, b, c, …)"
    assert str(changes.compare(list, then[:2])) == "2 files are new since (a, b)"
    # What was read and is left out now has changed.
    assert changes.compare(lambda: then[:1], [stamp("a", read=False)]) == Changes(0, 1, 0, ["a"])


def finish(settings: Recipe, run: Path, *, refresh: bool = False) -> None:
    pipeline.run(settings, run, workers=1, until="filter", refresh=refresh)


def documents(run: Path) -> list[str]:
    return [row["path"] for row in rows(run / "collect", "documents")]


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Recipe, Path]:
    """A folder of code, a data set and a single file, and a run that has read them."""
    root = write_tree(tmp_path / "code", {f"p/m{i}.py": program(i) for i in range(4)} | {"p/x.png": b"\x89PNG\0"})
    lines = "".join(json.dumps({"text": program(10 + i), "path": f"r{i}.py"}) + "\n" for i in range(3))
    write_tree(tmp_path, {"data/a.jsonl": lines, "single.py": program(20)})
    settings = recipe(root, tmp_path / "data", tmp_path / "single.py", shard_bytes=300)
    finish(settings, tmp_path / "run")
    return settings, tmp_path


def test_a_finished_run_says_what_changed(mixed: tuple[Recipe, Path], capsys: pytest.CaptureFixture[str]) -> None:
    settings, home = mixed
    capsys.readouterr()
    finish(settings, home / "run")
    assert "collect: done before\n" in capsys.readouterr().err
    (home / "code/p/m1.py").write_text("x = 1\n")
    (home / "code/p/m0.py").unlink()
    (home / "code/p/x.png").write_bytes(b"\x89PNG\0\0")
    write_tree(home, {"data/b.jsonl": '{"text": "y = 2\\n", "path": "new.py"}\n', "code/other.png": b"\0"})
    os.utime(home / "single.py", ns=(1, 1))
    finish(settings, home / "run")
    line = next(line for line in capsys.readouterr().err.splitlines() if "done before; " in line)
    for part in ("1 file is new, 2 changed and 1 gone since", "code/p/m1.py", "data/b.jsonl", "`--refresh` reads them"):
        assert part in line
    assert "m0.py" in line or "single.py" in line
    assert "png" not in line
    before = documents(home / "run")
    finish(settings, home / "run", refresh=True)
    assert documents(home / "run") == [
        "p/m1.py",
        "p/m2.py",
        "p/m3.py",
        "r0.py",
        "r1.py",
        "r2.py",
        "new.py",
        "single.py",
    ]
    assert "p/m0.py" in before
    assert "filter: --refresh: 1 file is new, 2 changed and 1 gone" in capsys.readouterr().err
    finish(settings, home / "run", refresh=True)
    assert "nothing is read again" in capsys.readouterr().err


def test_refresh_needs_its_inputs_before_it_clears_anything(
    mixed: tuple[Recipe, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, home = mixed
    (home / "code").rename(home / "away")
    capsys.readouterr()
    finish(settings, home / "run")
    assert "the inputs cannot be compared with what was read" in capsys.readouterr().err
    before = documents(home / "run")
    with pytest.raises(UserError, match="code: no such file or folder"):
        finish(settings, home / "run", refresh=True)
    assert documents(home / "run") == before


def test_refresh_keeps_a_trained_model(mixed: tuple[Recipe, Path]) -> None:
    settings, home = mixed
    write_tree(home / "run", {"train/checkpoints/step-000001/x": "w", "model/model.safetensors": "w"})
    (home / "code/p/m9.py").write_text(program(9))
    finish(settings, home / "run", refresh=True)
    assert (home / "run/model.old-1/model.safetensors").read_text() == "w"


def test_a_run_of_an_earlier_version_and_urls(
    mixed: tuple[Recipe, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = mixed
    path = home / "run/collect/plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in plan.items() if key != "times"}))
    assert "changes since are not seen" in collect.since(settings, home / "run")
    finish(settings, home / "run", refresh=True)
    assert collect.since(settings, home / "run") == ""
    online = recipe("https://example.com/x.jsonl", *settings.collect.inputs)
    assert collect.since(online, home / "run").endswith("URLs were not looked at")


def test_a_resumed_run_says_what_its_list_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "code", {f"m{i}.py": program(i) for i in range(6)})
    settings = recipe(root, shard_bytes=200)
    stage = tmp_path / "run/collect"
    stage.mkdir(parents=True)
    collect.make_plan(settings.collect, stage)
    (root / "m3.py").write_text(program(30))
    (root / "m0.py").unlink()
    (root / "m9.py").write_text(program(9))
    run_collect(settings, tmp_path / "run")
    # Each file once, as it is now; the one that is gone is counted, the new one is named.
    assert documents(tmp_path / "run") == [f"m{i}.py" for i in range(1, 6)]
    assert [row["rule"] for row in rows(stage, "dropped")] == ["unreadable"]
    assert "1 file is new, 1 changed and 1 gone since" in capsys.readouterr().err


def test_a_killed_dedup_of_files_that_changed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "code", {f"m{i}.py": program(i) for i in range(3)})
    command = ["dedup", str(root), "-o", str(tmp_path / "out"), "--workers", "1"]

    def die(*_: object) -> None:
        raise UserError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("codeshell.dedup.job._write_duplicates", die)
        assert main(command) == 2
    (root / "new.py").write_text(program(8))
    with monkeypatch.context() as patch:
        patch.setattr("codeshell.dedup.job._write_duplicates", die)
        assert main(command) == 2
    assert "1 file is new since" in capsys.readouterr().err
    (root / "m1.py").write_text("x = 1\n")
    assert main(command) == 2
    assert "an unfinished job; 1 file is new and 1 changed since" in capsys.readouterr().err


def test_a_run_is_not_its_own_input(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(1)})
    with pytest.raises(UserError, match="both an input and the output; choose another output directory"):
        finish(recipe(root), root)
    assert [path.name for path in root.iterdir()] == ["a.py"]
