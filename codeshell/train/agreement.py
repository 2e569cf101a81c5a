"""What the processes of a training say to one another about files: small facts, gathered, so that all decide alike.

A fallible piece of work that several processes share ends in `agree`: each says how its own part went, and all then
raise the same error or none does. So a full disk on one machine is one line on all of them, and nobody waits for a
process that has given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from codeshell.errors import UserError
from codeshell.train import parallel
from codeshell.train.parallel import AgreedError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the files of another one. A slow disk is no dead process: that one closes its
connections, which the others see at once."""


class Ranks(Protocol):
    """What is needed of `codeshell.train.parallel.Group`."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...


class LostProcessError(Exception):
    """Another process of the training has ended, or has not answered in `PATIENCE`."""


_patient: dict[int, ProcessGroup] = {}  # by the id of the world's group


def patient(group: Ranks | None) -> ProcessGroup | None:
    """The processes' group for facts about files; None alone. The first call makes it, on all processes together."""
    if group is None or group.world == 1:
        return None
    import torch.distributed as dist

    world = id(dist.group.WORLD)
    if world not in _patient:
        _patient.clear()
        made: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        _patient[world] = made
    return _patient[world]


def gather(value: Any, processes: ProcessGroup | None) -> list[Any]:
    """Every process's value, in the order of their ranks, on every process; values are what JSON has.

    Raises:
        LostProcessError: one of them does not answer.
    """
    if processes is None:
        return [value]
    try:
        return parallel.gather(value, processes)
    except RuntimeError as error:
        raise LostProcessError((str(error) or repr(error)).splitlines()[0]) from error


def agree(error: BaseException | None, processes: ProcessGroup | None, raised: type[Exception] = UserError) -> None:
    """Say how this process's part of the work went; return if all went well.

    Args:
        error: why this process failed, if it did.
        processes: who hears of it; None alone, where `error` itself is raised.
        raised: the kind of error that a user can do something about.

    Raises:
        UserError: the first of several processes that failed with a `UserError`, in the same words on all of them; with
            `raised`, that kind of error.
        BaseException: `error` itself, if it is of another kind; the other processes get a `UserError` that names it.
    """
    if processes is None:
        if error is not None:
            raise error
        return
    said = None
    if error is not None:
        said = [
            isinstance(error, raised),
            str(error) if isinstance(error, raised) else f"{type(error).__name__}: {error}",
        ]
    verdicts = gather(said, processes)
    if error is not None and not isinstance(error, raised):
        raise error
    for rank, verdict in enumerate(verdicts):
        if verdict is not None:
            known, text = verdict
            if not known:
                raise UserError(f"process {rank}: {text}")
            raise AgreedError(text) if raised is UserError else raised(text)


@contextlib.contextmanager
def together(processes: ProcessGroup | None, raised: type[Exception] = UserError) -> Iterator[None]:
    """A block that all processes run, each its own part, and that raises the same error on all of them; see `agree`.

    Nothing inside may wait for another process.
    """
    error: BaseException | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    agree(error, processes, raised)
