"""What a person who types waits for: the first token after a cached prompt, cancellation, what typing leaves cached.

    python benchmarks/serve.py --json benchmarks/results/serve.json
    python benchmarks/serve.py --only typing --tokenizer runs/demo/model --text codeshell/model/session.py

Parts:

    first     a prompt of 1,000 tokens is cached; it is asked again with a few tokens at its end in place of the last
              ones. Time until the first token, on a model of 100 M parameters with random weights, in fp32, bf16 and
              int8, in turns.
    cancel    the longest time between two questions whether to continue, while a prompt of 1,000 tokens is read.
    step      one token after 200: the pass written out for generation, and the model's own forward, in turns.
    typing    somebody types 200 letters into the middle of a file, and each letter is a request. How many tokens are
              read for it in each order, and with prompts cut by 1 token or by CUT_STEP. Nothing is timed.

Targets: first token within 100 ms, cancellation within 50 ms. Milliseconds are wall time; `cpu` is the process's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from codeshell.environment import environment
from codeshell.model import CodeShellConfig, CodeShellForCausalLM, KVCache
from codeshell.model.infill import CUT_STEP, Order, infill_prompt
from codeshell.model.quantized import quantize
from codeshell.model.session import Finish, Session, Settings

SHAPES: dict[str, dict[str, Any]] = {
    "demo, 1.3 M": {"vocab_size": 4224, "n_embd": 128, "n_layer": 4, "n_head": 4, "num_query_groups": 2},
    "100 M": {"vocab_size": 32768, "n_embd": 768, "n_layer": 12, "n_head": 12, "num_query_groups": 4},
}
POSITIONS = 2048
PROMPT = 1000
TYPED = 200


class Numbers:
    """A tokenizer that nobody asks for text: token n is a byte."""

    specials: dict[str, int] = {}  # noqa: RUF012
    vocab_size = 4224
    eot = fim_prefix = fim_middle = fim_suffix = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(i % 128 for i in ids)


def make(shape: str) -> CodeShellForCausalLM:
    torch.manual_seed(0)
    return CodeShellForCausalLM(
        CodeShellConfig(n_positions=POSITIONS, bos_token_id=0, eos_token_id=0, **SHAPES[shape])
    ).eval()


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [(i * 7919 + salt) % 4000 for i in range(length)]


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def row_of(part: str, case: str, times: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    wall, cpu = zip(*times, strict=True)
    return {
        "part": part,
        "case": case,
        "median_ms": round(statistics.median(wall), 2),
        "least_ms": round(min(wall), 2),
        "worst_ms": round(max(wall), 2),
        "median_cpu_ms": round(statistics.median(cpu), 2),
        "least_cpu_ms": round(min(cpu), 2),
        **more,
    }


def first(rounds: int) -> list[dict[str, Any]]:
    base, rows = prompt_of(PROMPT), []
    models = {"fp32": make("100 M"), "bf16": make("100 M").bfloat16(), "int8": quantize(make("100 M"))}
    sessions = {weights: Session(model, Numbers()) for weights, model in models.items()}
    for session in sessions.values():
        list(session.stream(base, Settings(max_new_tokens=0)))
    for new in (1, 4, 16, 64):
        times: dict[str, list[tuple[float, float]]] = {weights: [] for weights in sessions}
        for turn in range(rounds):
            # The last tokens are others in each turn; all before them is cached.
            prompt = [*base[: PROMPT - new], *prompt_of(new, 1 + turn)]
            for weights, session in sessions.items():
                items: list[Any] = []

                def ask(session: Session = session, prompt: list[int] = prompt, items: list[Any] = items) -> None:
                    items += session.stream(prompt, Settings(max_new_tokens=1))

                times[weights].append(timed(ask))
                assert items[-1].cached_tokens >= PROMPT - new
        rows += [row_of("first", f"{new} of {PROMPT} tokens new, {weights}", each) for weights, each in times.items()]
    return rows


def cancel() -> list[dict[str, Any]]:
    session, asked = Session(make("100 M"), Numbers()), []

    def cancelled() -> bool:
        asked.append((time.perf_counter(), time.process_time()))
        return False

    list(session.stream(prompt_of(PROMPT), Settings(max_new_tokens=1), cancelled))
    gaps = [(1e3 * (b[0] - a[0]), 1e3 * (b[1] - a[1])) for a, b in itertools.pairwise(asked)]
    return [
        row_of("cancel", f"{len(gaps)} gaps in {PROMPT} tokens", gaps, worst_cpu_ms=round(max(g[1] for g in gaps), 2))
    ]


def step(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for shape in SHAPES:
        model = make(shape)
        reader = model.reader()
        lean, plain = reader.new_cache(256), KVCache(model.config, 1, 256)
        ids = prompt_of(200)
        reader.read(lean, ids, lambda: None, False)
        with torch.inference_mode():
            model(torch.tensor([ids]), cache=plain, return_logits="last")

        def written_out(reader: Any = reader, lean: Any = lean) -> None:
            reader.read(lean, [1], lambda: None, True)
            reader.cut_cache(lean, 200)

        def forward(model: Any = model, plain: KVCache = plain) -> None:
            with torch.inference_mode():
                _ = model(torch.tensor([[1]]), cache=plain).logits
            plain.cut(200)

        times: dict[str, list[tuple[float, float]]] = {"written out": [], "forward": []}
        for _ in range(rounds):
            times["written out"].append(timed(written_out))
            times["forward"].append(timed(forward))
        rows += [row_of("step", f"{shape}, {name}", values) for name, values in times.items()]
    return rows


class Counting:
    """A reader that computes nothing: what the session would read is what counts."""

    vocabulary = 1 << 20

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def reader(self) -> Counting:
        return self

    def new_cache(self, capacity: int) -> int:
        return capacity

    def copy_cache(self, cache: int, length: int, capacity: int) -> int:
        return capacity

    def cut_cache(self, cache: int, length: int) -> None: ...

    def capacity(self, cache: int) -> int:
        return cache

    def cache_bytes(self, capacity: int) -> int:
        return capacity

    def piece(self, cached: int) -> int:
        return 1 << 20

    def read(self, cache: int, tokens: Sequence[int], check: Callable[[], None], logits: bool) -> None:
        check()


ORDERS: tuple[Order, ...] = ("psm", "spm")


def typing(tokenizer: Any, text: str) -> list[dict[str, Any]]:
    """Tokens read for each letter. The file is longer than the smaller context and shorter than the larger one."""
    rows = []
    middle = len(text) // 2
    for positions in (1024, 8192):
        for order in ORDERS:
            for cut in (1, CUT_STEP):
                session, read, asked = Session(Counting(positions), tokenizer), [], []
                for typed in range(TYPED):
                    prefix, suffix = text[: middle + typed], text[middle + TYPED :]
                    prompt = infill_prompt(tokenizer, prefix, suffix, session.budget(64), order, step=cut)
                    *_, end = session.stream(prompt, Settings(max_new_tokens=0))
                    assert isinstance(end, Finish)
                    asked.append(end.prompt_tokens)
                    read.append(end.prompt_tokens - end.cached_tokens)
                # The first request reads all of it, whatever the order.
                rows.append(
                    {
                        "part": "typing",
                        "case": f"context {positions}, {order}, cut by {cut}",
                        "mean_prompt": round(statistics.mean(asked[1:])),
                        "mean_read": round(statistics.mean(read[1:]), 1),
                        "median_read": statistics.median(read[1:]),
                        "most_read": max(read[1:]),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("first", "cancel", "step", "typing"), action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokenizer", metavar="DIR", help="for typing (default: a token is a byte)")
    parser.add_argument("--text", type=Path, default=Path(__file__), metavar="FILE", help="that is typed in")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from codeshell.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else Numbers()
    text = args.text.read_text(encoding="utf-8")
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "first": lambda: first(args.rounds),
        "cancel": cancel,
        "step": lambda: step(args.rounds),
        "typing": lambda: typing(tokenizer, text),
    }
    rows = []
    for name, part in parts.items():
        if not args.only or name in args.only:
            for row in part():
                named = [f"{key} {value}" for key, value in row.items() if key not in ("part", "case")]
                print(f"{row['part']}: {row['case']}: {', '.join(named)}", flush=True)
                rows.append(row)
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(args.threads), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
