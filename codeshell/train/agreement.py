"""What the processes of a training say to one another: small facts, gathered, so that all decide alike.

A fallible piece of work that several processes share ends in `agree`: each says how its own part went, and all then
raise the same error or none does. So a full disk on one machine is one line on all of them, and nobody waits for a
process that has given up.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from codeshell.errors import UserError

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


class AgreedError(UserError):
    """A `UserError` that every process raises at the same place, in the same words."""


class LostProcessError(Exception):
    """Another process of the training has ended, or has not answered in time."""


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
    """Every process's value, in the order of their ranks, on every process. It goes through JSON: a tuple becomes a
    list. One process alone gets the value itself.

    Raises:
        LostProcessError: one of them does not answer.
    """
    if processes is None:
        return [value]
    import torch
    import torch.distributed as dist

    data = json.dumps(value).encode()
    world = dist.get_world_size(processes)
    try:
        # Lengths first, because a collective moves tensors of one size.
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=processes)
        mine = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(rows, mine, group=processes)
    except RuntimeError as error:
        raise LostProcessError((str(error) or repr(error)).splitlines()[0]) from error
    return [json.loads(bytes(row[: int(size)].numpy())) for row, size in zip(rows, sizes, strict=True)]


def agree(
    error: BaseException | None,
    processes: ProcessGroup | None,
    raised: type[Exception] = UserError,
    *,
    fact: Any = None,
) -> list[Any]:
    """Say how this process's part of the work went, and hear how that of the others went.

    Args:
        error: why this process failed, if it did.
        processes: who hears of it; None alone, where `error` itself is raised.
        raised: the kind of error that a user can do something about.
        fact: what the others need to know if all went well; what JSON has.

    Returns:
        Every process's fact, in the order of their ranks.

    Raises:
        AgreedError: the `UserError` of the first process that failed, in the same words on all of them. Unless it is
            process 0, its rank and its machine stand before them. With `raised`, that kind of error.
        BaseException: `error` itself, if it is of another kind; the other processes get an `AgreedError` that names it.
        LostProcessError: a process does not answer, and this one has no error of its own.
    """
    if processes is None:
        if error is not None:
            raise error
        return [fact]
    verdict = None
    if error is not None:
        known = isinstance(error, raised)
        verdict = [known, str(error) if known else f"{type(error).__name__}: {error}", socket.gethostname()]
    try:
        answers = gather([verdict, fact if error is None else None], processes)
    except LostProcessError:
        if error is not None:
            raise error from None
        raise
    # An error of another kind has a traceback, which the process that raised it keeps.
    if error is not None and not isinstance(error, raised):
        raise error
    for rank, (verdict, _) in enumerate(answers):
        if verdict is not None:
            known, text, host = verdict
            words = text if rank == 0 else f"rank {rank} on {host}: {text}"
            raise raised(words) if known and raised is not UserError else AgreedError(words)
    return [fact for _, fact in answers]


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
