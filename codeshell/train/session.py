"""Several ranks from their meeting to their end: who speaks, where each writes its exception, and that all end."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from codeshell.errors import UserError, hush, say
from codeshell.train.agreement import AgreedError, LostProcessError
from codeshell.train.parallel import Group
from codeshell.train.signals import Interrupted
from codeshell.train.watch import Failure

LEAVING = 30
"""Seconds after which the system ends a rank that has failed, but cannot leave its GPU."""


@contextlib.contextmanager
def session(directory: Path) -> Iterator[Group]:
    """The ranks that a launcher has started, within the block.

    Rank 0 speaks for all. An error in one rank ends all of them, with one line and an exit code that is not 0; each
    writes its own to `train/errors/rank-N.txt` of the directory. The caller calls `Group.arrange`.

    Raises:
        UserError: on every rank, for the first error of any.
        Interrupted: all ranks were told to end; the run is saved.
    """
    group = Group.join(None)
    watch = group.watch
    if watch is None:
        yield group
        return
    errors = directory / "train" / "errors"
    watch.on_failure = lambda failure: _end_in_its_place(group, errors, failure)
    if group.leader:
        # Files of an earlier start would be taken for those of this one.
        shutil.rmtree(errors, ignore_errors=True)
    else:
        hush()
        logging.getLogger("codeshell").setLevel(logging.ERROR)
    group.barrier()
    try:
        yield group
    except BaseException as error:
        if isinstance(error, Interrupted) and error.agreed:
            group.close()
            raise
        raise _common(group, errors, error) from error
    group.close()


def _common(group: Group, errors: Path, error: BaseException) -> BaseException:
    """What this rank is to raise: the failure of all ranks, or its own error where that is the first."""
    watch = group.watch
    assert watch is not None
    watch.take_over()
    if threading.current_thread() is threading.main_thread():
        # The launcher ends the others when one has ended; what is left to do takes seconds. And no wait is for ever.
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LEAVING)
    _write(errors, group.rank, "".join(traceback.format_exception(error)))
    mine = _failure(group, error)
    # What all raise alike needs no explanation, and rank 0 says it. Any other error may be the end of another rank,
    # seen from here.
    alike = isinstance(error, UserError) and not isinstance(error.__cause__, LostProcessError)
    known = None if alike and (group.leader or isinstance(error, AgreedError)) else watch.explain(quick=alike)
    failure = known or watch.fail(mine)
    hush(not watch.speaks(failure))
    watch.part(failure)
    watch.close()
    # The traceback of a fault of ours, on the rank that has it.
    final = UserError(failure.words) if failure != mine or isinstance(error, UserError) else error
    with contextlib.suppress(Exception):
        # What torchrun shows of a rank at its end: the file that TORCHELASTIC_ERROR_FILE names.
        ErrorHandler().record_exception(final)
    return final


def _failure(group: Group, error: BaseException) -> Failure:
    """The words of this rank's own error, for all."""
    here = f"rank {group.rank} on {group.hosts[group.rank]}"
    if isinstance(error, AgreedError) or (isinstance(error, UserError) and group.leader):
        return Failure(str(error))
    if isinstance(error, UserError):
        return Failure(f"{here}: {error}")
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Failure(f"train: {here} was ended by a signal; run the same command again to resume")
    # A line, for which the file has the rest.
    words = " ".join(str(error).split())[:200]
    return Failure(
        f"train: {here} failed: {type(error).__name__}: {words}; see train/errors/rank-{group.rank}.txt of the run"
    )


def _end_in_its_place(group: Group, errors: Path, failure: Failure) -> None:
    """What the watch does before it ends a process whose main thread cannot."""
    _write(errors, group.rank, failure.words + "\n")
    assert group.watch is not None
    if group.watch.speaks(failure):
        hush(False)
        say(f"codeshell: error: {failure.words}")


def _write(errors: Path, rank: int, text: str) -> None:
    """A rank's own file. A full disk must not hide the error itself."""
    with contextlib.suppress(OSError):
        errors.mkdir(parents=True, exist_ok=True)
        (errors / f"rank-{rank}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
