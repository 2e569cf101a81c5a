"""What each rank does in tests/train/test_checkpoints_ranks.py; helpers/ranks.py starts them.

Weights and gradients are a hash of the tensor's name and the place in it, so every number of ranks starts from the same
bits, and an update is elementwise, so all have the same bits after it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.tensor_files import TensorWriter
from codeshell.optim import AdamW
from codeshell.train import checkpoints, manifest, saver, shards
from codeshell.train.checkpoints import step_directory
from codeshell.train.export import export
from codeshell.train.parallel import Group, place_rows
from helpers.tiny_run import byte_tokenizer

WORLDS = {"1": (1, 1), "2": (2, 1), "4": (4, 1), "2x2": (4, 2)}
"""Ranks, and replicas of the model among them."""

SCHEMES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "fp32": (torch.float32, {}),
    "masters": (torch.bfloat16, {"master_weights": True}),
    "bf16-moments": (torch.float32, {"moment_dtype": torch.bfloat16}),
}


def values(name: str, shape: torch.Size, salt: int) -> torch.Tensor:
    """fp32 numbers in [-0.1, 0.1), a function of the arguments alone."""
    seed = xxhash.xxh64_intdigest(f"{name}/{salt}".encode()) % 2**32
    count = int(np.prod(shape))
    numbers = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed)) % np.uint64(1 << 24)
    return torch.from_numpy((numbers.astype(np.float32) / 2**23 - 1) * np.float32(0.1)).view(shape)


def fill(model: torch.nn.Module, salt: int) -> None:
    for name, parameter in model.named_parameters():
        place_rows(parameter.detach(), values(name, parameter.shape, salt).to(parameter.dtype))


def make(group: Group, scheme: str, salt: int = 0, n_embd: int = 16) -> tuple[CodeShellForCausalLM, AdamW]:
    """A model whose rows no number of ranks divides: 9 rows on 4 ranks leave the last one without any."""
    dtype, options = SCHEMES[scheme]
    config = CodeShellConfig(
        vocab_size=9, n_vocab_used=9, n_positions=8, n_embd=n_embd, n_layer=1, n_head=4, num_query_groups=1, n_inner=7
    )
    model = CodeShellForCausalLM(config).to(dtype)
    if group.mesh is not None:
        for block in model.transformer.h:
            fully_shard(block, mesh=group.mesh)
        fully_shard(model, mesh=group.mesh)
    fill(model, salt)
    return model, AdamW(model.parameters(), lr=0.01, **options)


def update(model: torch.nn.Module, optimizer: AdamW, number: int) -> None:
    """One step, with gradients that are a function of its number."""
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        place_rows(parameter.grad, values(name, parameter.shape, 1000 + number).to(parameter.dtype))
    optimizer.step()


def differences(directory: Path, model: torch.nn.Module, optimizer: AdamW) -> list[str]:
    """Tensors of model and optimizer that are not, in dtype, shape and bits, this rank's rows of what safetensors reads
    from the checkpoint of one process."""
    expected = load_file(directory / "model.safetensors") | load_file(directory / "optimizer.safetensors")
    found = shards.model_tensors(model) | shards.optimizer_tensors(model, optimizer)
    wrong = sorted(expected.keys() ^ found.keys())
    for name in expected.keys() & found.keys():
        whole, tensor = expected[name], found[name]
        if isinstance(tensor, DTensor):
            # torch's own arithmetic of who has which rows.
            shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
            rows = whole[offset[0] : offset[0] + shape[0]]
            same = tensor.shape == whole.shape and same_bits(tensor.to_local(), rows)
        else:
            same = same_bits(tensor, whole)
        wrong += [] if same else [name]
    return wrong


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and a.view(bits).equal(b.view(bits))


def joined(replicate: int = 1) -> Group:
    """The ranks that helpers/ranks.py has started; no watch ends one whose neighbour was killed."""
    group = Group.join(replicate)
    if group.watch is not None:
        group.watch.close()
    return group


def save_all(home: str, source: str) -> None:
    """A checkpoint of each scheme after two steps, by these ranks, while training continues; and one before it."""
    group = joined(WORLDS[source][1])
    for scheme in SCHEMES:
        model, optimizer = make(group, scheme)
        with checkpoints.Saver(Path(home) / scheme / source, group) as saves:
            update(model, optimizer, 1)
            if scheme == "fp32":
                saves.begin(checkpoints.State(step=1, recent=[0.5]), model, optimizer)
            update(model, optimizer, 2)
            # As after a validation: the root's weights stay gathered until they are put away.
            with torch.no_grad():
                model(torch.tensor([[1, 2, 3, 4]]))
            state = checkpoints.State(step=2, recent=[1.0])
            saves.begin(state, model, optimizer)
            # Everything changes at once, as it may as soon as `begin` has returned.
            state.recent.append(99.0)
            fill(model, 77)
            for values_of in optimizer.state.values():
                for value in values_of.values():
                    value.fill_(7.0)


def reference(home: str) -> None:
    """Three checkpoints of each scheme, by one process at once."""
    group = joined()
    for scheme in SCHEMES:
        model, optimizer = make(group, scheme)
        for step in (1, 2, 3):
            update(model, optimizer, step)
            checkpoints.save(Path(home) / scheme / "reference", checkpoints.State(step=step), model, optimizer, group)


def load_all(home: str, target: str) -> dict[str, dict[str, Any]]:
    """Each checkpoint of `save_all`, loaded by these ranks into other weights, and after one more update."""
    group = joined(WORLDS[target][1])
    result = {}
    for scheme in SCHEMES:
        for source in WORLDS:
            path = Path(home) / scheme / source / "step-000002"
            model, optimizer = make(group, scheme, salt=5)
            state = checkpoints.read_state(path, group)
            checkpoints.load(path, model, optimizer, group)
            wrong = differences(Path(home) / scheme / "reference" / "step-000002", model, optimizer)
            update(model, optimizer, 3)
            wrong += differences(Path(home) / scheme / "reference" / "step-000003", model, optimizer)
            result[f"{scheme} {source}"] = {"wrong": wrong, "recent": state.recent, "world": state.world}
    return result


def attempt(work: Callable[[], Any]) -> str:
    try:
        return f"no error: {work()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def choices(roots: list[str]) -> list[list[str]]:
    """What `read_state` says of each checkpoint below each root, from the newest on, as a resume asks."""
    group = joined()
    return [
        [
            attempt(lambda step=step, root=root: checkpoints.read_state(step_directory(Path(root), step), group).step)
            for step in reversed(checkpoints.list_steps(Path(root), group))
        ]
        for root in roots
    ]


real_write, real_rename = TensorWriter.write, manifest.replace_directory


def full_disk(self: TensorWriter, name: str, tensor: torch.Tensor) -> None:
    real_write(self, name, tensor)
    if name.startswith("exp_avg/"):
        raise OSError(errno.ENOSPC, "No space left on device")


def full_at_the_third(self: TensorWriter, name: str, tensor: torch.Tensor) -> None:
    real_write(self, name, tensor)
    if len(self._missing) == len(self.names) - 3:
        raise OSError(errno.ENOSPC, "No space left on device")


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rename_and_kill(temporary: Path, target: Path) -> None:
    real_rename(temporary, target)
    kill()


HARMS: dict[str, tuple[Any, str, Any]] = {
    "full disk": (TensorWriter, "write", full_disk),
    "export: full disk": (TensorWriter, "write", full_at_the_third),
    "killed in its file": (TensorWriter, "write", kill),
    "killed before the commit": (manifest, "replace_directory", kill),
    "killed after the commit": (manifest, "replace_directory", rename_and_kill),
    "a fault of ours": (saver, "xxhash", None),
}


def fail(root: str, harm: str, rank: int, background: bool) -> list[str]:
    """What came of a third save, in which something happens to one rank."""
    group = joined()
    model, optimizer = make(group, "fp32")
    update(model, optimizer, 3)
    if group.rank == rank:
        setattr(*HARMS[harm])
    state = checkpoints.State(step=3)
    if not background:
        return [attempt(lambda: checkpoints.save(Path(root), state, model, optimizer, group))]
    saves = checkpoints.Saver(Path(root), group)
    saves.begin(state, model, optimizer)
    return [attempt(saves.finish), attempt(saves.finish), str(saves.failed)]


def export_all(home: str, harm: str = "") -> list[str]:
    """Model directories from the shards of these ranks, in both layouts."""
    group = joined()
    model, _ = make(group, "fp32")
    if harm and group.rank == 0:
        setattr(*HARMS[harm])

    def one(layout: Any) -> str:
        return attempt(lambda: export(Path(home) / f"{layout}-{group.world}", model, layout, byte_tokenizer(), group))

    return [one("codeshell"), one("starcoder2")]


def save_apart(home: str) -> str:
    """A save into a directory that is another one on each machine."""
    group = joined()
    model, optimizer = make(group, "fp32")
    root = Path(home) / f"machine-{group.rank}"
    return attempt(lambda: checkpoints.save(root, checkpoints.State(step=1), model, optimizer, group))


def kill_at(rank: int, step: int, in_save: bool, delay: float, **_: Any) -> None:
    """Have one rank killed so many seconds after it has begun a step, or to write the checkpoint of that step or a
    later one."""
    if int(os.environ.get("RANK", "0")) != rank:
        return
    from codeshell.train.loop import Trainer

    def soon() -> None:
        threading.Timer(delay, kill).start()

    gradient, write = Trainer._gradient, saver._Job._write

    def begins(self: Any, *arguments: Any) -> float:
        if self.state.step + 1 == step:
            soon()
        return gradient(self, *arguments)

    def writes(self: Any) -> Any:
        if self.state.step >= step:
            soon()
        return write(self)

    if in_save:
        saver._Job._write = writes  # type: ignore[method-assign]
    else:
        Trainer._gradient = begins  # type: ignore[method-assign]
