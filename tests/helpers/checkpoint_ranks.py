"""Checkpoints of several processes, for tests/train/test_checkpoints_ranks.py: `python checkpoint_ranks.py DIRECTORY`.

A script, not a test. It imports torch once and forks the ranks of each case, which is sound as long as this process
itself computes nothing with torch. It prints one JSON object, {case: what came of it}.

Weights and gradients are a hash of the tensor's name and the place in it, so every number of ranks starts from the same
bits, and an update is elementwise, so all have the same bits after it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch._dynamo
import torch.distributed.tensor
import xxhash
from torch.distributed.fsdp import fully_shard

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.tensor_files import TensorWriter
from codeshell.optim import AdamW
from codeshell.train import checkpoints, manifest, saver, shards
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
    seed = xxhash.xxh64_intdigest(f"{name}/{salt}") % 2**32
    count = int(np.prod(shape))
    numbers = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed)) % np.uint64(1 << 24)
    return torch.from_numpy((numbers.astype(np.float32) / 2**23 - 1) * np.float32(0.1)).view(shape)


def fill(model: torch.nn.Module, salt: int) -> None:
    for name, parameter in shards.parameters(model).items():
        place_rows(parameter.detach(), values(name, parameter.shape, salt).to(parameter.dtype))


def make(group: Group, scheme: str, salt: int = 0, n_embd: int = 16) -> tuple[CodeShellForCausalLM, AdamW]:
    """A model whose rows no number of ranks divides: 9 rows on 4 ranks leave the last one without any."""
    dtype, options = SCHEMES[scheme]
    config = CodeShellConfig(
        vocab_size=9, n_vocab_used=9, n_positions=8, n_embd=n_embd, n_layer=2, n_head=4, num_query_groups=1, n_inner=7
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
    for name, parameter in shards.parameters(model).items():
        parameter.grad = torch.zeros_like(parameter)
        place_rows(parameter.grad, values(name, parameter.shape, 1000 + number).to(parameter.dtype))
    optimizer.step()


def fingerprints(model: torch.nn.Module, optimizer: AdamW) -> dict[str, str]:
    """Dtype and hash of every whole tensor of model and optimizer."""
    result = {}
    for name, tensor in (shards.model_tensors(model) | shards.optimizer_tensors(model, optimizer)).items():
        whole = tensor.full_tensor() if hasattr(tensor, "placements") else tensor
        data = whole.contiguous().view(-1).view(torch.uint8).numpy()
        result[name] = f"{whole.dtype} {tuple(whole.shape)} {xxhash.xxh3_64_hexdigest(data)}"
    return result


def forked(world: int, replicate: int, work: Callable[[Group], Any]) -> list[Any]:
    """What `work` gives on every rank: its value, {"error": …}, or {"status": …} of a rank that was killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            torch.set_num_threads(1)
            try:
                group = Group.join(replicate)
                if group.watch is not None:
                    group.watch.close()
                answer = work(group)
            except BaseException as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
        os.close(write)
        children.append((child, read))
    answers: list[Any] = []
    for child, read in children:
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        answers.append(json.loads(text) if text else {"status": os.waitstatus_to_exitcode(status)})
    return answers


def written(root: Path, scheme: str, group: Group, steps: int = 2, blocking: bool = False) -> dict[str, str]:
    """Train and save each step; the fingerprints at the end."""
    model, optimizer = make(group, scheme)
    with checkpoints.Saver(root, group) as background:
        for step in range(1, steps + 1):
            update(model, optimizer, step)
            state = checkpoints.State(step=step, recent=[0.5 * step])
            if blocking:
                checkpoints.save(root, state, model, optimizer, group)
            else:
                background.begin(state, model, optimizer)
                # The next step may change everything while the copy is written.
                state.recent.append(99.0)
                if step == steps:
                    before = fingerprints(model, optimizer)
                    fill(model, 77)
                    update(model, optimizer, 77)
    return fingerprints(model, optimizer) if blocking else before


def loaded(path: Path, scheme: str, group: Group) -> dict[str, Any]:
    """Load into a model with other weights; fingerprints then and after one more update."""
    model, optimizer = make(group, scheme, salt=5)
    state = checkpoints.read_state(path, group)
    checkpoints.load(path, model, optimizer, group)
    at = fingerprints(model, optimizer)
    update(model, optimizer, state.step + 1)
    return {"at": at, "after": fingerprints(model, optimizer), "recent": state.recent, "world": state.world}


def transfers(home: Path) -> dict[str, Any]:
    """Save on each number of ranks, load on each; the reference is one process."""
    cases: dict[str, Any] = {}
    for scheme in SCHEMES:
        reference = written(home / scheme / "reference", scheme, ALONE, steps=3, blocking=True)
        cases[f"{scheme} reference"] = reference
    for source, (world, replicate) in WORLDS.items():

        def save_all(group: Group, source: str = source) -> dict[str, Any]:
            return {scheme: written(home / scheme / source, scheme, group) for scheme in SCHEMES}

        answers = forked(world, replicate, save_all)
        cases[f"save {source}"] = answers
    for target, (world, replicate) in WORLDS.items():

        def load_all(group: Group) -> dict[str, Any]:
            return {
                f"{scheme} {source}": loaded(home / scheme / source / "step-000002", scheme, group)
                for scheme in SCHEMES
                for source in WORLDS
            }

        cases[f"load {target}"] = forked(world, replicate, load_all)
    return cases


def attempt(work: Callable[[], Any]) -> str:
    try:
        return f"no error: {work()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def choices(root: Path, group: Group) -> list[str]:
    """What `read_state` says of each checkpoint, from the newest on, as a resume asks."""
    said = []
    for step in reversed(checkpoints.list_steps(root, group)):
        path = checkpoints.step_directory(root, step)
        said.append(attempt(lambda path=path: checkpoints.read_state(path, group).step))
    return said


def damages(home: Path) -> dict[str, Any]:
    """Each kind of damage to the newest of two checkpoints of two ranks, as each of two ranks sees it."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-7])

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)

    old = home / "fp32" / "2" / "step-000001"
    harms: dict[str, Callable[[Path], Any]] = {"whole": lambda path: None}
    for name in [path.name for path in sorted(old.iterdir())]:
        harms |= {
            f"missing {name}": lambda path, name=name: (path / name).unlink(),
            f"cut {name}": lambda path, name=name: cut(path / name),
            f"flipped {name}": lambda path, name=name: flip(path / name),
        }
        if name != "config.json":  # that of another step is the same
            harms[f"other step's {name}"] = lambda path, name=name: shutil.copy(old / name, path / name)
    harms["directory"] = lambda path: ((path / "state.json").unlink(), (path / "state.json").mkdir())
    for name, harm in harms.items():
        shutil.copytree(home / "fp32" / "2", home / "harmed" / name)
        harm(home / "harmed" / name / "step-000002")

    def see(group: Group) -> dict[str, list[str]]:
        return {name: choices(home / "harmed" / name, group) for name in harms}

    return {"damage": forked(2, 1, see), "damage, alone": [see(ALONE)]}


def failures(home: Path) -> dict[str, Any]:
    """Saves that fail on one rank, by a full disk or by a kill."""
    cases: dict[str, Any] = {}

    def case(name: str, harm: Callable[[Group], None], begin: bool = True, world: int = 2) -> None:
        root = home / "failed" / name
        shutil.copytree(home / "fp32" / "2", root)

        def work(group: Group) -> list[str]:
            model, optimizer = make(group, "fp32")
            update(model, optimizer, 3)
            harm(group)
            state = checkpoints.State(step=3)
            if not begin:
                return [attempt(lambda: checkpoints.save(root, state, model, optimizer, group))]
            background = checkpoints.Saver(root, group)
            background.begin(state, model, optimizer)
            said = [attempt(background.finish)]
            return [*said, attempt(background.finish), str(background.failed)]

        cases[name] = {
            "ranks": forked(world, 1, work),
            "names": sorted(path.name for path in root.iterdir()),
            "steps": choices(root, ALONE),
        }

    real_write, real_rename = TensorWriter.write, manifest.replace_directory

    def full_disk_of(rank: int) -> Callable[[Group], None]:
        def write(self: TensorWriter, name: str, tensor: torch.Tensor) -> None:
            real_write(self, name, tensor)
            if name.startswith("exp_avg/"):
                raise OSError(errno.ENOSPC, "No space left on device")

        return lambda group: setattr(TensorWriter, "write", write) if group.rank == rank else None

    def kill_in_write(rank: int) -> Callable[[Group], None]:
        def write(self: TensorWriter, name: str, tensor: torch.Tensor) -> None:
            real_write(self, name, tensor)
            os.kill(os.getpid(), signal.SIGKILL)

        return lambda group: setattr(TensorWriter, "write", write) if group.rank == rank else None

    def kill_at_commit(before: bool) -> Callable[[Group], None]:
        def replace(temporary: Path, target: Path) -> None:
            if not before:
                real_rename(temporary, target)
            os.kill(os.getpid(), signal.SIGKILL)

        return lambda group: setattr(manifest, "replace_directory", replace) if group.rank == 0 else None

    def bug(group: Group) -> None:
        if group.rank == 1:
            saver.xxhash = None  # type: ignore[assignment]

    for rank in (0, 1):
        case(f"full disk of {rank}", full_disk_of(rank))
        case(f"full disk of {rank}, blocking", full_disk_of(rank), begin=False)
        case(f"killed {rank}", kill_in_write(rank))
    case("killed before the commit", kill_at_commit(True))
    case("killed after the commit", kill_at_commit(False))
    case("a fault of ours", bug)
    return cases


def exports(home: Path) -> dict[str, Any]:
    """Model directories from one process and from the shards of two, in both layouts, and on a full disk."""
    cases: dict[str, Any] = {}
    real = TensorWriter.write

    def work(group: Group) -> list[str]:
        said = []
        for layout in ("codeshell", "starcoder2"):
            model, _ = make(group, "fp32")
            target = home / "exported" / f"{layout}-{group.world}"
            said.append(attempt(lambda: export(target, model, layout, byte_tokenizer(), group)))
        if group.world > 1:

            def write(self: TensorWriter, name: str, tensor: torch.Tensor) -> None:
                real(self, name, tensor)
                raise OSError(errno.ENOSPC, "No space left on device")

            TensorWriter.write = write  # type: ignore[method-assign]
            said.append(attempt(lambda: export(target, model, "codeshell", byte_tokenizer(), group)))
            TensorWriter.write = real  # type: ignore[method-assign]
        return said

    (home / "exported").mkdir()
    cases["export 1"] = [work(ALONE)]
    cases["export 2"] = forked(2, 1, work)
    return cases


def strangers(home: Path) -> dict[str, Any]:
    """A directory that is not the same on all machines."""

    def work(group: Group) -> str:
        model, optimizer = make(group, "fp32")
        root = home / "apart" / f"machine-{group.rank}"
        return attempt(lambda: checkpoints.save(root, checkpoints.State(step=1), model, optimizer, group))

    return {"apart": forked(2, 1, work)}


ALONE = Group.alone(torch.device("cpu"))

if __name__ == "__main__":
    place = Path(sys.argv[1])
    results: dict[str, Any] = {}
    # Alone in a child, too: this process may not compute before it forks.
    for part in (transfers, damages, failures, exports, strangers):
        results |= part(place)
    with contextlib.suppress(UserError):
        print(json.dumps(results))
