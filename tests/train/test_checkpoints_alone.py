"""Checkpoints of one process: written while training continues, given up, and those of the earlier format."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from helpers.tiny_run import texts, tiny_recipe, write_run
from safetensors.torch import load_file

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.tensor_files import TensorWriter
from codeshell.optim import AdamW
from codeshell.recipe import from_tree, to_tree
from codeshell.train import checkpoints, manifest, run, saver, shards
from codeshell.train.checkpoints import DamagedError, Saver, State, read_state

OLD = Path(__file__).parent / "format1" / "step-000003"
"""Written by codeshell before format 2: three of six steps of the recipe below."""


@pytest.fixture
def trained():
    """A model of one block and its optimizer after an update."""
    torch.manual_seed(0)
    config = CodeShellConfig(vocab_size=9, n_positions=8, n_embd=16, n_layer=1, n_head=4, num_query_groups=1, n_inner=7)
    model = CodeShellForCausalLM(config)
    optimizer = AdamW(model.parameters(), lr=0.1)
    update(model, optimizer)
    return model, optimizer


def update(model, optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def contents(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors") | load_file(path / "optimizer.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def held(monkeypatch):
    """Two events: a file is being written, and it may continue."""
    writing, go = threading.Event(), threading.Event()
    real = TensorWriter.write

    def write(self, name, tensor):
        writing.set()
        assert go.wait(60)
        real(self, name, tensor)

    monkeypatch.setattr(TensorWriter, "write", write)
    return writing, go


def test_training_continues_while_a_checkpoint_is_written(tmp_path, trained, held):
    model, optimizer = trained
    writing, go = held
    before = {name: tensor.clone() for name, tensor in shards.model_tensors(model).items()}
    before |= {name: tensor.clone() for name, tensor in shards.optimizer_tensors(model, optimizer).items()}
    state = State(step=5, recent=[1.0])
    background = Saver(tmp_path)
    path = background.begin(state, model, optimizer)
    # Nothing is written yet, and everything changes: by training, and by somebody who writes the state in place.
    assert writing.wait(60) and checkpoints.list_steps(tmp_path) == []
    update(model, optimizer)
    state.step, state.recent[0] = 6, 2.0
    go.set()
    assert background.finish() == path and background.finish() is None
    assert equal(contents(path), before)
    kept = read_state(path)
    assert (kept.step, kept.recent, kept.world, kept.format) == (5, [1.0], 1, 2)


def test_a_second_save_waits_for_the_first_and_the_older_ones_are_deleted(tmp_path, trained):
    with Saver(tmp_path, keep=2, always=[2]) as background:
        for step in range(1, 7):
            background.begin(State(step=step), *trained)
    assert checkpoints.list_steps(tmp_path) == [2, 5, 6]
    assert not list(tmp_path.glob("*.partial"))


def test_a_save_is_given_up(tmp_path, trained, held):
    """The second Ctrl-C does so: nothing of it is left, and the older checkpoint is."""
    writing, go = held
    go.set()
    checkpoints.save(tmp_path, State(step=1), *trained)
    go.clear()
    with pytest.raises(KeyboardInterrupt), Saver(tmp_path) as background:
        background.begin(State(step=2), *trained)
        assert writing.wait(60)
        threading.Timer(0.05, go.set).start()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_an_error_of_the_training_lets_a_save_end(tmp_path, trained):
    with pytest.raises(ZeroDivisionError), Saver(tmp_path) as background:
        background.begin(State(step=2), *trained)
        raise ZeroDivisionError
    assert read_state(tmp_path / "step-000002").step == 2


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_a_line_and_is_known_before_the_next_save(tmp_path, trained, monkeypatch, background):
    def full(self, name, tensor):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints.save(tmp_path, State(step=1), *trained)
    with monkeypatch.context() as patch:
        patch.setattr(TensorWriter, "write", full)
        saves = Saver(tmp_path)
        with pytest.raises(UserError, match=r"step-000002: the disk is full; free some space"):
            if background:
                saves.begin(State(step=2), *trained)
                saves._thread.join()
                assert saves.failed
                saves.begin(State(step=3), *trained)
            else:
                checkpoints.save(tmp_path, State(step=2), *trained)
        assert not saves.failed
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    # The disk has room again.
    saves.begin(State(step=3), *trained)
    assert saves.finish() == tmp_path / "step-000003"


def test_one_process_alone_uses_no_process_group(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda *_, **__: pytest.fail("made a group"))
    monkeypatch.setattr(torch.distributed, "all_gather", lambda *_, **__: pytest.fail("communicated"))
    with Saver(tmp_path) as background:
        background.begin(State(step=1), *trained)
    checkpoints.load(tmp_path / "step-000001", *trained)


def test_nothing_is_pickled_or_unpickled(tmp_path, trained, monkeypatch):
    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "dumps"), (torch, "load"), (torch, "save")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"called {name}"))
    monkeypatch.setattr(pickle, "Unpickler", None)
    path = checkpoints.save(tmp_path, State(step=1), *trained)
    read_state(path)
    checkpoints.load(path, *trained)
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


def old_recipe():
    tree = to_tree(tiny_recipe(steps=6, checkpoint_every=3, keep_checkpoints=9, dropout=0.0))
    tree["model"] |= {"n_layer": 1, "n_embd": 16, "n_head": 2, "num_query_groups": 1}
    return from_tree(msgspec.json.decode(msgspec.json.encode(tree)), "test")


def test_a_checkpoint_of_the_earlier_format_is_checked_and_loaded(tmp_path):
    path = tmp_path / OLD.name
    shutil.copytree(OLD, path)
    state = read_state(path)
    assert (state.format, state.step, state.world, state.tokens) == (1, 3, 1, 768)
    model = CodeShellForCausalLM(CodeShellConfig.from_file(path / "config.json"))
    optimizer = AdamW(model.parameters())
    checkpoints.load(path, model, optimizer)
    assert equal(shards.model_tensors(model) | shards.optimizer_tensors(model, optimizer), contents(OLD))
    data = bytearray((path / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(DamagedError, match=r"optimizer\.safetensors has changed \(SHA-256\)"):
        read_state(path)


def test_a_run_of_the_earlier_format_is_resumed(tmp_path, tokenizer, capsys):
    write_run(tmp_path, tokenizer, texts(60), texts(12, "v"))
    shutil.copytree(OLD, tmp_path / "train" / "checkpoints" / OLD.name)
    assert run(old_recipe(), tmp_path, None)["steps"] == 6
    assert "step-000003, step 3 of 6" in capsys.readouterr().err
    assert read_state(tmp_path / "train" / "checkpoints" / "step-000006").format == 2


@pytest.mark.parametrize("change", [{"step": 8}, {"tokens": 1}, {"recent": [0.0]}, {"world": 2}, {"surplus": 1}])
def test_an_altered_state_is_damage(tmp_path, trained, change):
    path = checkpoints.save(tmp_path, State(step=7, recent=[1.0]), *trained)
    assert read_state(path).step == 7
    tree = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(tree | change))
    with pytest.raises(DamagedError, match=r"state\.json has changed \(XXH3-128\)"):
        read_state(path)


def test_the_state_of_another_step_is_damage(tmp_path, trained):
    seventh, eighth = (checkpoints.save(tmp_path, State(step=step), *trained) for step in (7, 8))
    # All other files are the same.
    shutil.copy(seventh / "state.json", eighth / "state.json")
    with pytest.raises(DamagedError, match=r"state\.json is of step 7"):
        read_state(eighth)


def test_a_state_that_promises_too_much_is_damage(tmp_path, trained):
    """A stranger can write a right checksum."""
    path = checkpoints.save(tmp_path, State(step=7), *trained)
    state = read_state(path)
    state.world = 1 << 40
    manifest.write_state(path, state)
    with pytest.raises(DamagedError, match="names 3 files, of"):
        read_state(path)


def test_the_files_reach_the_disk_before_their_directory_has_its_name(tmp_path, trained, monkeypatch):
    """fsync of each file, then the rename, then fsync of the parent: what a power cut cannot turn round."""
    order: list[str] = []
    real = {name: getattr(manifest, name) for name in ("flush_directory", "replace_directory")}
    flush = TensorWriter.flush
    monkeypatch.setattr(TensorWriter, "flush", lambda self: (order.append("file"), flush(self))[1])
    monkeypatch.setattr(saver, "_flush_names", lambda root: order.append("parent"))
    for name, function in real.items():
        monkeypatch.setattr(manifest, name, lambda *a, n=name, f=function: (order.append(n), f(*a))[1])
    checkpoints.save(tmp_path, State(step=7), *trained)
    assert order == ["file", "file", "flush_directory", "replace_directory", "parent"]
