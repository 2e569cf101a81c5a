"""A run that was stopped or killed and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell.train import run
from codeshell.train.loop import Trainer
from codeshell.train.signals import Interrupted

TIMINGS = {"seconds", "tokens_per_second", "mfu"}


def log_of(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def result_of(directory: Path) -> dict[str, object]:
    """All that must not depend on how the run came to its end."""
    last = directory / "train" / "checkpoints" / "step-000024"
    files = [last / "model.safetensors", last / "optimizer.safetensors", last / "state.json"]
    files += sorted(p for name in ("model", "model-starcoder2") for p in (directory / name).iterdir())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files} | {"log": log_of(directory)}


def interrupt_at(monkeypatch, steps: list[int], number: int = signal.SIGTERM) -> None:
    """Send this process a signal in the middle of the given steps."""
    real = Trainer._gradient
    left = list(steps)

    def gradient(self, batch, context):
        if left and self.state.step + 1 == left[0]:
            left.pop(0)
            assert callable(signal.getsignal(number)), "nothing catches the signal, and it would end the tests"
            signal.raise_signal(number)
        return real(self, batch, context)

    monkeypatch.setattr(Trainer, "_gradient", gradient)


def test_stopping_anywhere_changes_no_bit(tiny, tmp_path, unbroken, monkeypatch, capsys):
    """Inside a phase, at its very end (18), right after it, and at the last step."""
    recipe, directory = tiny(tmp_path / "stopped")
    interrupt_at(monkeypatch, [3, 4, 18, 19, 24])
    for step in (3, 4, 18, 19, 24):
        with pytest.raises(Interrupted) as stop:
            run(recipe, directory, None)
        assert stop.value.code == 143
        error = capsys.readouterr().err
        assert f"stopped after step {step} of 24" in error and "run the same command again" in error
    assert run(recipe, directory, None) == unbroken[1]
    assert result_of(directory) == result_of(unbroken[0])


def test_sigkill_at_any_moment_changes_no_bit(tiny, tmp_path, unbroken):
    _, directory = tiny(tmp_path / "killed")
    kills = 6
    seed = int.from_bytes(os.urandom(4), "little")
    script = Path(__file__).parents[1] / "helpers" / "killer.py"
    done = subprocess.run(
        [sys.executable, script, directory, str(kills), str(seed)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, f"seed {seed}: the run ended before a kill"
    assert result_of(directory) == result_of(unbroken[0]), f"seed {seed}"
    assert not list(directory.rglob("*.partial"))


def test_sigusr1_saves_and_continues(tiny, monkeypatch):
    recipe, directory = tiny(checkpoint_every=0, keep_checkpoints=9)
    interrupt_at(monkeypatch, [7], signal.SIGUSR1)
    run(recipe, directory, None)
    names = sorted(path.name for path in (directory / "train" / "checkpoints").iterdir())
    assert names == ["step-000007", "step-000018", "step-000024"]


def test_a_finished_run_trains_no_step_again(tiny, tmp_path, unbroken, monkeypatch):
    directory, statistics = tmp_path / "finished", unbroken[1]
    shutil.copytree(unbroken[0], directory)
    before = result_of(directory)
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained a step"))
    assert run(tiny(directory)[0], directory, None) == statistics
    assert result_of(directory) == before


def test_what_may_change_on_a_resume_changes_no_bit(tiny, tmp_path, unbroken, monkeypatch):
    recipe, directory = tiny(tmp_path / "other")
    interrupt_at(monkeypatch, [10])
    with pytest.raises(Interrupted):
        run(recipe, directory, None)
    other = tiny(directory, checkpoint_every=7, keep_checkpoints=5, spike_sigma=9.0, max_skips=3)[0]
    run(other, directory, None)
    final = "train/checkpoints/step-000024/model.safetensors"
    assert (directory / final).read_bytes() == (unbroken[0] / final).read_bytes()
    assert log_of(directory) == log_of(unbroken[0])


def test_the_seed_and_only_the_seed_makes_another_run(tiny, tmp_path, unbroken):
    other, directory = tiny(tmp_path / "seed", seed=1)
    run(other, directory, None)
    assert log_of(directory)[0]["loss"] != log_of(unbroken[0])[0]["loss"]


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tiny, tmp_path, unbroken, capsys):
    for number, harm in enumerate((cut_short, flip_a_bit, lose_the_state)):
        directory = tmp_path / f"damaged-{number}"
        shutil.copytree(unbroken[0], directory)
        harm(directory / "train" / "checkpoints" / "step-000024")
        assert run(tiny(directory)[0], directory, None) == unbroken[1]
        error = capsys.readouterr().err
        assert "step-000024 is damaged" in error and "resuming from" in error and "step-000020" in error
        assert result_of(directory) == result_of(unbroken[0])


def cut_short(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def lose_the_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text('{"format": 1, "st')
