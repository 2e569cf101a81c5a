"""Several ranks at once, as a launcher starts them, but torch is imported once for all.

`Ranks` starts this file as a script, which imports what training needs and then forks for each rank of each job. That
is sound as long as the script itself computes nothing with torch. A rank does a command of `codeshell`, or calls a
function of a module of tests/helpers, whose result comes back through JSON. It can call another function before, which
for example lets it kill itself in the middle of a step.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers.warm_script import WarmScript, redirect

TIMED_OUT = -999
"""The exit code of a rank that had to be killed."""


class Ended(NamedTuple):
    """How a rank ended: its exit code (negative for a signal), its stderr, and what its function returned."""

    code: int
    error: str
    value: Any


class Ranks(WarmScript):
    """The script, as long as the `with` block.

    Args:
        folder: for what the ranks print.
    """

    def __init__(self, folder: Path) -> None:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        # One thread for each: the machine may have two cores. A launcher's variables would be inherited.
        launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS")
        environment = {name: value for name, value in os.environ.items() if name not in launched}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        super().__init__(__file__, environment | {"CUDA_VISIBLE_DEVICES": ""})
        self._folder, self._jobs = folder, 0

    def run(
        self,
        count: int,
        what: Sequence[str] | str,
        *,
        before: str = "",
        environment: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        **arguments: Any,
    ) -> list[Ended]:
        """Start so many ranks and wait for all.

        Args:
            count: ranks; 1 is a process without a launcher.
            what: a command, after `codeshell`; or a function, `module:name`.
            before: a function that each rank calls first, `module:name`; it gets the same arguments.
            environment: more variables.
            timeout: seconds, after which what is left is killed.
            arguments: of the functions, by name.
        """
        self._jobs += 1
        stem = str(self._folder / f"job-{self._jobs}")
        job = {"count": count, "what": what, "before": before, "arguments": arguments, "stem": stem}
        self.send(json.dumps(job | {"environment": dict(environment or {}), "timeout": timeout, "port": free_port()}))
        codes = json.loads(self.answer())
        values = [Path(f"{stem}-{rank}.json") for rank in range(count)]
        return [
            Ended(
                code,
                Path(f"{stem}-{rank}.err").read_text(errors="replace"),
                json.loads(value.read_text()) if value.exists() else None,
            )
            for rank, (code, value) in enumerate(zip(codes, values, strict=True))
        ]


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call `module:function` with arguments by name."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def rank_of(job: Mapping[str, Any], rank: int) -> int:
    """What a forked process does; its exit code."""
    redirect(f"{job['stem']}-{rank}.err")
    os.environ.update(job["environment"])
    if job["count"] > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["count"], "MASTER_PORT": job["port"]}
        os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    try:
        if job["before"]:
            call(job["before"], job["arguments"])
        if isinstance(job["what"], str):
            value = call(job["what"], job["arguments"])
            Path(f"{job['stem']}-{rank}.json").write_text(json.dumps(value))
            return 0
        from codeshell.cli import main as codeshell

        return codeshell(job["what"])
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def wait(children: list[int], timeout: float) -> list[int]:
    """The exit codes of processes; after the timeout they are killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[child] = TIMED_OUT
        time.sleep(0.01)
    return [codes[child] for child in children]


def main() -> int:
    # As the commands do before their own imports.
    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    import torch._dynamo  # the optimizer imports it
    import torch.distributed.fsdp
    import torch.distributed.tensor
    import torch.utils.checkpoint  # noqa: F401

    import codeshell.train.session
    import codeshell.train.train_run  # noqa: F401

    while line := sys.stdin.readline():
        job = json.loads(line)
        children = []
        for rank in range(job["count"]):
            child = os.fork()
            if child == 0:
                code = rank_of(job, rank)
                sys.stderr.flush()
                # Without what Python does at its end: threads of gloo may still wait.
                os._exit(code & 0xFF)
            children.append(child)
        print(json.dumps(wait(children, job["timeout"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
