"""Every file of examples/ runs as a reader would run it, in an empty directory and without a network."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell import registry

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OWN = [path for path in EXAMPLES if path.stem.startswith("own_")]
"""They define a rule, a scorer or a task, which a command or a recipe names by its place."""
ALONE = [path for path in EXAMPLES if path.stem != "ask_server"]
"""ask_server.py needs a server; tests/serve/test_ask_server_example.py gives it one."""
SECONDS = 100
NEEDS = {"finetune_lora": "peft", "patch_transformers": "transformers", "export_gguf": "gguf"}


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"dedup_folder", "patch_transformers", "train_tiny"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""'), "an example opens with what it shows"


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    module = NEEDS.get(path.stem)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{path.name} needs {module}, which is not installed")
    # A proxy on a closed port makes any download fail at once instead of going out.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | offline | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    # own_task.py defines its task and nothing else: `codeshell eval` runs it.
    assert result.stdout.strip() or path.stem == "own_task", "an example prints what it found"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_what_an_example_defines_is_found_by_its_name(path: Path) -> None:
    """A rule, scorer or task of one's own: its opening shows how the command line names it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    places = re.findall(rf"{path.name}:(\w+)", docstring)
    assert places, f"name what the file defines as examples/{path.name}:NAME"
    for name in places:
        assert registry.load(f"{path}:{name}") is not None
