"""`codeshell train`: on a run's tokens, again, refused, and stopped by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from codeshell import cli
from codeshell.recipe import to_toml


@pytest.fixture
def prepared(tiny, tmp_path):
    """A recipe file and a directory with tokens."""
    recipe, directory = tiny()
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(recipe))
    return str(path), directory


def train(recipe: str, directory, *settings: str) -> int:
    overrides = [part for setting in settings for part in ("--set", setting)]
    return cli.main(["train", recipe, "-o", str(directory), *overrides])


def test_trains_says_where_the_model_is_and_is_done_then(prepared, capsys):
    recipe, directory = prepared
    (directory / "tokens" / "key.json").write_text('{"key": "abc"}')
    assert train(recipe, directory, "train.steps=3") == 0
    error = capsys.readouterr().err
    assert "steps=3" in error and "parameters" in error and "12 L d T" in error
    assert f"the model is in {directory / 'model'}" in error
    assert train(recipe, directory, "train.steps=3") == 0
    assert "done before" in capsys.readouterr().err
    assert train(recipe, directory, "train.steps=4") == 2
    assert "train.steps was 3, is 4" in capsys.readouterr().err


def test_without_tokens_it_says_how_to_get_them(prepared, tmp_path, capsys):
    assert train(prepared[0], tmp_path / "nothing") == 2
    error = capsys.readouterr().err
    assert "tokens: no such directory" in error and "--until tokens" in error
    assert not (tmp_path / "nothing").exists()


def test_sigterm_ends_with_143_and_a_line_how_to_resume(prepared):
    recipe, directory = prepared
    command = [sys.executable, "-m", "codeshell", "train", recipe, "-o", str(directory), "--set", "train.steps=100000"]
    process = subprocess.Popen([*command, "--set", "train.checkpoint_every=0"], stderr=subprocess.PIPE, text=True)
    log = directory / "train" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 0):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "run the same command again to resume" in error
    assert "Traceback" not in error
    assert len(list((directory / "train" / "checkpoints").glob("step-*"))) == 1
