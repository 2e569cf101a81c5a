"""The ranges of other libraries' versions: one table, what pip is told, and the errors outside them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from codeshell.versions import RANGES, installed, newer_than_tested, require

ROOT = Path(__file__).resolve().parents[1]


def matrix():
    spec = importlib.util.spec_from_file_location("versions_tool", ROOT / "tools" / "versions.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "found", "inside"),
    [
        ("transformers", "4.57.6", False),
        ("transformers", "5.0.0", True),
        ("transformers", "5.0.0rc1", True),
        ("transformers", "5.24.0", True),
        ("transformers", "5.99.1.dev0", True),
        ("transformers", "6.0.0", False),
        ("torch", "2.8.1+cu128", False),
        ("torch", "2.9.0", True),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.15.0", True),
        ("numpy", "1.25.2", False),
        ("numpy", "1.26.0", True),
        ("pandas", "1.5.3", False),
        ("pandas", "2.0.0", True),
    ],
)
def test_what_is_in_range(name, found, inside):
    if inside:
        require(name, found)
        return
    with pytest.raises(ImportError) as error:
        require(name, found)
    message = str(error.value)
    assert found in message and RANGES[name].oldest in message and f"pip install '{name}>=" in message
    assert "\n" not in message


def test_newer_than_tested():
    newest = RANGES["transformers"].tested
    assert not newer_than_tested("transformers", newest + ".9")
    assert newer_than_tested("transformers", "5.99.0") and not newer_than_tested("transformers", "5.9.0")


def test_pip_is_told_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["transformers"], *extras["dev"]]
    for name, allowed in RANGES.items():
        bounds = [line[len(name) :] for line in lines if re.fullmatch(rf"{name}[<>=,.\d]+", line)]
        assert bounds, name
        for bound in bounds:
            (oldest,) = re.findall(r">=([\d.]+)", bound)
            assert (oldest + ".0")[: len(allowed.oldest)] == allowed.oldest
            assert re.findall(r"<([\d.]+)", bound) == ([allowed.below] if allowed.below else [])


def test_the_matrix_has_both_ends():
    pins = dict(line.split("==") for entry in matrix().ENTRIES.values() for line in entry.packages if "==" in line)
    entries = matrix().ENTRIES
    assert f"transformers=={RANGES['transformers'].oldest}.0" in entries["transformers-oldest"].packages
    assert pins["transformers"].startswith(RANGES["transformers"].tested + ".")
    for name in ("numpy", "pandas", "pyarrow"):
        assert pins[name].startswith(RANGES[name].oldest + ".")
    for entry in entries.values():
        assert all((ROOT / test).is_file() for test in entry.tests)
        assert all("==" in package for package in entry.packages)


def test_the_matrix_says_what_it_cannot_install(tmp_path, monkeypatch, capfd):
    tool = matrix()
    monkeypatch.setattr(tool, "FOLDERS", tmp_path)
    monkeypatch.setattr(tool, "ENTRIES", {"one": tool.Entry(("codeshell-none==1.0",), ("tests/none.py",))})
    monkeypatch.setattr(sys, "argv", ["versions.py"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert tool.main() == 1
    printed = capfd.readouterr().out
    assert "pip could not install codeshell-none==1.0; is the package registry reachable?" in printed
    assert "FAILED to install" in printed.splitlines()[-1] and not (tmp_path / "one").exists()
    monkeypatch.setattr(sys, "argv", ["versions.py", "two"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "there is no entry 'two'" in capfd.readouterr().err


def test_installed():
    facts = installed()
    assert list(facts) == list(RANGES) and facts["torch"]["in_range"] and facts["numpy"]["version"]


def lines_of(code: str) -> list[str]:
    """What a script prints, in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_another_transformers():
    versions = ("4.57.6", "6.0.0")
    lines = lines_of(f"""
import sys, types
fake = sys.modules["transformers"] = types.ModuleType("transformers")
import codeshell
for fake.__version__ in {versions}:
    try:
        codeshell.patch
    except ImportError as error:
        print(error)
""")
    for line, version in zip(lines, versions, strict=True):
        found = f"needs transformers 5.0 or newer, below 6, and transformers {version} is installed: pip install"
        assert line.startswith(f"codeshell {found}")


def test_another_torch_and_numpy():
    others = [
        ("torch", "2.8.0", "codeshell.ops"),
        ("torch", "2.1.0", "codeshell.integrations.flash_attn"),
        ("numpy", "1.24.4", "codeshell.randomness"),
    ]
    lines = lines_of(f"""
import importlib
for library, version, module in {others}:
    library = importlib.import_module(library)
    before, library.__version__ = library.__version__, version
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(error)
    library.__version__ = before
""")
    for line, (library, version, _) in zip(lines, others, strict=True):
        assert f"and {library} {version} is installed" in line


def test_a_transformers_that_is_newer_than_tested():
    code = """
import transformers
transformers.__version__ = "5.99.0"
import codeshell
codeshell.patch
"""
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "tested with transformers up to" in done.stderr and "5.99.0" in done.stderr
