"""What a change of the demo's training gives in the same time: bits per byte and masked lines, on the same documents.

    codeshell run recipes/demo.toml -o runs/demo --until tokens
    python benchmarks/demo.py runs/demo --share 0.1 --json benchmarks/results/demo-cpu.json
    python benchmarks/demo.py runs/demo --arms before,now --share 1

An arm is a list of settings on top of recipes/demo.toml. The first one, `before`, is the recipe of 2026-11-29; each of
the next changes one thing of the arm above it, and `now` is the recipe as it is. Arms in a table of their own (`--try
NAME:key=value;key=value`) change `now`.

Equal time is equal CPU time of training. The CPU time of a step is measured first, arm by arm in turns, so that a
change of the machine's speed affects all; the number of steps of each arm is the budget divided by the median. The
budget is `--share` of what the recipe of 2026-11-29 takes for its 5.3 M tokens. All arms train on one thread, which
also makes CPU time and wall time the same on an idle machine.

Every arm is scored on the same held-out documents of the run: bits per byte in windows of 256 tokens and of the
model's whole context, and masked lines as the task `infill` asks them. A line counts if the most likely token at every
place of it and of its end is the right one, which is when greedy decoding writes it; answers that differ in blanks
alone count as wrong here. Below them is the most common line of the training documents, on the same lines.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch

from codeshell import recipe as recipes
from codeshell.documents.token_shards import TokenCorpus
from codeshell.engine.memory import keep_large_blocks
from codeshell.environment import environment
from codeshell.evaluate.corpus import Corpus, Document
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.prompts import Prompt, prompt_ids
from codeshell.evaluate.scoring import score
from codeshell.evaluate.tasks.infill import MAX_NEW_TOKENS, NOT_CODE, CommonLines, MaskedLine, exact, mask_lines
from codeshell.model import CodeShellForCausalLM
from codeshell.model.infill import order_of
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer
from codeshell.train import train_run
from codeshell.train.batches import fold
from codeshell.train.build import build
from codeshell.train.forward import summed_loss
from codeshell.train.rows import Lanes

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.toml"

QUIET = ["train.threads=1", "train.valid_every=0", "train.checkpoint_every=0", "train.keep_phase_ends=false"]

BEFORE = [
    "model.n_positions=1024",
    "train.steps=1300",
    "train.batch_tokens=4096",
    "train.phases=[{share=0.9,context=256},{share=0.1,context=1024}]",
    "train.optimizer=adamw",
    "train.lr=3e-3",
    "train.matrix_lr=0.0",
    "train.decay=cosine",
    "train.decay_share=1.0",
    "train.min_lr_ratio=0.1",
    "train.warmup_steps=50",
    "train.weight_decay=0.1",
    "train.beta2=0.95",
    "train.fim_rate=0.5",
    "train.spm_rate=0.5",
    "train.fim_lines=0.0",
    "train.fim_tokens=0",
]
"""The recipe of 2026-11-29, whatever today's says."""

STEPS_BEFORE = 1300

WARM_UP = 0.05
"""Part of an arm's steps in which the rate rises; the recipe's own steps of warm-up are for its own length."""

CHANGES: dict[str, list[str]] = {
    "before": [],
    "batches of 1,024 tokens": [
        "train.batch_tokens=1024",
        "train.phases=[{share=0.7,context=256},{share=0.3,context=512}]",
        "model.n_positions=512",
    ],
    "linear decay to 0": ["train.decay=linear", "train.min_lr_ratio=0.0"],
    "Muon": ["train.optimizer=muon"],
    "middles of whole lines": ["train.fim_lines=0.9"],
}
"""Each changes the arm above it."""

STEPS_OF_A_ROUND = 4
SCORED_BYTES = 400_000


def arms(args: argparse.Namespace) -> dict[str, list[str]]:
    """Settings by the arm's name, those that were asked for."""
    settings, all_arms = list(BEFORE), {}
    for name, change in CHANGES.items():
        settings = settings + change
        all_arms[name] = settings
    all_arms["now"] = []
    for item in args.tried:
        name, _, change = item.partition(":")
        all_arms[name] = [part for part in change.split(";") if part]
    wanted = args.arms.split(",") if args.arms else list(all_arms)
    return {name: all_arms[name] for name in [*wanted, *(item.partition(":")[0] for item in args.tried)]}


def load(settings: list[str]) -> Recipe:
    return recipes.load(RECIPE, [*settings, *QUIET])


def step_of(recipe: Recipe, directory: Path) -> Any:
    """A function that does one training step of the recipe's first phase, without the trainer around it."""
    tokenizer = Tokenizer.load(directory / "tokenizer")
    corpus = TokenCorpus(sorted((directory / "tokens").glob("train-*.tokens")), tokenizer.hash)
    train = recipe.train
    lanes = Lanes(
        corpus,
        tokenizer,
        batch_tokens=train.batch_tokens,
        contexts=[phase.context for phase in train.phases],
        seed=recipe.seed,
        fim_rate=train.fim_rate,
        spm_rate=train.spm_rate,
        fim_lines=train.fim_lines,
        fim_tokens=train.fim_tokens,
        isolated=True,
    )
    model, optimizer = build(recipe, tokenizer, torch.device("cpu"))
    positions = lanes.start()

    def step() -> None:
        nonlocal positions
        batch = lanes.take(positions, train.batch_tokens, train.phases[0].context)
        positions = batch.after
        for micro in fold(batch, train.phases[0].context, train.micro_batch_tokens, isolated=True):
            (summed_loss(model, micro, "fp32") / train.batch_tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.clip_grad_norm(train.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_times(chosen: dict[str, list[str]], directory: Path, rounds: int) -> dict[str, float]:
    """Median CPU seconds of a step, arm by arm in turns."""
    steps = {name: step_of(load(settings), directory) for name, settings in chosen.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begin = time.process_time()
            for _ in range(STEPS_OF_A_ROUND):
                step()
            if turn:  # the first round makes states and buffers
                found[name].append((time.process_time() - begin) / STEPS_OF_A_ROUND)
    return {name: statistics.median(times) for name, times in found.items()}


def held_out(directory: Path, seed: int, lines: int) -> tuple[list[Document], list[MaskedLine], CommonLines]:
    """Documents to score, masked lines, and the most common lines of the training documents."""
    paths = {split: sorted((directory / "curated").glob(f"{split}-*.parquet")) for split in ("train", "valid", "test")}
    corpus = Corpus([*paths["valid"], *paths["test"]])
    documents = corpus.choose(seed, "demo", max_bytes=SCORED_BYTES, excluded=NOT_CODE)
    asked = corpus.choose(seed, "demo lines", max_bytes=corpus.total_bytes, excluded=NOT_CODE)
    sample = Corpus(paths["train"]).choose(seed, "demo sample", max_bytes=8_000_000, excluded=NOT_CODE)
    return documents, mask_lines(asked, seed=seed, count=lines), CommonLines(sample)


def measure(model: CodeShellForCausalLM, tokenizer: Tokenizer, documents: list[Document], context: int) -> float:
    """Bits per byte, the end of each text included."""
    files = [tokenizer.encode(document.text) for document in documents]
    nats = score(model, files, eot=tokenizer.eot, window=context, stride=max(context // 2, 1))
    return sum(float(part.sum()) for part in nats) / math.log(2) / sum(len(d.data) for d in documents)


def fills_in(
    model: CodeShellForCausalLM, tokenizer: Tokenizer, masked: MaskedLine, order: Literal["psm", "spm"]
) -> tuple[bool, float]:
    """Whether greedy decoding writes the line and ends, and the bits that the line costs."""
    prompt = Prompt(masked.before, masked.after)
    context = model.config.n_positions
    room = min(MAX_NEW_TOKENS, context // 4)
    ids = prompt_ids(prompt, tokenizer, context=context, max_new_tokens=room, order=order)
    answer = [*tokenizer.encode(masked.line), tokenizer.eot][: context - len(ids) + 1]
    with torch.inference_mode():
        logits = model(torch.tensor([ids + answer[:-1]])).logits[0, len(ids) - 1 :].float()
    aims = torch.tensor(answer)
    nats = float(torch.nn.functional.cross_entropy(logits, aims, reduction="sum"))
    return bool((logits.argmax(-1) == aims).all()), nats / math.log(2)


def train(recipe: Recipe, directory: Path, steps: int) -> tuple[dict[str, Any], Path, float]:
    """A whole training with the package's trainer: its statistics, the model's folder, its CPU seconds."""
    home = Path(tempfile.mkdtemp(prefix="codeshell-demo-"))
    for part in ("tokens", "tokenizer"):
        (home / part).symlink_to((directory / part).resolve())
    values = {"train.steps": steps, "train.warmup_steps": max(round(WARM_UP * steps), 1)}
    tree = recipes.to_tree(recipe)
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    begin = time.process_time()
    statistics_of_run = train_run.run(recipes.from_tree(tree, str(RECIPE)), home, None)  # type: ignore[arg-type]
    return statistics_of_run, home / "model", time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's directory with curated/, tokenizer/ and tokens/")
    parser.add_argument("--share", type=float, default=0.1, help="part of the time of the recipe of 2026-11-29")
    parser.add_argument("--arms", default="", help="names, by commas; all without it")
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME:key=value;key=value")
    parser.add_argument("--rounds", type=int, default=7, help="turns of the arms in which their steps are timed")
    parser.add_argument("--lines", type=int, default=400, help="masked lines")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    chosen = arms(args)
    times = step_times({"before": BEFORE} | chosen, args.run, args.rounds)
    budget = args.share * STEPS_BEFORE * times["before"]
    documents, masked, common = held_out(args.run, load([]).seed, args.lines)
    guesses = [exact(common.guess(one, "all"), one.line) for one in masked]
    rows = []
    for name, settings in chosen.items():
        found, folder, seconds = train(load(settings), args.run, max(round(budget / times[name]), 2))
        tokenizer = Tokenizer.load(folder)
        model = CodeShellForCausalLM.from_pretrained(folder).eval()
        order = order_of(load(settings).train)
        hits, bits = zip(*(fills_in(model, tokenizer, one, order) for one in masked), strict=True)
        rows.append(
            {
                "name": name,
                "parameters": found["parameters"],
                "steps": found["steps"],
                "tokens": found["tokens"],
                "cpu_seconds": round(seconds, 1),
                "step_milliseconds": round(1000 * times[name], 2),
                "bits_per_byte": round(measure(model, tokenizer, documents, model.config.n_positions), 4),
                "bits_per_byte_256": round(measure(model, tokenizer, documents, 256), 4),
                "lines": share(sum(hits), len(hits)),
                "against_common_line": compare_shares(list(hits), guesses),
                "bits_per_line": round(statistics.fmean(bits), 2),
                "settings": settings,
            }
        )
        row = rows[-1]
        print(
            f"{name:28} {row['tokens'] / 1e6:6.2f} M tokens {row['cpu_seconds']:7.1f} s CPU "
            f"{row['bits_per_byte']:.4f} ({row['bits_per_byte_256']:.4f}) bits per byte, "
            f"{sum(hits)} of {len(hits)} lines, {row['bits_per_line']:.1f} bits per line",
            flush=True,
        )
    print(f"most common line: {sum(guesses)} of {len(guesses)}")
    if args.json:
        result = {
            "benchmark": "demo",
            "environment": environment(1),
            "budget_cpu_seconds": round(budget, 1),
            "common_line": share(sum(guesses), len(guesses)),
            "rows": rows,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
