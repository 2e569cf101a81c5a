"""The evaluation stage of a run: every part once, each kept when it is done, so that a killed run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codeshell.engine import Engine
from codeshell.engine.files import make_directory, read_json, write_json
from codeshell.errors import UserError
from codeshell.evaluate.claims import make_claims
from codeshell.evaluate.corpus import Corpus, split_paths
from codeshell.evaluate.scoring import IGNORED, LOGIT_ELEMENTS, Start, token_nats
from codeshell.evaluate.subject import Evaluation, NotRunError, head_tokens, load_model
from codeshell.evaluate.tasks import positions
from codeshell.recipe import Recipe, Train

PARTS = ("bits_per_byte", "infill", "functions", "positions")
SPLIT = "test"


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Evaluate the run in `directory`; see `codeshell.evaluate` for what is written and returned.

    The engine is not used: one model on one device does the work, and its threads are the recipe's `train.threads`,
    so the worker count cannot change a number.

    Raises:
        UserError: the run has no model or no tokenizer yet.
    """
    output = make_directory(directory / "evaluate")
    for needed in ("model", "tokenizer"):
        if not (directory / needed).is_dir():
            raise UserError(f"{directory / needed}: not there; run the stages before evaluate first")
    held_out = Corpus(split_paths(directory, SPLIT, seed=recipe.seed))
    parts = _Parts(output)
    before = torch.get_num_threads()
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    try:
        if len(held_out):
            _run_parts(recipe, directory, held_out, parts)
        else:
            for name in PARTS:
                parts.skip(name, "no held-out files: the test split is empty")
    finally:
        torch.set_num_threads(before)
    curves = parts.results["positions"]
    write_json(output / "positions.json", curves)
    write_json(output / "samples.json", parts.samples)
    if curves is not None:
        pairs = [{key: value for key, value in pair.items() if key != "buckets"} for pair in curves["pairs"]]
        parts.results["positions"] = curves | {"pairs": pairs}
    stats: dict[str, Any] = {
        "held_out": {
            "split": SPLIT,
            "shards": len(held_out.paths),
            "documents": len(held_out),
            "bytes": held_out.total_bytes,
        },
        "not_run": parts.reasons,
        **parts.results,
    }
    stats["claims"] = make_claims(stats)
    return stats


class _Parts:
    """Results by part; each is a file `part-NAME.json` once it is there."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.results: dict[str, Any] = dict.fromkeys(PARTS)
        self.samples: dict[str, Any] = {"infill": [], "functions": []}
        self.reasons: dict[str, str] = {}

    def do(self, name: str, work: Callable[[], Any]) -> None:
        path = self.output / f"part-{name}.json"
        if not path.exists():
            began = time.monotonic()
            try:
                value = work()
            except NotRunError as reason:
                self.skip(name, str(reason))
                return
            result, samples = value if isinstance(value, tuple) else (value, None)
            write_json(path, {"result": result, "samples": samples})
            print(f"evaluate: {name} took {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        kept = read_json(path)
        self.results[name] = kept["result"]
        if kept["samples"] is not None:
            self.samples[name] = kept["samples"]

    def skip(self, name: str, reason: str) -> None:
        self.reasons[name] = reason


def _run_parts(recipe: Recipe, directory: Path, held_out: Corpus, parts: _Parts) -> None:
    from codeshell.tokenizer import Tokenizer

    model = load_model(directory / "model")
    tokenizer = Tokenizer.load(directory / "tokenizer")
    train = Corpus(split_paths(directory, "train", seed=recipe.seed))
    context = max(phase.context for phase in recipe.train.phases)
    start: Start = "none" if recipe.train.document_attention == "isolated" else "eot"
    evaluation = Evaluation(
        model,
        tokenizer,
        held_out,
        train if len(train) else None,
        recipe.evaluate,
        seed=recipe.seed,
        context=context,
        start=start,
    )
    parts.do("bits_per_byte", evaluation.measure_compression)
    parts.do("infill", evaluation.measure_infill)
    parts.do("functions", evaluation.measure_functions)
    parts.do("positions", lambda: loss_by_position(recipe, directory, evaluation))


def loss_by_position(recipe: Recipe, directory: Path, evaluation: Evaluation) -> dict[str, Any]:
    """The final model beside the last checkpoint of every phase that had a shorter context."""
    context = evaluation.context
    shorter = [(step, shorter) for step, shorter in phase_ends(recipe.train) if shorter < context]
    if not shorter:
        raise NotRunError("no phase has a shorter context than the last one")
    sequences = head_tokens(
        evaluation.held_out,
        evaluation.tokenizer,
        seed=recipe.seed,
        count=recipe.evaluate.position_sequences,
        length=context + 1,
        start=evaluation.start,
    )
    if not len(sequences):
        raise NotRunError(f"no held-out file of more than {context} tokens, or evaluate.position_sequences is 0")
    after = _losses(evaluation.model, sequences)
    pairs: list[dict[str, Any]] = []
    for step, trained in shorter:
        checkpoint = directory / "train" / "checkpoints" / f"step-{step:06d}"
        if not (checkpoint / "model.safetensors").exists():
            continue
        before = _losses(load_model(checkpoint), sequences)
        pairs.append(
            {
                "step": step,
                "context_before": trained,
                "context_after": context,
                **positions.within_and_beyond(before, after, trained),
                "buckets": positions.by_bucket(before, after),
            }
        )
    if not pairs:
        raise NotRunError("no checkpoint of the end of an earlier phase; train.keep_phase_ends keeps them")
    return {"sequences": len(sequences), "context": context, "pairs": pairs}


def phase_ends(train: Train) -> list[tuple[int, int]]:
    """(last step, context) of every phase but the last, rounded as the trainer does; empty phases are left out."""
    ends: list[tuple[int, int]] = []
    share, before = 0.0, 0
    for phase in train.phases[:-1]:
        share += phase.share
        last = round(min(share, 1.0) * train.steps)
        if last > before:
            ends.append((last, phase.context))
        before = last
    return ends


def _losses(model: Any, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    assert not (targets == IGNORED).any()
    rows = max(1, LOGIT_ELEMENTS // (int(model.config.vocab_size) * inputs.shape[1]))
    batches = [
        token_nats(model, np.ascontiguousarray(inputs[at : at + rows]), np.ascontiguousarray(targets[at : at + rows]))
        for at in range(0, len(inputs), rows)
    ]
    return np.concatenate(batches)
