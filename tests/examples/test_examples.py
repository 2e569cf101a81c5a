"""Every file of examples/ runs as a reader would run it, in an empty directory and without a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = 100
NEEDS = {"patch_transformers": "transformers"}


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"dedup_folder", "patch_transformers", "train_tiny"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""'), "an example opens with what it shows"


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
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
    assert result.stdout.strip(), "an example prints what it found"
