"""Trains a tiny run in a child process, again and again, killing it with SIGKILL at moments that differ every time.

A script, not a test: `python killer.py RUN-DIRECTORY KILLS SEED`. It imports torch once and forks, which is sound as
long as this process itself computes nothing with torch. Prints how many kills hit.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch._dynamo  # noqa: F401 (the optimizer imports it; once here saves 2 s in every child)

from codeshell.train.train_run import run
from helpers.tiny_run import tiny_recipe


def lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def main(directory: Path, kills: int, seed: int) -> None:
    recipe, chance = tiny_recipe(), random.Random(seed)
    log, checkpoints = directory / "train" / "log.jsonl", directory / "train" / "checkpoints"
    hits = 0
    while True:
        child = os.fork()
        if child == 0:
            run(recipe, directory, None)  # type: ignore[arg-type]
            os._exit(0)
        # Half of the kills fall in the middle of a step, half into the writing of a checkpoint.
        at = lines(log) + chance.randrange(1, 12)
        in_save, delay = hits % 2 == 1, chance.uniform(0, 0.02)
        while hits < kills:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                break
            ready = any(checkpoints.glob("*.partial")) if in_save else lines(log) >= at
            if ready:
                time.sleep(delay / 10 if in_save else delay)
                os.kill(child, signal.SIGKILL)
                hits += 1
                break
            time.sleep(0.001)  # the processor is the child's
        if child:
            _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            print(hits)
            return


main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
