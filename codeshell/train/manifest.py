"""The directory of a checkpoint, `step-NNNNNN/`, and its `state.json`: everything but the tensors.

`state.json` is written last and is the manifest: it names the other files, each with its size and XXH3-128, and has a
checksum of itself. A checkpoint whose files do not agree with it is damaged, whatever the reason: a file that is
missing, cut short, altered, or another step's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import xxhash

from codeshell.engine.files import TEMPORARY, disk_error, write_json
from codeshell.errors import UserError
from codeshell.model.tensor_files import TensorFileError, TensorParts, part_name
from codeshell.train.agreement import Ranks, agree, gather, patient
from codeshell.train.batches import Position

FORMAT = 2
"""Version of `state.json`. Format 1 had SHA-256 where 2 has XXH3-128, and no parts; it is read, too."""

MODEL, OPTIMIZER = "model", "optimizer"
"""Stems of the files with tensors; see `codeshell.model.tensor_files.part_name`."""

CONFIG, STATE = "config.json", "state.json"

_BLOCK = 4 << 20
"""Bytes that are read and hashed at a time."""


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
    """Position of the next token in each lane, of all processes; empty before the first step."""
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
    """The recipe's seed, and below its sections `model`, `train` and `finetune`."""
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    finetune: dict[str, Any] = {}
    base: str = ""
    """Hash of the weights that training began with; empty where they were drawn."""
    before: PhaseResult | None = None
    """Validation of the model that training began with, where there is a base."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The one in use; the recipe may say `auto`."""
    threads: int = 0
    """The number in use; the recipe may say 0, all cores."""
    world: int = 1
    """Processes that trained together, each of which wrote a part of the tensors."""
    tokenizer: str = ""
    """Hash of the tokenizer."""
    corpus: str = ""
    """Fingerprint of the training documents."""
    files: dict[str, tuple[int, str]] = {}
    """Size and XXH3-128 of the other files."""
    checksum: str = ""
    """XXH3-128 of `state.json` without this key."""


class DamagedError(Exception):
    """A checkpoint that cannot be used as it lies on the disk; the message says what is wrong with it."""


def step_directory(root: Path, step: int) -> Path:
    """`root/step-000123`."""
    return root / f"step-{step:06d}"


def list_steps(root: Path, group: Ranks | None = None) -> list[int]:
    """Steps that have a checkpoint, in ascending order; with a group, what its first process sees, on all of them."""
    names = (re.fullmatch(r"step-(\d{6,})", path.name) for path in root.glob("step-*"))
    steps: list[int] = gather(sorted(int(match.group(1)) for match in names if match), patient(group))[0]
    return steps


def prune(root: Path, keep: int, always: Iterable[int]) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps in `always`, and what a kill left over."""
    steps = list_steps(root)
    for step in set(steps[:-keep]) - set(always):
        path = step_directory(root, step)
        # Renamed first: if a kill comes while it is deleted, what is left must not look like a checkpoint.
        path.rename(path.with_name(path.name + TEMPORARY))
    for path in root.glob(f"step-*{TEMPORARY}"):
        shutil.rmtree(path)


def file_names(parts: int) -> list[str]:
    """The files that `state.json` has to name, where each of `parts` processes wrote its own."""
    return [part_name(stem, part, parts) for stem in (MODEL, OPTIMIZER) for part in range(parts)] + [CONFIG]


def write_state(directory: Path, state: State) -> None:
    """Write `state.json` with the checksum of itself."""
    tree = msgspec.to_builtins(state)
    tree["checksum"] = _own_checksum(tree)
    write_json(directory / STATE, tree)


def read_state(path: Path, group: Ranks | None = None) -> State:
    """Read a checkpoint's state, and check its files by size and checksum.

    With a group, its processes share the files among them, and all raise the same error or return the same state.

    Raises:
        DamagedError: a file is missing, cut short or changed.
        UserError: the checkpoint is of another version of codeshell.
    """
    processes = patient(group)
    rank, world = (group.rank, group.world) if group else (0, 1)
    state, error = None, None
    try:
        state = read_manifest(path)
        _check_files(path, state, rank, world)
    except (UserError, DamagedError) as caught:
        error = caught
    # A refusal counts before damage, because it says what to do. Each process must hear both answers.
    agree(error if isinstance(error, UserError) else None, processes)
    agree(error, processes, DamagedError)
    assert state is not None
    # They have all read one file; a network file system may still show an older one to some machines.
    if len(set(gather(state.checksum, processes))) > 1:
        raise DamagedError(f"{STATE} is not the same on all machines")
    return state


def read_manifest(path: Path) -> State:
    """Read `state.json` alone, and check it but not the other files.

    Raises:
        DamagedError: it is missing, cut short, changed, or another step's.
        UserError: the checkpoint is of another version of codeshell.
    """
    try:
        tree = msgspec.json.decode((path / STATE).read_bytes())
        version = tree["format"]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DamagedError(f"{STATE}: {error}") from None
    # Before the rest is parsed: another version may have other fields.
    if version not in (1, FORMAT):
        raise UserError(
            f"{path}: the checkpoint has format {version}, this codeshell reads formats 1 and {FORMAT}; "
            "resume with the version that wrote it"
        )
    try:
        state = msgspec.convert(tree, State)
    except msgspec.ValidationError as error:
        raise DamagedError(f"{STATE}: {error}") from None
    if version == 1:
        return state
    if state.checksum != _own_checksum(tree):
        raise DamagedError(f"{STATE} has changed (XXH3-128)")
    if path.name != step_directory(path.parent, state.step).name:
        raise DamagedError(f"{STATE} is of step {state.step}")
    return state


def open_tensors(path: Path, state: State, stem: str) -> TensorParts:
    """The tensors of a checkpoint, `MODEL` or `OPTIMIZER`.

    Raises:
        DamagedError: the parts do not make whole tensors.
    """
    try:
        return TensorParts(path, [part_name(stem, part, state.world) for part in range(state.world)])
    except TensorFileError as error:
        raise DamagedError(str(error)) from None


def digest(path: Path, kind: Literal["xxh3", "sha256"] = "xxh3") -> tuple[int, str]:
    """Size in bytes and checksum of a file."""
    hasher: Any = xxhash.xxh3_128() if kind == "xxh3" else hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    size = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return size, hasher.hexdigest()


def _own_checksum(tree: dict[str, Any]) -> str:
    tree = {key: value for key, value in tree.items() if key != "checksum"}
    return str(xxhash.xxh3_128(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest())


def _check_files(path: Path, state: State, rank: int, world: int) -> None:
    """Check the sizes of all files, and the checksums of this process's share of them."""
    sizes: dict[str, int] = {}
    if len(state.files) != 2 * state.world + 1:
        raise DamagedError(f"{STATE} names {len(state.files)} files, of {state.world} processes")
    for name in file_names(state.world):
        size, _ = state.files.get(name, (-1, ""))
        try:
            sizes[name] = (path / name).stat().st_size
        except OSError as error:
            raise DamagedError(f"{name}: {error.strerror}") from None
        # The size first, because it is free and finds most damage; hashing reads the whole file.
        if sizes[name] != size:
            raise DamagedError(f"{name} has {sizes[name]} bytes of {size}")
    # Dealt from the largest to the smallest.
    for name in sorted(sizes, key=lambda name: (-sizes[name], name))[rank::world]:
        try:
            found = digest(path / name, "sha256" if state.format == 1 else "xxh3")
        except OSError as error:
            raise DamagedError(f"{name}: {error.strerror}") from None
        if found != state.files[name]:
            raise DamagedError(f"{name} has changed ({'SHA-256' if state.format == 1 else 'XXH3-128'})")


@contextlib.contextmanager
def disk_errors(target: Path, temporary: Path) -> Iterator[None]:
    """Turn a disk that is full or read-only into a `UserError`, and remove `temporary` if the block fails."""
    try:
        yield
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
