"""Training steps on a CPU: CodeShell against transformers' Starcoder2 of the same shape, in the same run.

Both are the same architecture: Starcoder2 gets CodeShell's weights, and the first losses are compared before anything
is timed. A step is forward, loss, backward, gradient clipping, AdamW and zero_grad on the same batch. The contenders
take turns, round by round, so that a change of the machine's speed affects all of them. The JSON keeps every round.

    python benchmarks/train.py --json benchmarks/results/train-cpu.json
    python benchmarks/train.py --shape demo --json benchmarks/results/train-cpu-demo.json

`--shape demo` has the model and the steps of recipes/demo.toml: 4,096 tokens in rows of 256 (`--context 1024` is its
last phase).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chart
import torch
from torch import nn

from codeshell.engine.memory import keep_large_blocks
from codeshell.environment import environment
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.precision import autocast, resolve
from codeshell.optim import AdamW, parameter_groups


class Shape(NamedTuple):
    """A model and a step: layers, width, heads and key/value heads; rows and tokens of a row."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    batch: int
    context: int


VOCABULARY = 4096
SHAPES = {"small": Shape(6, 256, 8, 2, batch=8, context=512), "demo": Shape(4, 128, 4, 2, batch=16, context=256)}
OTHER_OPTIMIZER = "our model with torch's AdamW, fp32"
Step = Callable[[], float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows here")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the rows here")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="small", help="the model, and the tokens of a step")
    parser.add_argument("--batch", type=int, help="rows of a step, in place of the shape's")
    parser.add_argument("--context", type=int, help="tokens of a row; alone, a step has as many tokens as before")
    parser.add_argument(
        "--only", action="append", default=[], help="contenders to run (a part of the name); all if none"
    )
    parser.add_argument("--compile", action="store_true", help="also both models under torch.compile")
    parser.add_argument("--profile", metavar="NAME", help="print torch.profiler's table of one contender and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_large_blocks()  # as the trainer does
    chosen = SHAPES[args.shape]
    context = args.context or chosen.context
    chosen = chosen._replace(batch=args.batch or max(1, chosen.batch * chosen.context // context), context=context)
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, VOCABULARY, (chosen.batch, chosen.context), generator=generator)
    makers = contenders(chosen, data, args.compile)
    if args.only:
        makers = {name: make for name, make in makers.items() if any(part in name for part in args.only)}
    if args.profile:
        return profile(makers[args.profile]())
    steps = {name: make() for name, make in makers.items()}
    first = {name: step() for name, step in steps.items()}  # the warm-up, and the proof that they train the same model
    print("first losses: " + ", ".join(f"{name} {loss:.4f}" for name, loss in first.items()))
    if max(first.values()) - min(first.values()) > 0.01:
        print("the contenders do not compute the same loss", file=sys.stderr)
        return 1
    # One more step of each, so that memory and caches are as they will be.
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    rows = [row(name, seconds[name], first[name], data.numel()) for name in steps]
    for entry in rows:
        print(f"{entry['name']:36} {entry['tokens_per_second']:8.0f} tokens/s  {entry['milliseconds']:7.1f} ms/step")
    ratios = compare(rows)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    if args.chart:
        args.chart.write_text(draw(rows, chosen, args.threads))
    if args.json:
        shape = chosen._asdict() | {"vocabulary": VOCABULARY}
        result = {"shape": shape, "machine": machine(args.threads), "rows": rows, "ratios": ratios}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def contenders(shape: Shape, data: torch.Tensor, compiled: bool) -> dict[str, Callable[[], Step]]:
    """Makers of one training step each: ours, and the peer at every setting that might be its best."""
    makers: dict[str, Callable[[], Step]] = {
        "codeshell bf16": lambda: ours(shape, data, "bf16"),
        "codeshell fp32": lambda: ours(shape, data, "fp32"),
        OTHER_OPTIMIZER: lambda: ours(shape, data, "fp32", torch_optimizer=True),
        "starcoder2 bf16 sdpa": lambda: peer(shape, data, "bf16", "sdpa"),
        "starcoder2 bf16 eager": lambda: peer(shape, data, "bf16", "eager"),
        "starcoder2 bf16 weights sdpa": lambda: peer(shape, data, "bf16 weights", "sdpa"),
        "starcoder2 fp32 sdpa": lambda: peer(shape, data, "fp32", "sdpa"),
    }
    if compiled:
        makers["codeshell fp32 compiled"] = lambda: ours(shape, data, "fp32", compiled=True)
        makers["starcoder2 fp32 sdpa compiled"] = lambda: peer(shape, data, "fp32", "sdpa", compiled=True)
        makers["starcoder2 bf16 sdpa compiled"] = lambda: peer(shape, data, "bf16", "sdpa", compiled=True)
    return makers


def our_model(shape: Shape) -> CodeShellForCausalLM:
    config = CodeShellConfig(
        vocab_size=VOCABULARY,
        n_positions=2048,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        num_query_groups=shape.kv_heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = CodeShellForCausalLM(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.train()


def ours(
    shape: Shape, data: torch.Tensor, precision: Any, compiled: bool = False, torch_optimizer: bool = False
) -> Step:
    """Our model and optimizer; `torch_optimizer` takes torch's fused AdamW instead, to tell what ours gives."""
    model = our_model(shape)
    groups, settings = parameter_groups(model, 0.1), {"lr": 3e-4, "betas": (0.9, 0.95)}
    optimizer = torch.optim.AdamW(groups, **settings, fused=True) if torch_optimizer else AdamW(groups, **settings)
    call = torch.compile(model) if compiled else model

    def step() -> float:
        with autocast(precision):
            loss = call(data, labels=data).loss
        return finish(model, optimizer, loss)

    return step


def peer(shape: Shape, data: torch.Tensor, precision: str, attention: str, compiled: bool = False) -> Step:
    """Starcoder2 with torch's fused AdamW. `bf16 weights` also rounds the weights and the optimizer's state."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    # The peer gets the weights of our model, so both start from the same function and the first losses must agree.
    source = our_model(shape)
    settings = source.config.to_starcoder2_dict()
    model = Starcoder2ForCausalLM._from_config(Starcoder2Config(**settings), attn_implementation=attention)
    from codeshell.model.checkpoints import _to_starcoder2

    weights = dict(_to_starcoder2({n: p.detach() for n, p in source.named_parameters()}, source.config))
    model.load_state_dict(weights, strict=False)
    if precision == "bf16 weights":
        model.to(torch.bfloat16)
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=3e-4, betas=(0.9, 0.95), fused=True)
    call = torch.compile(model) if compiled else model

    def step() -> float:
        with autocast("bf16" if precision == "bf16" else "fp32"):
            loss = call(input_ids=data, labels=data, use_cache=False).loss
        return finish(model, optimizer, loss)

    return step


def finish(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    loss.backward()
    if isinstance(optimizer, AdamW):
        optimizer.clip_grad_norm(1.0)
    else:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def row(name: str, seconds: list[float], first_loss: float, tokens: int) -> dict[str, Any]:
    middle = statistics.median(seconds)
    return {
        "name": name,
        "tokens_per_second": tokens / middle,
        "milliseconds": 1e3 * middle,
        "rounds_milliseconds": [round(1e3 * s, 2) for s in seconds],
        "first_loss": first_loss,
    }


def compare(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over the peer's best, at bf16, at fp32, and each at its best of all."""

    def best(*parts: str) -> float:
        speeds = [
            r["tokens_per_second"] for r in rows if all(p in r["name"] for p in parts) and "compiled" not in r["name"]
        ]
        return max(speeds, default=float("nan"))

    ratios = {
        "bf16: codeshell / best starcoder2": best("codeshell", "bf16") / best("starcoder2", "bf16"),
        "fp32: codeshell / best starcoder2": best("codeshell", "fp32") / best("starcoder2", "fp32"),
        "fp32: codeshell / our model with torch's AdamW": best("codeshell", "fp32") / best(OTHER_OPTIMIZER),
        "best of all: codeshell / starcoder2": best("codeshell") / best("starcoder2"),
    }
    return {name: ratio for name, ratio in ratios.items() if ratio == ratio}  # --only may leave nothing to compare


def draw(rows: list[dict[str, Any]], shape: Shape, threads: int) -> str:
    """The chart that the harness's benchmarks have, of the time of a step."""
    case = f"a step of {shape.batch} x {shape.context} tokens, {shape.layers} layers of width {shape.width}"
    common = {"case": case, "floor": "", "error": None, "teraflops": None, "gigabytes_per_second": None}
    drawn = [
        common | {"name": r["name"], "ours": "codeshell" in r["name"], "microseconds": 1e3 * r["milliseconds"]}
        for r in rows
    ]
    about = {"device": {"type": "cpu"}, "environment": environment(1), "threads": threads, "smoke": False}
    return chart.draw({"benchmark": "training", "floors": {}, "rows": drawn} | about)


def machine(threads: int) -> dict[str, Any]:
    import transformers

    precision = resolve("auto", "cpu")
    return environment(1) | {
        "threads": threads,
        "amx": torch.cpu._is_amx_tile_supported(),
        "auto_precision": precision,
        "transformers": transformers.__version__,
    }


def profile(step: Step) -> int:
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=45))
    return 0


if __name__ == "__main__":
    sys.exit(main())
