"""What several ranks cost: a step and a checkpoint in one process, in a sharded world of one, and on two gloo ranks.

The same global batch for all, and as many threads in all as there are cores to use: one process has them together, each
of two ranks has its part. The contenders are processes that take turns, step by step; those that wait compute nothing.

    bare loop            forward, loss, backward, clipping, update: no log, no verdicts, no ranks; beside `one process`
    one process          `codeshell train` as it is: what it adds to the bare loop is the overhead of all of the trainer
    sharded world of 1   one rank by the way of several: FSDP2 over a mesh of one, gloo
    two ranks            two processes with gloo

A row of a checkpoint: `begin` is what training waits for, `whole` the time until the checkpoint is in place, beside
training's own steps; `blocking` is a save that nothing runs beside.

    python benchmarks/parallel.py --json benchmarks/results/parallel-cpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BARE, ONE, SHARDED, TWO = "bare loop", "one process", "sharded world of 1", "two ranks"
STARTS = {ONE: 1, SHARDED: 1, TWO: 2}
"""Contenders that are processes of their own, and how many; the bare loop is in the process of ONE."""

LIMIT = 1.01
"""The overhead of the trainer on one process that is aimed at, of a step."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows here")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)
    folder = Path(tempfile.mkdtemp(prefix="codeshell-parallel-"))
    try:
        with contextlib.ExitStack() as stack:
            contenders = {name: stack.enter_context(Contender(name, args, folder)) for name in STARTS}
            result = measure(contenders, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


class Contender:
    """The processes of one contender; `ask` has all of them do something and returns rank 0's answer."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = folder / name.replace(" ", "-")
        home.mkdir()
        shape = ["--layers", str(args.layers), "--width", str(args.width), "--threads", str(args.threads)]
        self._ranks: list[Any] = []
        self._said: list[Path] = []
        for rank in range(STARTS[name]):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": STARTS[name], "MASTER_PORT": port}
            # A thread that spins while it waits would slow the others.
            quiet = {
                "MASTER_ADDR": "127.0.0.1",
                "OMP_WAIT_POLICY": "passive",
                "CUDA_VISIBLE_DEVICES": "",
                "CODESHELL_TIMEOUT": "99999",
            }
            variables = dict(os.environ) | {key: str(value) for key, value in place.items()} | quiet
            command = [sys.executable, __file__, "--worker", name, *shape]
            # Their progress goes to a file, which is shown where one fails.
            self._said.append(home / f"rank-{rank}.txt")
            with open(self._said[-1], "w") as said:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
                self._ranks.append(subprocess.Popen(command, text=True, env=variables, cwd=home, **pipes))  # type: ignore[call-overload]

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._ranks:
            process.kill()
            process.communicate()

    def ask(self, what: str) -> dict[str, Any]:
        for process in self._ranks:
            assert process.stdin is not None
            print(what, file=process.stdin, flush=True)
        answers = []
        for rank, process in enumerate(self._ranks):
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"rank {rank} has ended:\n{self._said[rank].read_text()[-2000:]}")
            answers.append(json.loads(line))
        first: dict[str, Any] = answers[0]
        return first


def measure(contenders: dict[str, Contender], args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, all saves, and what follows from them."""
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        BARE: lambda: contenders[ONE].ask("bare"),
        **{name: (lambda name=name: contenders[name].ask("step")) for name in STARTS},
    }
    for turn in turns.values():  # the warm-up
        turn()
        turn()
    steps: dict[str, list[float]] = {name: [] for name in turns}
    work: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(args.rounds):
        # Every second round in reverse, so that nobody always follows the same one.
        for name in turns if number % 2 == 0 else reversed(turns):
            answer = turns[name]()
            steps[name].append(answer["seconds"])
            work[name].append(answer["cpu"])
    saves = {name: [contenders[name].ask("save") for _ in range(args.saves)] for name in contenders}
    exchange = contenders[TWO].ask("exchange")
    facts = contenders[ONE].ask("facts")
    median = {name: statistics.median(values) for name, values in steps.items()}
    pairs = [one / bare for one, bare in zip(steps[ONE], steps[BARE], strict=True)]
    cpu = {name: statistics.median(values) for name, values in work.items()}
    return {
        "machine": facts["environment"] | {"command": f"python benchmarks/parallel.py --rounds {args.rounds}"},
        "shape": facts["shape"] | {"threads": args.threads, "rounds": args.rounds},
        "rows": [
            {
                "name": name,
                "milliseconds": round(1e3 * median[name], 2),
                "tokens_per_second": round(facts["shape"]["batch_tokens"] / median[name], 1),
                "cpu_milliseconds_of_rank_0": round(1e3 * cpu[name], 2),
                "all_milliseconds": [round(1e3 * value, 2) for value in values],
                "all_cpu_milliseconds_of_rank_0": [round(1e3 * value, 2) for value in work[name]],
            }
            for name, values in steps.items()
        ],
        "checkpoints": [
            {"name": name, "bytes": rows[0]["bytes"]}
            | {
                key: round(1e3 * statistics.median(row[key] for row in rows), 2)
                for key in ("begin", "whole", "step_beside", "blocking")
            }
            | {"all_milliseconds": [{key: round(1e3 * row[key], 2) for key in row if key != "bytes"} for row in rows]}
            for name, rows in saves.items()
        ],
        "exchange_microseconds": round(1e6 * exchange["seconds"], 1),
        "ratios": {
            "overhead of the trainer on one process (of medians)": round(median[ONE] / median[BARE], 4),
            "overhead of the trainer on one process (median of pairs)": round(statistics.median(pairs), 4),
            "overhead of the trainer on one process (CPU time, of medians)": round(cpu[ONE] / cpu[BARE], 4),
            "aim": LIMIT,
            "sharded world of 1 against one process": round(median[SHARDED] / median[ONE], 4),
            "two ranks against one process, tokens/s": round(median[ONE] / median[TWO], 4),
        },
    }


def show(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        print(f"{row['name']:20} {row['milliseconds']:8.1f} ms/step  {row['tokens_per_second']:8.0f} tokens/s")
    for row in result["checkpoints"]:
        print(
            f"{row['name']:20} checkpoint of {row['bytes'] / 1e6:.0f} MB per rank: begin {row['begin']:.1f} ms, whole "
            f"{row['whole']:.1f} ms beside steps of {row['step_beside']:.1f} ms, blocking {row['blocking']:.1f} ms"
        )
    print(f"exchange of five numbers between two ranks: {result['exchange_microseconds']:.0f} us")
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio}")


# ---- the other side: what a contender's process does ----


def work(args: argparse.Namespace) -> int:
    """Answer the lines of stdin; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from codeshell.train.parallel import Group

    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(args.threads // world, 1))
    if args.worker == SHARDED:
        dist.init_process_group("gloo")
        group = Group.alone(torch.device("cpu"))
        group.mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    else:
        group = Group.join() if args.worker == TWO else Group.alone(torch.device("cpu"))
    bench = Bench(args, group)
    for line in sys.stdin:
        answer = getattr(bench, line.strip())()
        # Until the batches of the next steps are there, which would be made in the others' turns.
        bench.settle()
        print(json.dumps(answer), file=answers, flush=True)
    return 0


class Bench:
    """A trainer with random tokens, driven a step at a time."""

    BATCH, CONTEXT, VOCABULARY, DOCUMENT = 4096, 512, 4096, 256

    def __init__(self, args: argparse.Namespace, group: Any) -> None:
        from codeshell.engine.progress import Progress
        from codeshell.optim import AdamW, parameter_groups
        from codeshell.train.batches import Prefetch
        from codeshell.train.log import Log
        from codeshell.train.loop import Trainer
        from codeshell.train.manifest import State
        from codeshell.train.parallel import shard
        from codeshell.train.saver import Saver
        from codeshell.train.signals import Signals

        self.recipe = self._recipe(args)
        self.group, self.home = group, Path.cwd()
        # The same weights for all, which the first losses show.
        model = self._model(args)
        shard(model, self.recipe.train, group)
        train = self.recipe.train
        optimizer = AdamW(
            parameter_groups(model, train.weight_decay), lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps
        )
        state = State(precision="fp32", model={}, train={})
        self.trainer = Trainer(self.recipe, self.home, model, optimizer, Random(self), None, state, group)
        self.batches = Prefetch(self.trainer._take, 0, self.trainer.positions)
        self.log = Log(self.home / f"log-{group.rank}.jsonl", 0) if group.leader else None
        self.signals, self.progress = Signals(group.rank, group.world), Progress("train", total=10**9, unit="tokens")
        # A step asks whether a save has failed.
        self.trainer.saver = self.saver = Saver(self.home / "checkpoints", group, keep=1)
        if group.world > 1:
            self.trainer.upcoming = self.batches.next()
            self.trainer.targets = self.BATCH
        model.train()

    def _recipe(self, args: argparse.Namespace) -> Any:
        from codeshell.recipe import from_tree

        # Two micro-batches on one process; two ranks take one each.
        train = {"steps": 10**6, "batch_tokens": self.BATCH, "micro_batch_tokens": self.BATCH // 2, "threads": 0}
        train |= {"phases": [{"share": 1.0, "context": self.CONTEXT}], "precision": "fp32", "warmup_steps": 10}
        model = {"n_layer": args.layers, "n_embd": args.width, "n_head": args.width // 32, "num_query_groups": 2}
        return from_tree({"train": train, "model": model | {"n_positions": self.CONTEXT}}, "benchmark")

    def _model(self, args: argparse.Namespace) -> Any:
        import torch

        from codeshell.model import CodeShellConfig, CodeShellForCausalLM

        shape = self.recipe.model
        config = CodeShellConfig(
            vocab_size=self.VOCABULARY,
            n_positions=self.CONTEXT,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            num_query_groups=shape.num_query_groups,
            bos_token_id=0,
            eos_token_id=0,
        )
        torch.manual_seed(0)
        return CodeShellForCausalLM(config)

    def settle(self) -> None:
        while not self.batches._queue.full():
            time.sleep(0.005)

    def step(self) -> dict[str, float]:
        """A step as training does it."""
        started, cpu = time.perf_counter(), time.process_time()
        self.trainer._step(self.batches, self.log, self.signals, self.progress)
        return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}

    def bare(self) -> dict[str, float]:
        """What any loop must do, with the same model, optimizer and batches."""
        from codeshell.train.batches import fold
        from codeshell.train.forward import summed_loss

        trainer = self.trainer
        started, cpu = time.perf_counter(), time.process_time()
        batch = self.batches.next()
        counted, total = int((batch.targets != -100).sum()), 0.0
        for micro in fold(batch, self.CONTEXT, self.recipe.train.micro_batch_tokens, isolated=True):
            loss = summed_loss(trainer.model, micro, "fp32") / counted
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        assert float(total) > 0.0 and float(trainer.optimizer.clip_grad_norm(1.0)) > 0.0
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.positions = batch.after
        return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}

    def save(self) -> dict[str, float]:
        """A checkpoint beside steps, then one that is waited for."""
        trainer = self.trainer
        trainer.state.positions = self.trainer.lanes.start()
        started = time.perf_counter()
        path = self.saver.begin(trainer.state, trainer.model, trainer.optimizer)
        begin = time.perf_counter() - started
        beside = self.step()["seconds"]
        # Another process may see the end later; all do the same number of steps.
        self.saver.finish()
        whole = time.perf_counter() - started
        size = sum(file.stat().st_size for file in path.iterdir()) // self.group.world
        from codeshell.train import checkpoints

        started = time.perf_counter()
        checkpoints.save(self.home / "blocking", trainer.state, trainer.model, trainer.optimizer, self.group)
        blocking = time.perf_counter() - started
        return {"begin": begin, "whole": whole, "step_beside": beside, "blocking": blocking, "bytes": size}

    def exchange(self) -> dict[str, float]:
        """What the ranks tell one another in a step, alone."""
        times = []
        for _ in range(300):
            started = time.perf_counter()
            self.group.exchange([1.0, 2.0, 0.0, 0.0, 5.0])
            times.append(time.perf_counter() - started)
        return {"seconds": statistics.median(times)}

    def facts(self) -> dict[str, Any]:
        from codeshell.environment import environment

        model, shape = self.trainer.model, self.recipe.model
        sizes = {"layers": shape.n_layer, "width": shape.n_embd, "vocabulary": self.VOCABULARY}
        return {
            "environment": environment(2),
            "shape": sizes
            | {"parameters": model.num_parameters(), "batch_tokens": self.BATCH, "context": self.CONTEXT},
        }


class Random:
    """Stands for `codeshell.train.rows.Lanes`: random tokens, made once, so that reading costs nothing."""

    def __init__(self, bench: Bench) -> None:
        import numpy as np

        self.count, self.isolated = bench.BATCH // bench.CONTEXT, True
        generator = np.random.default_rng(0)
        self._tokens = generator.integers(0, bench.VOCABULARY, (self.count, bench.CONTEXT + 1), dtype=np.int64)
        self._document = bench.DOCUMENT

    def start(self) -> Any:
        from codeshell.train.batches import Position

        return (Position(),) * self.count

    def take(self, positions: Any, count: int, context: int, lanes: range) -> Any:
        import numpy as np

        from codeshell.train.batches import Batch

        rows = self._tokens[lanes.start : lanes.stop]
        starts = np.arange(0, count, self._document, dtype=np.int64)
        first = lanes.start * context
        return Batch(rows[:, :-1].reshape(-1).copy(), rows[:, 1:].reshape(-1).copy(), starts, positions, first)


if __name__ == "__main__":
    sys.exit(main())
