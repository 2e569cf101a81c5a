"""`kept/` of a folder of code is that folder without its duplicates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codeshell.dedup import job
from codeshell.dedup.job import Job
from codeshell.documents.inputs import InputOptions
from codeshell.engine import LocalEngine

CODE = "def f(a, b):\n    return " + " + ".join(f"a * {n} - b" for n in range(30)) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package with all that may be beside its code."""
    root = tmp_path / "pk"
    files = {
        "run.py": b"#!/usr/bin/env python3\nimport app\n",
        "app/__init__.py": b"",
        "app/a.py": CODE.encode(),
        "app/b.py": CODE.encode(),  # the duplicate
        "app/py.typed": b"",
        "app/bad.py": b"# caf\xe9\n" * 5,
        "app/large.py": b"x = 1\n" * 500_000,
        "logo.png": b"\x89PNG\0\1",
        "LICENSE": b"do what you like\n",
        "a.min.js": b"var a=1;",
        ".git/config": b"[core]",
        "node_modules/m/index.js": b"module.exports = 1",
        "__pycache__/a.pyc": b"\0",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        os.utime(root / name, ns=(10**18, 10**18 + len(name)))
    (root / "run.py").chmod(0o4755)
    (root / "LICENSE").chmod(0o444)
    (root / "app" / "link.py").symlink_to("a.py")
    (root / "app" / "up").symlink_to("../LICENSE")
    (root / "nowhere").symlink_to("not/there")
    (root / "out").symlink_to("../../etc")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    (root / "app").chmod(0o750)
    os.utime(root / "app", ns=(10**18, 10**18 + 7))
    return root


def run(folder: Path, output: Path, **settings: object) -> dict[str, object]:
    with LocalEngine(1) as engine:
        return job.run(Job(inputs=(str(folder),), output=output, **settings), engine)  # type: ignore[arg-type]


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_all_but_the_duplicates_is_there_as_it_was(folder: Path, tmp_path: Path) -> None:
    stats = run(folder, tmp_path / "o")
    kept = tmp_path / "o" / "kept" / "pk"
    gone = {"app/b.py", ".git/config", "node_modules/m/index.js", "__pycache__/a.pyc", "pipe", "out", "passwd"}
    assert names(kept) == names(folder) - gone
    for name in names(kept):
        before, after = (folder / name).lstat(), (kept / name).lstat()
        if (folder / name).is_symlink():
            assert (kept / name).readlink() == (folder / name).readlink()
            continue
        assert (kept / name).read_bytes() == (folder / name).read_bytes()
        assert after.st_mtime_ns == before.st_mtime_ns
        assert after.st_mode == before.st_mode & ~0o7000  # the bit that makes it run as its owner is dropped
    assert (kept / "app").stat().st_mode & 0o777 == 0o750
    assert (kept / "app").stat().st_mtime_ns == 10**18 + 7
    # app/__init__.py, py.typed, large.py, logo.png, a.min.js and four links; LICENSE and bad.py were read.
    assert stats["copied"] == {"not_compared": 9, "links_out": 2}


def test_vendored_folders_are_copied_when_they_are_entered(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "o", options=InputOptions(vendored=True))
    assert (tmp_path / "o" / "kept" / "pk" / "node_modules" / "m" / "index.js").exists()


def test_the_output_inside_the_folder_is_not_copied(folder: Path) -> None:
    run(folder, folder / "o")
    run(folder, folder / "app" / "o")
    kept = folder / "app" / "o" / "kept" / "pk"
    assert not (kept / "app" / "o").exists()
    assert (kept / "app" / "__init__.py").exists()


def test_a_folder_that_is_read_twice_has_each_file_once(folder: Path, tmp_path: Path) -> None:
    with LocalEngine(1) as engine:
        job.run(Job(inputs=(str(folder / "app"), str(folder)), output=tmp_path / "o"), engine)
    assert (tmp_path / "o" / "kept" / "app" / "__init__.py").exists()
    assert (tmp_path / "o" / "kept" / "pk" / "run.py").exists()


def test_names_that_are_not_utf8_and_a_job_that_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = os.fsdecode(b"caf\xe9.png")
    (folder / strange).write_bytes(b"\0")
    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_kept", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "o")
    (folder / "late.png").write_bytes(b"\0")
    (folder / "logo.png").unlink()
    stats = run(folder, tmp_path / "o")
    kept = names(tmp_path / "o" / "kept" / "pk")
    assert strange in kept
    # As for code: what was listed is copied, what came later is not, what went away is counted.
    assert "late.png" not in kept and "logo.png" not in kept
    assert stats["copied"] == {"not_compared": 9, "links_out": 2, "unreadable": 1}


def test_a_link_that_is_named_is_copied_as_the_file(folder: Path, tmp_path: Path) -> None:
    with LocalEngine(1) as engine:
        named = (str(folder / "app" / "link.py"), str(folder / "run.py"))
        job.run(Job(inputs=named, output=tmp_path / "o"), engine)
    assert (tmp_path / "o" / "kept" / "pk" / "app" / "link.py").read_text() == CODE
