"""Where the build takes the sources of tree-sitter from: csrc/syntax/fetch.py, without a download."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "csrc" / "syntax" / "fetch.py"


@pytest.fixture
def fetch():
    spec = importlib.util.spec_from_file_location("fetch_tree_sitter", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, text: str = "int a;\n") -> Path:
    """A folder with the places of the sources, but other ones."""
    for name in ("src/lib.c", "src/subtree.h", "include/tree_sitter/api.h"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folder_without_the_sources(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path, tmp_path / "new"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{tmp_path} holds no sources of tree-sitter (lib/src/lib.c)\n"


def test_other_sources_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "lib")
    done = subprocess.run([sys.executable, SCRIPT, tmp_path, tmp_path / "new"], capture_output=True, text=True)
    assert done.returncode == 1 and f"{folder} is not tree-sitter" in done.stderr


def test_the_hash_is_over_names_and_contents(fetch, tmp_path: Path) -> None:
    first = fetch.digest(write(tmp_path / "a"))
    assert fetch.digest(write(tmp_path / "b")) == first
    (tmp_path / "a" / "README").write_text("not compiled")
    assert fetch.digest(tmp_path / "a") == first
    assert fetch.digest(write(tmp_path / "b", "int b;\n")) != first
    (tmp_path / "a" / "src" / "more.h").write_text("")
    assert fetch.digest(tmp_path / "a") != first


def test_sources_that_are_there_are_not_downloaded_again(fetch, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = write(tmp_path / fetch.VERSION)
    monkeypatch.setattr(fetch, "SHA256", fetch.digest(folder))
    monkeypatch.setattr(fetch, "download", lambda target: pytest.fail("downloaded"))
    assert fetch.main(["", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_a_download_that_fails_is_one_line(fetch, tmp_path: Path, monkeypatch) -> None:
    def run(command, **keywords):
        assert command[1:4] == ["-m", "pip", "download"]
        return subprocess.CompletedProcess(command, 1, "WARNING: slow\nERROR: No matching distribution\n")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(SystemExit, match=r"^pip could not download tree-sitter .*: ERROR: No matching distribution$"):
        fetch.main(["", str(tmp_path)])
    assert not (tmp_path / fetch.VERSION).exists()
