"""`codeshell train`: on a run's tokens, again, refused, and stopped by a signal."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from codeshell import cli
from codeshell.recipe import to_toml
from codeshell.train import run, saver
from codeshell.train.checkpoints import list_steps
from codeshell.train.loop import Trainer
from codeshell.train.validate import Validation


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


def started(recipe: str, directory, *settings: str, ignore: bool = False) -> subprocess.Popen:
    """`codeshell train` of a run without end, after its first step."""
    command = [sys.executable, "-m", "codeshell", "train", recipe, "-o", str(directory), "--set", "train.steps=100000"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    # A test may itself run in a background job, whose Ctrl-C is ignored.
    handler = signal.SIG_IGN if ignore else signal.default_int_handler
    process = subprocess.Popen(
        [*command, *overrides],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: (signal.signal(signal.SIGINT, handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)),
    )
    log = directory / "train" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size > 0):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_a_signal_ends_with_its_code_and_a_line_how_to_resume(prepared, number, code, name):
    """And a background job, which the shell has told to ignore Ctrl-C, does so until a SIGTERM comes."""
    recipe, directory = prepared
    background = number == signal.SIGTERM
    process = started(recipe, directory, "train.checkpoint_every=0", ignore=background)
    if background:
        os.kill(process.pid, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code and ("Ctrl-C" in error) == (name == "Ctrl-C")
    last = error.splitlines()[-1]
    assert last.startswith(f"train: {name}; stopped after step ") and "run the same command again to resume" in last
    assert "Traceback" not in error
    (step,) = (directory / "train" / "checkpoints").glob("step-*")
    assert f"saved in {step}" in last


def interrupt(monkeypatch, count: int, place: str) -> None:
    """Send `count` Ctrl-C to this process, at the 6th step, in a validation, or while a checkpoint is written."""
    module, name = {
        "step": (Trainer, "_clip"),
        "validation": (Validation, "score"),
        "checkpoint": (saver, "model_tensors"),
    }[place]
    real = getattr(module, name)
    calls = itertools.count(1)

    def wrapper(*args, **settings):
        if next(calls) == (6 if place == "step" else 1):
            for _ in range(count):
                signal.raise_signal(signal.SIGINT)
        return real(*args, **settings)

    monkeypatch.setattr(module, name, wrapper)


@pytest.mark.parametrize("place", ["step", "validation", "checkpoint"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_first_ctrl_c_saves_and_the_second_ends_at_once(tiny, tmp_path, unbroken, monkeypatch, capfd, place, count):
    recipe, directory = tiny(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
        interrupt(patch, count, place)
        # A save that is not in place yet would be given up at the second one, and a busy disk would decide.
        begin = saver.Saver.begin
        patch.setattr(saver.Saver, "begin", lambda self, *settings: (begin(self, *settings), self._thread.join())[0])
        # A Ctrl-C that the run lets through would end the tests.
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
            run(recipe, directory, None)
    assert isinstance(caught.value, SystemExit) and caught.value.code == 130
    error = capfd.readouterr().err
    assert "once more ends at once" in error
    # The step that was done when the signals came, and the checkpoint that is there.
    done, kept = {"step": (6, 4), "validation": (5, 4), "checkpoint": (4, None)}[place]
    step = list_steps(directory / "train" / "checkpoints")
    if count == 1:
        assert step[-1] == done and f"stopped after step {done} of 24, saved in" in error
    else:
        # The 6th step was not counted yet; what was half written is gone.
        assert step == ([] if kept is None else [kept])
        assert ("nothing is saved yet" if kept is None else f"the run is saved up to step {kept}") in error
        assert f"stopped at once, after step {5 if place == 'step' else done} of 24" in error
    assert not list((directory / "train" / "checkpoints").glob("*.partial"))
    # As a run that was not stopped, bit for bit.
    run(recipe, directory, None)
    names = ("model/model.safetensors", "train/checkpoints/step-000024/optimizer.safetensors")
    assert all((directory / name).read_bytes() == (unbroken[0] / name).read_bytes() for name in names)
