"""How a process finds its place among several: the variables of torchrun, or those of Slurm's srun.

Without them it is alone. Nothing here imports torch, so that every command can ask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from codeshell.errors import UserError, hush

TIMEOUT = "CODESHELL_TIMEOUT"
"""Variable: the seconds that a rank may take for a step before the others give it up."""

FIRST_STEPS = 5.0
"""The start and the first step may take so many times that: kernels are compiled, and GPUs find one another."""

PATIENCE = 15.0
"""What every rank does before the first step may take so many times that: it checks all tokens, draws or loads the
weights. A rank that ends meanwhile is found at once."""

PORTS = range(20_000, 60_000)
"""Under Slurm the port follows from the job's number: two jobs on one machine rarely meet."""


class Place(NamedTuple):
    """The place of a process: its rank of `world`, its number on its machine, and where rank 0 listens."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0


class Timeouts(NamedTuple):
    """Seconds: `first` for the start and the first step, `later` for each step after it."""

    first: float
    later: float

    @staticmethod
    def read(environ: Mapping[str, str] = os.environ) -> Timeouts:
        """The timeouts of this process: 600 and 120 s, or by `CODESHELL_TIMEOUT`.

        Raises:
            UserError: the variable is no positive number.
        """
        text = environ.get(TIMEOUT, "120")
        try:
            later = float(text)
        except ValueError:
            later = 0.0
        if not 0.0 < later < 1e6:
            raise UserError(f"{TIMEOUT}={text}: give the seconds that a step may take, such as 120")
        return Timeouts(FIRST_STEPS * later, later)


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that the launcher gave this process; alone without one.

    Raises:
        UserError: the launcher's variables are incomplete or wrong.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        found = Place(
            _number(environ, "RANK"),
            _number(environ, "WORLD_SIZE"),
            _number(environ, "LOCAL_RANK", "0"),
            environ.get("MASTER_ADDR", ""),
            _number(environ, "MASTER_PORT", "0"),
        )
    # Only srun sets the first: the script of a batch job has SLURM_PROCID, too, and is one process.
    elif "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
        job = _number(environ, "SLURM_JOB_ID", "0")
        found = Place(
            _number(environ, "SLURM_PROCID"),
            _number(environ, "SLURM_STEP_NUM_TASKS"),
            _number(environ, "SLURM_LOCALID", "0"),
            environ.get("MASTER_ADDR") or first_host(nodes),
            _number(environ, "MASTER_PORT", str(PORTS[job % len(PORTS)])),
        )
    else:
        return Place()
    if found.world < 1 or not 0 <= found.rank < found.world:
        raise UserError(f"rank {found.rank} of {found.world}: the launcher's RANK and WORLD_SIZE do not fit each other")
    if found.world > 1 and not (found.address and 0 < found.port < 65536):
        raise UserError(
            f"rank {found.rank} of {found.world}: MASTER_ADDR or MASTER_PORT is missing; start with torchrun, or set "
            "them to a free port of rank 0's machine"
        )
    return found


def refuse_several(command: str) -> None:
    """Refuse to run a command as several ranks, of which each would do all of it.

    Raises:
        UserError: there are several.
    """
    if place().world > 1:
        hush(place().rank > 0)
        raise UserError(
            f"{command} is one process, and a launcher has started {place().world}; make the tokens first with "
            "`codeshell run RECIPE -o RUN --until tokens`, then train: `torchrun … -m codeshell train RECIPE -o RUN`"
        )


def first_host(nodes: str) -> str:
    """The first machine of Slurm's list: `gpu[07-09,12],login1` gives `gpu07`."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    assert match is not None  # every part of the pattern may be empty
    return match.group(1) + (match.group(2) or "") + match.group(3)


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name) or default
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"{name}={text}: no number; start with torchrun or srun, or unset it to train in one process")
    return int(text)
