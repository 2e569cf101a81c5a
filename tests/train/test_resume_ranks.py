"""Several ranks that are killed anywhere and started again, on the same number of ranks and on another one."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_run import byte_tokenizer, texts, tiny_recipe, write_run

from codeshell.recipe import to_toml
from codeshell.train.checkpoints import list_steps

KILL = "helpers.checkpoint_ranks:kill_at"


class Run:
    """A run's directory and its recipe: 24 steps, and a micro-batch for each of two ranks or two for one process, so
    that both add the same sums."""

    def __init__(self, home: Path, ranks: Any) -> None:
        self.directory, self.ranks = home / "run", ranks
        write_run(self.directory, byte_tokenizer(), texts(60), texts(12, "v"))
        (home / "tiny.toml").write_text(to_toml(tiny_recipe()))
        self.command = ["train", str(home / "tiny.toml"), "-o", str(self.directory)]

    def train(self, count: int) -> None:
        ended = self.ranks.run(count, self.command)
        assert [one.code for one in ended] == [0] * count, "\n".join(one.error for one in ended)

    def killed(self, count: int, rank: int, step: int, in_save: bool, delay: float) -> None:
        """Train until one rank is killed; the others end by themselves, with a line."""
        ended = self.ranks.run(
            count, self.command, before=KILL, rank=rank, step=step, in_save=in_save, delay=delay, timeout=60
        )
        assert ended[rank].code == -signal.SIGKILL, ended[rank].error
        for one in ended[:rank] + ended[rank + 1 :]:
            # One line, from one of those that are left; torch may warn before it.
            said = [line for line in one.error.splitlines() if line.startswith("codeshell: error: ")]
            assert one.code == 2 and len(said) == 1 and f"rank {rank}" in said[0], one.error
            assert "Traceback" not in one.error

    def result(self, checkpoint: bool = True) -> dict[str, object]:
        """All that must not depend on how the run came to its end."""
        folders = [self.directory / name for name in ("model", "model-starcoder2")]
        last = self.directory / "train" / "checkpoints" / "step-000024"
        files = [path for folder in [*folders, *[last] * checkpoint] for path in sorted(folder.iterdir())]
        lines = [json.loads(line) for line in (self.directory / "train" / "log.jsonl").read_text().splitlines()]
        log = [{key: line[key] for key in line.keys() - {"seconds", "tokens_per_second", "mfu"}} for line in lines]
        state = json.loads((last / "state.json").read_text())
        content = {str(path.relative_to(self.directory)): path.read_bytes() for path in files}
        return content | {"log": log, "positions": state["positions"]}


@pytest.fixture(scope="module")
def unbroken(ranks, tmp_path_factory):
    """A run on two ranks in one go."""
    run = Run(tmp_path_factory.mktemp("unbroken"), ranks)
    run.train(2)
    return run


def test_a_rank_that_is_killed_at_any_moment_changes_no_bit(ranks, tmp_path, unbroken):
    """In the middle of a step, and in a save, where each rank has other work: the first one also commits."""
    run = Run(tmp_path, ranks)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    print("seed", seed)
    for rank, step, in_save in ((1, chance.randrange(2, 8), False), (0, 8, True), (1, 12, True), (0, 16, True)):
        run.killed(2, rank, step, in_save, chance.uniform(0, 0.02))
    run.train(2)
    assert run.result() == unbroken.result()
    assert not list(run.directory.rglob("*.partial"))


def test_two_ranks_then_one_then_two_train_on_the_same_batches(ranks, tmp_path, unbroken):
    """With this recipe one process adds the same sums as two ranks, so that all bits are the same, too."""
    run = Run(tmp_path, ranks)
    run.killed(2, rank=0, step=11, in_save=False, delay=0.0)
    steps = list_steps(run.directory / "train" / "checkpoints")
    assert steps[-1] == 8
    run.killed(1, rank=0, step=19, in_save=False, delay=0.0)
    assert list_steps(run.directory / "train" / "checkpoints")[-1] >= 16
    run.train(2)
    assert run.result(checkpoint=False) == unbroken.result(checkpoint=False)
    # The checkpoint of the last two ranks is that of ranks that were never one.
    assert run.result() == unbroken.result()
