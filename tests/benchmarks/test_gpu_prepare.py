"""What is prepared before a GPU is there: it fits, or it says why not. Nothing is built here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from codeshell import _C
from codeshell.kernels import present_hashes

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder of this Python and these sources, with files that are no extensions."""
    for name in ("release", "debug", "wheels"):
        (tmp_path / name).mkdir()
    (tmp_path / "release" / "_C.so").write_text("release")
    (tmp_path / "debug" / "_C.so").write_text("debug")
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    made = {"python": HERE, "kernels": present_hashes(), "commit": "c0ffee"} | changes
    (folder / "prepared.json").write_text(json.dumps(made))


def test_a_prepared_folder_that_fits(folder: Path) -> None:
    from gpu import prepare

    release, debug, commit = prepare.modules(folder)
    assert commit == "c0ffee"
    assert release.read_text() == "release" and debug is not None and debug.read_text() == "debug"
    debug.unlink()
    assert prepare.modules(folder)[1] is None


def test_a_prepared_folder_that_does_not_fit(folder: Path) -> None:
    from gpu import prepare

    for changes, message in (
        ({"python": "3.9"}, f"prepared for Python 3.9, and this is {HERE}: prepare it with --python python{HERE}"),
        ({"kernels": {}}, "from other kernel sources than these: run --prepare again"),
    ):
        write(folder, **changes)
        with pytest.raises(prepare.Unfit, match=re.escape(message)):
            prepare.modules(folder)
    for text in ("", "{}", "[]", '"a"'):
        (folder / "prepared.json").write_text(text)
        with pytest.raises(prepare.Unfit, match="not a folder that --prepare made"):
            prepare.modules(folder)
    write(folder)
    (folder / "release" / "_C.so").unlink()
    with pytest.raises(prepare.Unfit, match="no release/_C"):
        prepare.modules(folder)


def test_the_built_extension_is_laid_beside_the_sources(folder: Path, tmp_path: Path) -> None:
    from gpu import prepare

    site = prepare.lay(tmp_path / "site", Path(_C.__file__))
    code = "from codeshell import _C, operations; print(_C.__file__, operations.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(site)}, check=True
    )
    assert [str(Path(name).parent) for name in done.stdout.split()] == [str(site / "codeshell")] * 2


def test_wheels_are_unpacked(folder: Path, tmp_path: Path) -> None:
    from gpu import prepare

    assert prepare.unpack(folder, tmp_path / "peers") is None
    with zipfile.ZipFile(folder / "wheels" / "peer-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("peer/__init__.py", "value = 1")
    (folder / "wheels" / "torn-1-py3-none-any.whl").write_text("no zip")
    site = prepare.unpack(folder, tmp_path / "peers")
    assert site is not None and (site / "peer" / "__init__.py").read_text() == "value = 1"


def test_what_a_built_extension_says_of_itself(tmp_path: Path) -> None:
    from gpu import prepare

    found = prepare.read(Path(_C.__file__))
    assert found["cuda_built"] == _C.cuda_built and found["kernels"] == _C.kernel_sources
    torn = tmp_path / "_C.so"
    torn.write_text("not an extension")
    with pytest.raises(prepare.Unfit, match=r"_C.so does not load in python"):
        prepare.read(torn)


def test_the_peers_are_pinned() -> None:
    from gpu import prepare

    assert prepare.pinned_peers()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in prepare.pinned_peers())


def preparing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, debug: bool = True, megabytes: float = 60
) -> tuple[int, dict[str, Any], list[str]]:
    """Prepare with a build and a pip that make small files: (exit code, prepared.json, lines)."""
    from gpu import prepare

    def build(target: Path, **settings: Any) -> Path:
        target.mkdir(parents=True)
        (target / "_C.so").write_bytes(b"x" * 1000)
        return target / "_C.so"

    real = subprocess.run

    def run(command: list[str], **settings: Any) -> Any:
        if "download" not in command:
            return real(command, **settings)
        name, version = command[-1].split("==")
        if name == "absent":
            return subprocess.CompletedProcess(command, 1, "", "WARNING: a\nERROR: no wheel for it\n")
        where = Path(command[command.index("-d") + 1])
        where.mkdir()
        (where / f"{name}-{version}.whl").write_bytes(b"x" * (10**6 if name == "large" else 100))
        return subprocess.CompletedProcess(command, 0, "", "")

    facts = lambda module, python: {"debug_kernels": debug, "cuda_built": True}  # noqa: E731
    monkeypatch.setattr(prepare, "build", build)
    monkeypatch.setattr(prepare, "read", facts)
    monkeypatch.setattr(prepare, "pinned_peers", lambda: ["large==1", "absent==1", "small==2"])
    monkeypatch.setattr(prepare.subprocess, "run", run)
    lines: list[str] = []
    code = prepare.prepare(folder, python=sys.executable, architectures="", megabytes=megabytes, tell=lines.append)
    return code, json.loads((folder / "prepared.json").read_text()), lines


def test_all_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, made, lines = preparing(tmp_path / "p", monkeypatch)
    assert code == 0 and made["python"] == HERE and made["kernels"] == present_hashes()
    assert made["wheels"] == {"large==1": 10**6, "small==2": 100}
    assert made["absent"] == {"absent==1": "no wheel for it"}
    assert {path.name for path in (tmp_path / "p" / "wheels").iterdir()} == {"large-1.whl", "small-2.whl"}
    assert "absent: no wheel for it" in "\n".join(lines)


def test_what_does_not_fit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, made, _ = preparing(tmp_path / "p", monkeypatch, debug=False, megabytes=0.5)
    assert code == 0 and made["wheels"] == {"small==2": 100}
    assert "larger than the room" in made["absent"]["large==1"]
    assert "no time limits" in made["absent"]["debug"] and not (tmp_path / "p" / "debug").exists()
    code, _, lines = preparing(tmp_path / "q", monkeypatch, megabytes=0.001)
    assert code == 1 and "more than 0.001 MiB" in lines[-1]
