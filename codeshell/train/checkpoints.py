"""Checkpoints: `step-NNNNNN/` with `config.json`, `model.safetensors`, `optimizer.safetensors` and `state.json`.

A checkpoint is written under a temporary name, flushed to the disk and renamed. So it is whole or absent, and a full
disk or a kill leaves the older ones as they were. `state.json` is written last and holds the size and SHA-256 of the
other files. Nothing is pickled. No state of a random generator is stored: every draw of the trainer is a hash of the
seed and the step (see `codeshell.train.loop`), so the step is enough.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from codeshell.engine.files import TEMPORARY, disk_error, make_directory, write_json
from codeshell.errors import UserError
from codeshell.recipe import Recipe, changed, describe, flatten, to_tree
from codeshell.train.batches import Position

if TYPE_CHECKING:
    import torch

    from codeshell.model import CodeShellForCausalLM

FORMAT = 1
"""Version of `state.json`; a checkpoint of another version is refused."""

MODEL, OPTIMIZER, CONFIG, STATE = "model.safetensors", "optimizer.safetensors", "config.json", "state.json"


class PhaseResult(msgspec.Struct, frozen=True):
    """Validation at the end of a phase; a number is None if there was no validation or it was not finite."""

    step: int
    valid_loss: float | None
    valid_bits_per_byte: float | None


class State(msgspec.Struct, kw_only=True):
    """Where a run is: everything but the tensors."""

    format: int = FORMAT
    step: int = 0
    """Steps done; the next step is `step + 1`."""
    phase: int = 0
    """Index of the last step's phase."""
    context: int = 0
    """Context length of the last step, in tokens."""
    positions: tuple[Position, ...] = ()
    """Position of the next token in each lane; empty before the first step."""
    tokens: int = 0
    """Tokens trained on, those of skipped updates included."""
    recent: list[float] = []
    """Losses of the last accepted updates, the window of `codeshell.train.spikes`."""
    skipped: int = 0
    """Updates not applied so far."""
    in_row: int = 0
    """Updates not applied since the last one that was."""
    reasons: dict[str, int] = {}
    """Why updates were not applied, and how many for each reason. Checkpoints of earlier versions do not say."""
    phase_results: list[PhaseResult] = []
    seed: int = 0
    """The recipe's seed, and below its sections `model` and `train`."""
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    precision: Literal["fp32", "bf16"] = "fp32"
    """The one in use; the recipe may say `auto`."""
    threads: int = 0
    """The number in use; the recipe may say 0, all cores."""
    tokenizer: str = ""
    """Hash of the tokenizer."""
    corpus: str = ""
    """Fingerprint of the training documents."""
    files: dict[str, tuple[int, str]] = {}
    """Size and SHA-256 of the other files."""


class DamagedError(Exception):
    """A checkpoint that cannot be used as it lies on the disk; the message says what is wrong with it."""


def sections(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's sections `model` and `train`, as they are after a round trip through JSON: tuples are lists."""
    tree = msgspec.json.decode(msgspec.json.encode(to_tree(recipe)))
    return tree["model"], tree["train"]


def step_directory(root: Path, step: int) -> Path:
    """`root/step-000123`."""
    return root / f"step-{step:06d}"


def list_steps(root: Path) -> list[int]:
    """Steps that have a checkpoint, in ascending order."""
    names = (re.fullmatch(r"step-(\d{6,})", path.name) for path in root.glob("step-*"))
    return sorted(int(match.group(1)) for match in names if match)


def save(root: Path, state: State, model: CodeShellForCausalLM, optimizer: torch.optim.Optimizer) -> Path:
    """Write the checkpoint of `state.step` completely, then put it in place of an earlier one of that step.

    Raises:
        UserError: the disk is full or read-only; the older checkpoints are as they were.
    """
    target = step_directory(root, state.step)
    # The suffix hides it from `list_steps`, and tells `prune` what a killed run left over.
    temporary = target.with_name(target.name + TEMPORARY)
    make_directory(root)
    with disk_errors(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(_model_tensors(model), temporary / MODEL, metadata={"format": "pt"})
        save_file(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER)
        write_json(temporary / CONFIG, model.config.to_dict())
        # The state comes last, because it names the size and hash of the others.
        state.files = {name: _digest(temporary / name) for name in (MODEL, OPTIMIZER, CONFIG)}
        write_json(temporary / STATE, msgspec.to_builtins(state))
        # Contents reach the disk before the name does: after a power cut, a directory with the name is whole.
        flush_directory(temporary)
        replace_directory(temporary, target)
    return target


def prune(root: Path, keep: int, always: Iterable[int]) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps in `always`, and what a kill left over."""
    steps = list_steps(root)
    for step in set(steps[:-keep]) - set(always):
        path = step_directory(root, step)
        # Renamed first: if a kill comes while it is deleted, what is left must not look like a checkpoint.
        path.rename(path.with_name(path.name + TEMPORARY))
    for path in root.glob(f"step-*{TEMPORARY}"):
        shutil.rmtree(path)


def read_state(path: Path) -> State:
    """Read a checkpoint's state, and check its files by size and SHA-256.

    Raises:
        DamagedError: a file is missing, cut short or changed.
        UserError: the checkpoint is of another version of codeshell.
    """
    try:
        data = (path / STATE).read_bytes()
        version = msgspec.json.decode(data)["format"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise DamagedError(f"{STATE}: {error}") from None
    # Before the rest is parsed: another version may have other fields.
    if version != FORMAT:
        raise UserError(
            f"{path}: the checkpoint has format {version}, this codeshell reads format {FORMAT}; "
            "resume with the version that wrote it"
        )
    try:
        state = msgspec.json.decode(data, type=State)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{STATE}: {error}") from None
    # The size first, because it is free and finds most damage; hashing reads the whole file.
    for name in (MODEL, OPTIMIZER, CONFIG):
        size, digest = state.files.get(name, (-1, ""))
        try:
            found = (path / name).stat().st_size
            if found != size:
                raise DamagedError(f"{name} has {found} bytes of {size}")
            if _digest(path / name)[1] != digest:
                raise DamagedError(f"{name} has changed (SHA-256)")
        except OSError as error:
            raise DamagedError(f"{name}: {error.strerror}") from None
    return state


def check(path: Path, state: State, recipe: Recipe, tokenizer: str, corpus: str, model: CodeShellForCausalLM) -> None:
    """Refuse a checkpoint that this run cannot resume from.

    Raises:
        UserError: another shape, tokenizer or corpus, or a setting that a resumed run may not change.
    """
    # Shapes come first, and from the header of the file alone: no tensor is read.
    expected = {name: tuple(tensor.shape) for name, tensor in _model_tensors(model).items()}
    with safe_open(path / MODEL, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path / MODEL}: checkpoint of another shape: {name} is {found.get(name, 'absent')}, the recipe's "
                f"model has {expected.get(name, 'no such tensor')}; use the recipe it was trained with, or another -o"
            )
    if state.tokenizer != tokenizer:
        raise UserError(
            f"{path}: trained with tokenizer {state.tokenizer[:12]}, this run has {tokenizer[:12]}; "
            "put that tokenizer back, or train into another -o"
        )
    model_now, train_now = sections(recipe)
    was = flatten({"seed": state.seed, "model": state.model, "train": state.train})
    now = flatten({"seed": recipe.seed, "model": model_now, "train": train_now})
    keys = changed(was, now)
    if keys:
        values = describe(keys, was, now)
        raise UserError(f"{path}: trained with other settings ({values}); set them back, or train into another -o")
    if state.corpus != corpus:
        raise UserError(
            f"{path}: trained on other documents than those in tokens/, so its place in them means nothing; "
            "put those token shards back, or train into another -o"
        )


def load(path: Path, model: CodeShellForCausalLM, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors into the model and the optimizer; `check` must have accepted it before."""
    import torch

    # Copied into the existing parameters, because the optimizer holds references to them.
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(path / MODEL).items():
            parameters[name].copy_(tensor)
    # The file names optimizer state `KIND/PARAMETER`. torch wants {number: {kind: tensor}}, and numbers the parameters
    # in the order of the optimizer's groups.
    index = {id(parameter): number for number, parameter in enumerate(_in_order(optimizer))}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path / OPTIMIZER).items():
        kind, name = key.split("/", 1)
        states.setdefault(index[id(parameters[name])], {})[kind] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


@contextlib.contextmanager
def disk_errors(target: Path, temporary: Path) -> Iterator[None]:
    """Turn a disk that is full or read-only into a `UserError`, and remove `temporary` if the block fails."""
    try:
        yield
    except SafetensorError as error:
        # safetensors writes in Rust, and its exception has the system's error number only in its text.
        shutil.rmtree(temporary, ignore_errors=True)
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise disk_error(OSError(int(code.group(1)), os.strerror(int(code.group(1)))), target) from error
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, target) from error
    except BaseException:
        # Also for Ctrl-C: no temporary directory stays.
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def flush_directory(directory: Path) -> None:
    """fsync every file of a directory and the directory itself."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems cannot flush a directory
                raise
        finally:
            os.close(handle)


def replace_directory(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target`; a directory that has this name is moved aside and deleted."""
    if target.exists():
        # A directory cannot be renamed over one that is not empty. Between the two renames no directory has the name;
        # after a kill there, the next run writes it again.
        old = target.with_name(target.name + ".old" + TEMPORARY)
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(target)


def _model_tensors(model: CodeShellForCausalLM) -> dict[str, torch.Tensor]:
    """The weights by name; `named_parameters` gives a tied weight once."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def _optimizer_tensors(model: CodeShellForCausalLM, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors, named `KIND/PARAMETER` (`exp_avg/transformer.wte.weight`)."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}/{name}"] = value.detach().contiguous()
    return tensors


def _in_order(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """The optimizer's parameters in the order in which torch numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _digest(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
