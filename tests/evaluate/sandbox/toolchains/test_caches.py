"""What is prepared for compilers: whole or absent, once, in the user's cache, and used inside the sandbox."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from codeshell.evaluate.sandbox.toolchains import caches


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(caches, "_ready", {})
    return tmp_path / "cache" / "codeshell" / "toolchains"


def test_the_folder_follows_the_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert caches.folder() == tmp_path / "cache" / "codeshell" / "toolchains"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert caches.folder() == tmp_path / ".cache" / "codeshell" / "toolchains"


def test_it_is_made_once_however_many_ask(cache: Path) -> None:
    made, answers = [], []

    def make(target: Path) -> None:
        made.append(target)
        (target / "part").write_text("x")

    def ask() -> None:
        answers.append(caches._prepared("kind", ["compiler", "1.0"], make))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(set(answers)) == 1
    folder = answers[0]
    assert folder is not None and folder.parent == cache
    assert folder.stat().st_mode & 0o777 == 0o755 and (folder / "part").stat().st_mode & 0o777 == 0o644
    assert not list(cache.glob("*.partial"))


def test_another_version_is_another_folder() -> None:
    first = caches._prepared("kind", ["compiler", "1.0"], lambda target: None)
    assert first != caches._prepared("kind", ["compiler", "1.1"], lambda target: None)


def test_a_failure_leaves_nothing_and_is_told_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(target: Path) -> None:
        (target / "half").write_text("x")
        caches.run_here(["/bin/sh", "-c", "echo no space; exit 3"])

    assert caches._prepared("kind", ["a"], make) is None
    assert caches._prepared("kind", ["a"], make) is None
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    assert capsys.readouterr().err == "toolchains: nothing is prepared for kind, so programs take longer: no space\n"


def test_what_a_killed_process_left_is_replaced(cache: Path) -> None:
    whole = caches._prepared("kind", ["a"], lambda target: None)
    assert whole is not None
    shutil.rmtree(whole)
    (cache / f"{whole.name}.partial").mkdir()
    (cache / f"{whole.name}.partial" / "half").write_text("x")
    caches._ready.clear()
    assert caches._prepared("kind", ["a"], lambda target: None) == whole
    assert list(whole.iterdir()) == []


def test_without_a_place_to_write_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert caches._prepared("kind", ["a"], lambda target: None) is None


def test_the_precompiled_header_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine: apt-get install g++")
    # A small one: the real ones take five seconds.
    monkeypatch.setattr(caches, "HEADERS", dict.fromkeys(caches.PRECOMPILED, "#include <stdio.h>\n"))
    folder = caches.headers(compiler, "1", ["-std=c++17"])
    assert folder is not None
    (tmp_path / "p.cpp").write_text('#include <stdio.h>\nint main() { return puts("x") < 0; }\n')
    command = [compiler, "-std=c++17", "-w", "-H", "-include", f"{folder}/common.hpp", "p.cpp", "-o", "p"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    # gcc marks a precompiled header that it takes by !, and one that does not fit by x.
    assert f"! {folder}/common.hpp.gch" in said


def test_the_class_archive_is_used(tmp_path: Path) -> None:
    compiler = shutil.which("javac")
    if compiler is None:
        pytest.skip("no javac on this machine: apt-get install openjdk-17-jdk-headless")
    flags = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"]
    folder = caches.class_archive(compiler, "1", flags)
    assert folder is not None
    archive = f"-J-XX:SharedArchiveFile={folder}/javac.jsa"
    # -Xshare:on makes an archive that cannot be used an error.
    command = [compiler, *flags, archive, "-J-Xshare:on", "-J-Xlog:class+load", "-version"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "source: shared objects file (top)" in said
