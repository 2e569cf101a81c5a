"""Where tools are found, and how little of a home the sandbox has to show for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox.toolchains import detect, get
from codeshell.evaluate.verdicts import Verdict


def tool(path: Path, says: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{tmp_path}/nvm/bin:{tmp_path}/.local/bin")
    return tmp_path


def test_a_tool_of_the_system_needs_no_bind() -> None:
    assert detect.find_on_machine("sh") in (detect.Tool("/bin/sh"), detect.Tool("/usr/bin/sh"))
    assert detect.find_on_machine("no-such-tool-at-all") is None


def test_a_tool_in_a_folder_of_its_own_brings_that_folder(home: Path) -> None:
    path = tool(home / "nvm" / "bin" / "node")
    assert detect.find_on_machine("node") == detect.Tool(str(path), str(home / "nvm"))


@pytest.mark.parametrize("folder", ["bin", ".local/bin"])
def test_a_home_is_never_shown(home: Path, folder: str) -> None:
    path = tool(home / folder / "node")
    assert detect.find_on_machine("node") == detect.Tool(str(path), str(path))


def test_a_shim_is_asked_for_the_real_tool(home: Path) -> None:
    real = tool(home / "toolchains" / "stable" / "bin" / "rustc", "rustc 1.2.3")
    tool(home / "bin" / "rustc", str(real.parent.parent))
    assert detect.find_on_machine("rustc") == detect.Tool(str(real), str(real.parent.parent))


def test_tools_of_a_folder_that_serves_as_the_root(tmp_path: Path) -> None:
    assert detect.find_in_root("swiftc", tmp_path) is None
    tool(tmp_path / "opt" / "swift" / "usr" / "bin" / "swiftc")
    assert detect.find_in_root("swiftc", tmp_path) == detect.Tool("/opt/swift/usr/bin/swiftc")
    # An absolute link of the other system leads nowhere on this one.
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "swiftc").symlink_to("/etc/alternatives/no-such-swiftc")
    assert detect.find_in_root("swiftc", tmp_path) == detect.Tool("/usr/bin/swiftc")


def test_a_jar_on_the_class_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "javatuples-1.2.jar"
    jar.write_bytes(b"")
    monkeypatch.setenv("CLASSPATH", f".:{tmp_path}/other.jar:{jar}")
    assert detect.jars("javatuples*.jar")[0] == str(jar)
    assert detect.jars("javatuples*.jar", tmp_path) == []


def test_an_absent_toolchain_is_not_run_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name, package in (("php", "php-cli"), ("lua", "lua5.4"), ("cpp", "g++"), ("java", "openjdk-17-jdk-headless")):
        toolchain = get(name)
        assert toolchain.missing() == f"install {package}"
        judged = toolchain.judge(Program(name, "", "", style="multipl-e"), 3)  # type: ignore[arg-type]
        assert judged.verdict is Verdict.NOT_RUN and judged.why.endswith(f"install {package}")
        assert judged.level == 0


def test_a_folder_without_the_toolchain_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--toolchain swift=.*: no swiftc in its usr/bin, bin or opt/\*/bin"):
        get("swift", {"swift": str(tmp_path)})
    with pytest.raises(UserError, match="no such folder"):
        get("rs", {"rust": str(tmp_path / "nowhere")})
    # Folders of other languages do not matter.
    assert get("sh", {"swift": str(tmp_path)}).language == "sh"
