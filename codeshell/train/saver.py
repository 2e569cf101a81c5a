"""Writing checkpoints: at once, or in a thread while training continues.

Every process writes the rows that it holds, in two files; the first process then writes `state.json` with the size and
checksum of all files, and gives the directory its name. That rename is the commit: before it the checkpoint does not
exist, after it the checkpoint is whole. A kill, a full disk or a lost process at any moment leaves the older
checkpoints as they were, and at most a directory with a temporary name, which the next save sweeps.

What each process does in a save:

    begin    the training's thread   finish an earlier save; copy tensors and state to the host's memory
    write    a thread                both files, through the checksum, to the disk
    agree    a thread                all say what they wrote, or why not: the same verdict on all
    commit   a thread of the first   config.json, state.json, fsync, rename, delete older checkpoints
    agree    a thread                the first says how that went
    finish   the training's thread   wait; raise the verdict, which is the same on all

The training's thread takes part in no communication of a save, so that never mixes with the training's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

from codeshell.engine.files import TEMPORARY, disk_error, make_directory, write_json
from codeshell.errors import UserError
from codeshell.model.tensor_files import ROWS, Layout, TensorWriter, part_name
from codeshell.train import manifest
from codeshell.train.agreement import LostProcessError, Ranks, agree, patient
from codeshell.train.manifest import CONFIG, FORMAT, MODEL, OPTIMIZER, State, step_directory
from codeshell.train.shards import Rows, model_tensors, optimizer_tensors, to_write

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup


_ABANDON_SECONDS = 10.0
"""How long `abandon` waits for the thread, which stops at its next chunk; only a flush can keep it longer."""


class _AbandonedError(Exception):
    """The save was given up on purpose."""


class _Job:
    """One save of one process: what to write, and what came of it.

    Attributes:
        files: stem and rows of the two files.
        committed: whether the first process has said that the checkpoint is in place.
        error: why not: an `AgreedError` on all processes, or a `LostProcessError`.
    """

    def __init__(
        self,
        root: Path,
        state: State,
        config: dict[str, Any],
        files: dict[str, dict[str, Rows]],
        ranks: tuple[int, int],
        processes: ProcessGroup | None,
        keep: int | None,
        always: Iterable[int],
    ) -> None:
        self.root, self.config, self.files = root, config, files
        self.rank, self.world = ranks
        self.processes, self.keep, self.always = processes, keep, list(always)
        self.target = step_directory(root, state.step)
        # The suffix hides it from `list_steps`, and tells `prune` what a killed run left over.
        self.temporary = self.target.with_name(self.target.name + TEMPORARY)
        # A state of its own: the training changes its state while this is written.
        self.state = msgspec.convert(msgspec.to_builtins(state), State)
        self.state.format, self.state.world, self.state.files = FORMAT, self.world, {}
        self.stop = threading.Event()
        self.committed = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the save; never raises."""
        try:
            self._agree(self._prepare)
            self._agree(self._write)
            self._agree(self._commit)
            self.committed = True
        except BaseException as error:
            self.error = error
            if self.rank == 0:
                shutil.rmtree(self.temporary, ignore_errors=True)
        finally:
            # The copies are as large as this process's part of model and optimizer.
            self.files = {}

    def _agree(self, work: Callable[[], dict[str, tuple[int, str]] | None]) -> None:
        """Do one part, and hear from all processes whether theirs went well; raises on all if it failed on one."""
        files: dict[str, tuple[int, str]] | None = None
        error: BaseException | None = None
        try:
            files = work()
        except OSError as caught:
            error = disk_error(caught, self.target)
        except BaseException as caught:
            error = caught
        try:
            facts = agree(error, self.processes, fact=[self.target.name, files])
        except LostProcessError as lost:
            raise LostProcessError(
                f"{self.target}: not saved, because another process ended meanwhile ({lost})"
            ) from lost
        for rank, (name, wrote) in enumerate(facts):
            assert name == self.target.name, f"process {rank} saves {name}, process {self.rank} {self.target.name}"
            self.state.files.update({file: (size, checksum) for file, (size, checksum) in (wrote or {}).items()})

    def _prepare(self) -> None:
        """Make the directory."""
        if self.rank == 0:
            make_directory(self.root)
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir()

    def _write(self) -> dict[str, tuple[int, str]]:
        """Write this process's files; their sizes and checksums."""
        if not self.temporary.is_dir():
            raise UserError(
                f"{self.temporary}: made by process 0, but not to be seen by process {self.rank}; "
                "the run's directory must be the same on all machines"
            )
        result = {}
        for stem, rows in self.files.items():
            name = part_name(stem, self.rank, self.world)
            result[name] = self._write_file(self.temporary / name, rows)
        return result

    def _write_file(self, path: Path, rows: dict[str, Rows]) -> tuple[int, str]:
        """Write one file with these rows and flush it; its size and checksum."""
        hasher = xxhash.xxh3_128()

        def observe(chunk: memoryview) -> None:
            if self.stop.is_set():
                raise _AbandonedError("the save was given up")
            hasher.update(chunk)

        layouts = {name: Layout(one.layout.dtype, tuple(one.local.shape)) for name, one in rows.items()}
        cut = {name: [one.first, one.layout.shape[0]] for name, one in rows.items() if not one.is_whole}
        metadata = {"format": "pt"}
        if cut:
            metadata[ROWS] = msgspec.json.encode(cut, order="sorted").decode()
        with TensorWriter(path, layouts, metadata, observe) as writer:
            for name in writer.names:
                writer.write(name, rows[name].local)
            writer.flush()
            return writer.nbytes, hasher.hexdigest()

    def _commit(self) -> None:
        """Write the manifest, give the directory its name, and delete older checkpoints."""
        if self.rank != 0:
            return
        if self.stop.is_set():
            raise _AbandonedError("the save was given up")
        write_json(self.temporary / CONFIG, self.config)
        self.state.files[CONFIG] = manifest.digest(self.temporary / CONFIG)
        # What the other processes wrote must be here: on two machines' own disks, each would have half a checkpoint.
        for name in manifest.file_names(self.world):
            if not (self.temporary / name).is_file():
                raise UserError(
                    f"{self.temporary / name}: written by another process, but not to be seen by process 0; "
                    "the run's directory must be the same on all machines"
                )
        # The state comes last, because it names the size and checksum of the others.
        manifest.write_state(self.temporary, self.state)
        # Contents reach the disk before the name does: after a power cut, a directory with the name is whole.
        manifest.flush_directory(self.temporary)
        manifest.replace_directory(self.temporary, self.target)
        _flush_names(self.root)
        if self.keep is not None:
            manifest.prune(self.root, self.keep, self.always)


class Saver:
    """Saves checkpoints while training continues; a context manager, which waits for the last of them.

    All processes make one at the same place, and call `begin` and `finish` at the same steps.

    Args:
        root: the directory of the checkpoints.
        group: the processes that train together; None for one alone.
        keep: how many of the newest checkpoints stay; None keeps all.
        always: steps whose checkpoints stay, too.
    """

    def __init__(
        self, root: Path, group: Ranks | None = None, keep: int | None = None, always: Iterable[int] = ()
    ) -> None:
        self.root, self.keep, self.always = root, keep, list(always)
        self._ranks = (group.rank, group.world) if group else (0, 1)
        self._processes = patient(group)
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._buffers: dict[str, torch.Tensor] = {}

    @property
    def failed(self) -> bool:
        """Whether the save in progress is known to have failed, on this process; `finish` then raises."""
        return self._job is not None and self._job.error is not None

    def begin(self, state: State, model: Any, optimizer: torch.optim.Optimizer) -> Path:
        """Copy everything to the host's memory and start to write it; returns where the checkpoint will be.

        Training may change model, optimizer and state as soon as this returns. An earlier save is finished first.

        Raises:
            UserError: the earlier save failed.
        """
        self.finish()
        files = self._copies(_files(model, optimizer, self._ranks))
        self._job = _Job(
            self.root, state, model.config.to_dict(), files, self._ranks, self._processes, self.keep, self.always
        )
        # A daemon, so that a process that must end is not kept by a disk that does not answer.
        self._thread = threading.Thread(target=self._job.run, name="checkpoint", daemon=True)
        self._thread.start()
        return self._job.target

    def finish(self) -> Path | None:
        """Wait for the save in progress; its directory, or None if there is none.

        Raises:
            UserError: the checkpoint could not be written. The line is the same on all processes, and the older
                checkpoints are as they were.
        """
        if self._job is None or self._thread is None:
            return None
        job = self._job
        self._thread.join()
        self._job = self._thread = None
        if job.error is not None:
            raise job.error
        return job.target

    def abandon(self) -> None:
        """Give up the save in progress, if it is not in place yet; takes no longer than a flush of the disk."""
        if self._job is None or self._thread is None:
            return
        self._job.stop.set()
        self._thread.join(_ABANDON_SECONDS)
        self._job = self._thread = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.abandon()
        else:
            # What was copied is good, whatever went wrong afterwards; the first error is the one to tell.
            with contextlib.suppress(Exception):
                self.finish()

    def _copies(self, files: dict[str, dict[str, Rows]]) -> dict[str, dict[str, Rows]]:
        """Copies of all tensors in the host's memory."""
        import torch

        devices: set[torch.device] = set()
        copies: dict[str, dict[str, Rows]] = {}
        for stem, rows in files.items():
            copies[stem] = {}
            for name, one in rows.items():
                device, shape, dtype = one.local.device, one.local.shape, one.local.dtype
                if device.type == "cpu":
                    copies[stem][name] = one._replace(local=one.local.clone(memory_format=torch.contiguous_format))
                    continue
                # A GPU copies into pinned memory beside its own work. To pin is slow, so that memory is kept.
                key = f"{stem}/{name}"
                buffer = self._buffers.get(key)
                if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
                    buffer = self._buffers[key] = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
                copies[stem][name] = one._replace(local=buffer.copy_(one.local, non_blocking=True))
                devices.add(device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies


def save(
    root: Path,
    state: State,
    model: Any,
    optimizer: torch.optim.Optimizer,
    group: Ranks | None = None,
) -> Path:
    """Write the checkpoint of `state.step` completely, then put it in place of an earlier one of that step.

    Nothing is copied but one tensor at a time, where it is on a GPU.

    Raises:
        UserError: the disk is full or read-only; the older checkpoints are as they were. The same on all processes.
    """
    ranks = (group.rank, group.world) if group else (0, 1)
    files = _files(model, optimizer, ranks)
    job = _Job(root, state, model.config.to_dict(), files, ranks, patient(group), None, ())
    job.run()
    if job.error is not None:
        raise job.error
    return job.target


def _files(model: Any, optimizer: torch.optim.Optimizer, ranks: tuple[int, int]) -> dict[str, dict[str, Rows]]:
    """Stem and rows of the files that this process writes."""
    return {
        MODEL: to_write(model_tensors(model), *ranks),
        OPTIMIZER: to_write(optimizer_tensors(model, optimizer), *ranks),
    }


def _flush_names(root: Path) -> None:
    """Have the names in a directory on the disk; some network file systems cannot, and do it by themselves."""
    handle = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
