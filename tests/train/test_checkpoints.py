"""Checkpoints: refused where they do not fit, whole where the disk is full, kept where the recipe says."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from helpers.tiny_run import texts, tiny_recipe, write_run

from codeshell.errors import UserError
from codeshell.recipe import from_tree, to_tree
from codeshell.train import checkpoints, manifest, run
from codeshell.train.signals import Interrupted


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A run that has 12 of its 24 steps; tests copy it."""
    from codeshell.train.loop import Trainer

    directory = tmp_path_factory.mktemp("trained") / "run"
    write_run(directory, tokenizer, texts(60), texts(12, "v"))
    real = Trainer._step

    def step(self, *arguments):
        if self.state.step == 12:
            self.saver.finish()  # which a second Ctrl-C would give up
            raise KeyboardInterrupt
        return real(self, *arguments)

    Trainer._step = step
    try:
        with pytest.raises(Interrupted):
            run(tiny_recipe(), directory, None)
    finally:
        Trainer._step = real
    return directory


@pytest.fixture
def half(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def steps(directory: Path) -> list[int]:
    return checkpoints.list_steps(directory / "train" / "checkpoints")


def test_the_newest_and_the_phase_ends_are_kept(half, tiny):
    assert steps(half) == [8, 12]
    run(tiny(half)[0], half, None)
    assert steps(half) == [18, 20, 24]  # The newest two, and the end of the first phase.


def test_phase_ends_go_if_the_recipe_says(half, tiny):
    run(tiny(half, keep_phase_ends=False)[0], half, None)
    assert steps(half) == [20, 24]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"n_embd": 64}}, r"another shape: transformer\.h\.0\.attn\.c_attn\.bias is \(64,\), .* \(128,\)"),
        ({"model": {"n_layer": 1}}, r"another shape: transformer\.h\.1\..* has no such tensor"),
        ({"model": {"n_layer": 3}}, r"another shape: transformer\.h\.2\..* is absent"),
        ({"model": {"dropout": 0.2}}, r"model\.dropout was 0\.1, is 0\.2"),
        (
            {"model": {"n_head": 8, "num_query_groups": 4}},
            r"model\.n_head was 4, is 8; model\.num_query_groups was 2, is 4",
        ),
        (
            {"train": {"lr": 0.1, "fim_rate": 0.0}},
            r"train\.fim_rate was 0\.5, is 0\.0; train\.lr was 0\.003, is 0\.1\)",
        ),
        ({"train": {"steps": 30}}, r"train\.steps was 24, is 30"),
        ({"seed": 5}, r"seed was 0, is 5\); set them back, or train into another -o"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(half, tiny, change, message):
    tree = to_tree(tiny(half)[0])
    for key, value in change.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message) as refused:
        run(from_tree(msgspec.json.decode(msgspec.json.encode(tree)), "test"), half, None)
    assert "step-000012" in str(refused.value) and "\n" not in str(refused.value)
    assert steps(half) == [8, 12]


def test_another_corpus_or_tokenizer_is_refused(half, tiny, tokenizer):
    shutil.rmtree(half / "tokens")
    write_run(half, tokenizer, texts(61), texts(12, "v"))
    with pytest.raises(UserError, match=r"step-000012: trained on other documents than those in tokens/"):
        run(tiny(half)[0], half, None)
    state = half / "train" / "checkpoints" / "step-000012" / "state.json"
    other = checkpoints.read_state(state.parent)
    other.tokenizer = "ab" * 32
    manifest.write_state(state.parent, other)
    with pytest.raises(UserError, match=r"trained with tokenizer abababababab, this run has"):
        run(tiny(half)[0], half, None)


def test_the_shards_may_be_cut_otherwise(half, tiny, tokenizer, tmp_path):
    """The place in the data is one in the set of documents, not in files."""
    straight, turned = half, tmp_path / "turned"
    shutil.copytree(half, turned)
    shutil.rmtree(turned / "tokens")
    write_run(turned, tokenizer, texts(60)[::-1], texts(12, "v"))
    assert run(tiny(straight)[0], straight, None) == run(tiny(turned)[0], turned, None)


def test_another_version_is_refused_and_all_damaged_is_said(half, tiny):
    root = half / "train" / "checkpoints"
    state = root / "step-000012" / "state.json"
    whole = state.read_text()
    state.write_text(json.dumps(json.loads(whole) | {"format": 99}))
    with pytest.raises(UserError, match=r"the checkpoint has format 99, this codeshell reads formats 1 and 2"):
        run(tiny(half)[0], half, None)
    state.write_text("")
    (root / "step-000008" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"checkpoints: every checkpoint is damaged; delete this directory"):
        run(tiny(half)[0], half, None)


def test_a_full_disk_leaves_the_older_checkpoints(half, tiny, tmp_path):
    """On a real file system without room, where this may be mounted."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    try:
        shutil.copytree(half, mount / "run")
        free = os.statvfs(mount)
        # Room for the log and the model of the next checkpoint, not for its optimizer.
        (mount / "filler").write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 300_000))
        with pytest.raises(UserError, match=r"step-000016.*the disk is full; free some space"):
            run(tiny(mount / "run")[0], mount / "run", None)
        assert steps(mount / "run") == [8, 12]
        assert not list((mount / "run").rglob("*.partial"))
        (mount / "filler").unlink()
        run(tiny(mount / "run")[0], mount / "run", None)
        shutil.copytree(mount / "run" / "model", tmp_path / "model")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    run(tiny(half)[0], half, None)
    names = ("model.safetensors", "config.json")
    assert all((tmp_path / "model" / name).read_bytes() == (half / "model" / name).read_bytes() for name in names)


def test_a_failing_flush_leaves_the_older_checkpoints(half, tiny, monkeypatch):
    """The same through a failing fsync, which needs no root; it also hits right before the rename."""
    real = manifest.flush_directory

    def full(directory):
        if directory.name.startswith("step-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(directory)

    monkeypatch.setattr(manifest, "flush_directory", full)
    with pytest.raises(UserError, match=r"step-000016: the disk is full"):
        run(tiny(half)[0], half, None)
    assert steps(half) == [8, 12]
    assert not list(half.rglob("*.partial"))


def test_half_written_directories_are_swept_and_never_read(half, tiny):
    root = half / "train" / "checkpoints"
    shutil.copytree(root / "step-000012", root / "step-000016.partial")
    assert steps(half) == [8, 12]
    run(tiny(half)[0], half, None)
    assert not list(root.glob("*.partial"))
