"""The pages: short lines, links that lead somewhere, commands and files that exist, images made from the results."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from codeshell.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if "runs" not in path.relative_to(ROOT).parts
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FRONT = ("README.md", "CONTRIBUTING.md", "AGENTS.md")
"""Pages in which every named file and command is checked."""

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
FOLDERS = ("codeshell", "csrc", "tests", "docs", "benchmarks", "recipes", "examples", "tools")
PLACEHOLDER = re.compile(r"[A-Z]{3,}|[<>*…]")
"""Names like `codeshell/cli/NAME.py` stand for many files."""


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_short(name: str) -> None:
    long = [f"{name}:{number}" for number, line in enumerate(page(name).splitlines(), 1) if len(line) > 120]
    assert not long, f"lines over 120 characters: {', '.join(long)}"


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    text = FENCE.sub("", page(name))
    links = [link.split("#")[0] for link in LINK.findall(text) if "://" not in link and not link.startswith("#")]
    missing = [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing, f"{name}: no such files: {', '.join(missing)}"


@pytest.mark.parametrize("name", FRONT)
def test_named_files_exist(name: str) -> None:
    """In code spans: a path below one of the repository's folders. One that `make demo` makes is none of these."""
    paths = [word for span in CODE.findall(FENCE.sub("", page(name))) for word in span.split()]
    paths = [path.split(":")[0] for path in paths if path.split("/")[0] in FOLDERS and "/" in path]
    missing = sorted({path for path in paths if not PLACEHOLDER.search(path) and not (ROOT / path).exists()})
    assert not missing, f"{name}: no such files: {', '.join(missing)}"


@pytest.mark.parametrize("name", NAMES)
def test_named_modules_exist(name: str) -> None:
    names = {found for span in CODE.findall(page(name)) for found in re.findall(r"^codeshell(?:\.\w+)+", span)}
    for full in sorted(names):
        module, parts = ROOT / "codeshell", full.split(".")[1:]
        while parts and (module / parts[0]).is_dir():
            module = module / parts.pop(0)
        if parts and module.joinpath(parts[0] + ".py").exists():
            parts.pop(0)
        if parts and not parts[0].startswith("_"):  # what is left is an object
            found = importlib.import_module(".".join(full.split(".")[: -len(parts)]))
            for part in parts:
                assert hasattr(found, part), f"{name}: {full} is not there"
                found = getattr(found, part)


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    """Commands of codeshell and targets of make, in code."""
    text = page(name)
    code = "\n".join([*FENCE.findall(text), *CODE.findall(FENCE.sub("", text))])
    commands = set(re.findall(r"(?:^|[ /])codeshell ([a-z]+)\b(?= |$|`)", code, re.M))
    assert commands <= set(COMMANDS), f"{name}: no such commands: {commands - set(COMMANDS)}"
    targets = set(re.findall(r"(?:^|&& )make ([a-z]+)", code, re.M))
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets <= made, f"{name}: no such targets of make: {targets - made}"


def test_result_files_exist() -> None:
    """Each number of the README and of docs/measured.md names its file."""
    for name in ("README.md", "docs/measured.md"):
        files = set(re.findall(r"`([\w-]+\.json)`", page(name)))
        results = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
        known = {"metrics.json", "plan.json", "tokenizer.json"}
        assert files - known <= results, f"{name}: no such results: {files - known - results}"


def rows_of(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / "benchmarks/results" / file).read_text(encoding="utf-8"))["rows"]
    return rows


def named(file: str) -> dict[str, dict[str, Any]]:
    """The rows of a result file by their case, name or system, or by case and name if both are there."""
    keys = ("case", "system", "name")
    return {" / ".join(row[key] for key in keys if key in row): row for row in rows_of(file)}


def test_the_numbers_of_the_readme_are_those_of_the_results() -> None:
    dedup, quality = named("dedup.json"), named("dedup-quality.json")
    train, rotary, adamw = (named(f"{name}-cpu.json") for name in ("train", "rotary", "adamw"))
    case = "2 x 2048 tokens, 32+8 heads, d 128, bf16, in place"
    compiled = rotary[f"{case} / torch.compile of it"]["microseconds"]
    large = "fp32, 50,000,000 parameters in 20 tensors"
    small = "fp32, 10,000 tensors of 1-4096 elements, 20,517,487 parameters / codeshell.optim.AdamW"
    fused = adamw[f"{large} / torch AdamW, fused"]["microseconds"]
    step = [train[name]["tokens_per_second"] for name in ("codeshell fp32", "starcoder2 fp32 sdpa")]
    rates = [row["MB_per_second_per_core"] for row in rows_of("pipeline-cpu.json") if "MB_per_second_per_core" in row]
    expected = [
        ("dedup", f"{dedup['whole: codeshell']['MB_per_second']:.0f} MB/s"),
        ("dedup-quality", f"{quality['codeshell']['recall']:.3f}"),
        ("pipeline-cpu", f"{min(rates):.0f}–{max(rates):.0f} MB/s per core"),  # noqa: RUF001
        ("train-cpu", f"{step[0] / step[1]:.1f} times its tokens/s"),
        ("rotary-cpu", f"{compiled / rotary[f'{case} / codeshell.ops.rotary']['microseconds']:.0f} times as fast"),
        ("adamw-cpu", f"{fused / adamw[f'{large} / codeshell.optim.AdamW']['microseconds']:.2f} times as fast"),
        ("adamw-cpu", f"{adamw[small]['microseconds'] / adamw[f'{small}, one tensor']['microseconds']:.2f} times"),
        ("startup", f"{named('startup.json')['import codeshell']['median_ms']:.0f} ms"),
    ]
    lines = page("README.md").splitlines()
    for file, number in expected:
        assert any(line.endswith(f"| `{file}.json` |") and f"| {number}" in line for line in lines), f"{file}: {number}"


def test_the_readme_is_a_first_screen() -> None:
    text = page("README.md")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert all(table.count("\n") - 2 <= 8 for table in tables), "a table of the README has more than eight rows"
    first = text.split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 1, "the README opens with one sentence"
    for image in ("docs/images/report.png", "docs/images/speed.svg"):
        assert f"]({image})" in text
        assert (ROOT / image).stat().st_size < 150_000


def test_every_file_at_the_top_is_in_the_tree() -> None:
    """The folders of the README's tree are the repository's."""
    (tree,) = [block for block in FENCE.findall(page("README.md")) if block.startswith("csrc/")]
    shown = set(re.findall(r"^([\w.]+)/", tree, re.M))
    assert all((ROOT / name).is_dir() for name in shown)
    rooms = set(re.findall(r"\b(\w+)/", tree.split("\ncodeshell/")[1].split("\nrecipes/")[0]))
    there = {path.parent.name for path in (ROOT / "codeshell").glob("*/__init__.py")}
    assert there <= rooms, f"rooms of codeshell/ that the tree leaves out: {there - rooms}"


def make_images() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_images", ROOT / "tools" / "make_images.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_chart_is_that_of_the_results() -> None:
    chart = (ROOT / "docs" / "images" / "speed.svg").read_text(encoding="utf-8")
    assert chart == make_images().chart(), "run tools/make_images.py: the results or the script have changed"


def test_the_chart_shows_what_we_lose() -> None:
    ratios = [ratio for _, ratio in make_images().ratios()]
    assert make_images().chart().count('class="slower"') == sum(ratio < 1 for ratio in ratios) > 0


def test_no_browser_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("<p>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no screenshot"):
        make_images().screenshot(tmp_path / "report.html", tmp_path / "report.png")


def test_pages_name_nothing_outside_the_repository() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\.\./shared|\bissue \d|/work/|/root/|\bDESIGN\b", text), path.name


def test_pages_are_in_git() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    # The cards of models in codeshell/ are written by `codeshell quality train`.
    pages = {name for name in listed.stdout.split() if (ROOT / name).exists() and not name.startswith("codeshell/")}
    assert set(NAMES) >= pages
