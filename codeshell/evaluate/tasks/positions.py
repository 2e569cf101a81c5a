"""Loss by position: does the model use a longer context after the phase that trained it?

The final model is compared with the last checkpoint of every phase that had a shorter context. Both read the same
held-out sequences: the first T + 1 tokens of files that have as many, one sequence per file, where T is the longest
context of the run. For each bucket of positions the mean loss of each model and the paired difference are given with
standard errors over sequences, which are independent as files are. Position p is that of the input token; the loss
there is that of token p + 1 given tokens 0 … p.

Its statistics, where a value with an error is `{"mean", "se"}` in nats per token:

    {"sequences", "context",
     "pairs": [{"step", "context_before", "context_after",
                "within" | "beyond": {"before", "after", "difference": value, "interval", "significant"},
                "buckets": [{"start", "end", "before", "after", "difference": value}]}]}

`stats.json` holds them without the buckets, `positions.json` with them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codeshell.evaluate import claims
from codeshell.evaluate.intervals import DIGITS, FEWEST, Z95, mean_and_error
from codeshell.evaluate.prompts import PROMPT_CHARACTERS
from codeshell.evaluate.section import Cell, Chart, Curve, Interval, Row, Section, Table, difference_cell, left_over
from codeshell.evaluate.task import Measured, NotRunError, Task

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

TEXT_BYTES = 33_554_432
"""Held-out text among which files that are long enough are looked for."""

BUCKETS = 32
"""Equal parts of the longest context (fewer where it has fewer tokens)."""

Floats = npt.NDArray[np.float64]


class Positions(Task):
    """The task `positions`: it needs the checkpoints of a run, and scores instead of asking."""

    name = "positions"
    heading = "Loss by position"
    keeps_samples = False
    needs_run = True
    keeps_details = True

    def measure(self, subject: Subject) -> Measured:
        # Only phases with a shorter context can say whether the longer one is used.
        shorter = [end for end in subject.phase_ends if end.context < subject.context]
        if not shorter:
            raise NotRunError("no phase has a shorter context than the last one")
        # int64 (sequences, context + 1): each token but the first is predicted once.
        sequences = first_tokens(subject, subject.settings.position_sequences, subject.context + 1)
        if not len(sequences):
            raise NotRunError(
                f"no held-out file of more than {subject.context} tokens, or evaluate.position_sequences is 0"
            )
        # (sequences, context) each; the final model is the same in every pair.
        after = subject.losses(sequences)
        pairs: list[dict[str, Any]] = []
        for end in shorter:
            # A checkpoint that was removed since cannot be compared; the others still can.
            if not (end.checkpoint / "model.safetensors").exists():
                continue
            before = subject.losses(sequences, end.checkpoint)
            pairs.append(
                {
                    "step": end.step,
                    "context_before": end.context,
                    "context_after": subject.context,
                    **within_and_beyond(before, after, end.context),
                    "buckets": by_bucket(before, after),
                }
            )
        if not pairs:
            raise NotRunError("no checkpoint of the end of an earlier phase; train.keep_phase_ends keeps them")
        return Measured({"sequences": len(sequences), "context": subject.context, "pairs": pairs})

    def brief(self, result: dict[str, Any]) -> dict[str, Any]:
        return result | {"pairs": [left_over(pair, "buckets") for pair in result["pairs"]]}

    def claims(self, result: dict[str, Any]) -> list[str]:
        # Two sentences per pair: inside the context of the earlier phase, and beyond it.
        sentences = []
        for pair in result["pairs"]:
            for where, words in (("within", "up to position {}"), ("beyond", "from position {} on")):
                change = pair[where]
                place = words.format(pair["context_before"])
                mean = change["difference"]["mean"]
                if change["significant"]:
                    moved = "fell" if mean < 0 else "rose"
                    sentences.append(
                        f"Between step {pair['step']} and the end the loss {place} {moved} by {abs(mean):.3f} nats per "
                        f"token, 95 % interval of the change {claims.numbers(change['interval'])}, on "
                        f"{result['sequences']} held-out sequences of {result['context']} tokens."
                    )
                else:
                    sentences.append(
                        f"No change of the loss {place} between step {pair['step']} and the end can be claimed from "
                        f"{result['sequences']} held-out sequences."
                    )
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        head = ("Change of context", "Before, nats", "After, nats", "Difference", "95 % interval")
        rows = [
            _row(pair, pair[where], title)
            for pair in result["pairs"]
            for where, title in (("within", "inside the old context"), ("beyond", "beyond the old context"))
        ]
        return Section(
            self.heading,
            (
                f"The same {result['sequences']:,} held-out sequences of {result['context']:,} tokens, read by "
                "the model before and after each change of context.",
                "Differences are paired; a negative one is a gain.",
            ),
            (Table(head, tuple(rows)),),
            tuple(_chart(pair) for pair in result["pairs"] if pair.get("buckets")),
            others=left_over(result, "pairs", "sequences", "context"),
        )


def _row(pair: dict[str, Any], change: dict[str, Any], title: str) -> Row:
    contexts = f"{pair['context_before']:,} to {pair['context_after']:,} tokens"
    mean, interval = change["difference"]["mean"], change["interval"]
    cells: tuple[Cell, ...] = (
        change["before"]["mean"],
        change["after"]["mean"],
        difference_cell({"difference": mean, "significant": change["significant"]}),
        None if interval is None else Interval(interval[0], interval[1]),
    )
    return Row(f"{contexts}, step {pair['step']:,}, {title}", cells)


def _chart(pair: dict[str, Any]) -> Chart:
    before, after = pair["context_before"], pair["context_after"]
    # Each bucket is drawn at its middle.
    places = [(bucket["start"] + bucket["end"]) / 2 for bucket in pair["buckets"]]
    # The final model has color 1, as its bars in tables do; the curve of the earlier one is drawn under it.
    curves = tuple(
        Curve(
            f"{side}: trained to {context:,}",
            tuple((place, bucket[side]["mean"]) for place, bucket in zip(places, pair["buckets"], strict=True)),
            color,
        )
        for color, side, context in ((2, "before", before), (1, "after", after))
    )
    last = [curve.points[-1][1] for curve in curves]
    return Chart(
        f"Loss by position, {before:,} to {after:,} tokens",
        "position in the sequence, tokens",
        "nats per token",
        curves,
        f"At the last positions the loss is {last[0]:.2f} before the phase and {last[1]:.2f} after it.",
        ((float(before), "old context"),),
    )


def first_tokens(subject: Subject, count: int, length: int) -> npt.NDArray[np.int64]:
    """The first tokens of long held-out files, one sequence per file.

    Args:
        count: files at most, in the order of hash(seed, id, "positions").
        length: tokens of a sequence, what stands before a document included; shorter files are passed over.

    Returns:
        int64 (files, length).
    """
    # Rows of equal length: a file that is longer is cut, one that is shorter is passed over.
    rows: list[list[int]] = []
    before, tokenizer = subject.before_text, subject.tokenizer
    for document in subject.held_out.choose(subject.seed, "positions", max_bytes=TEXT_BYTES):
        if len(rows) == count:
            break
        # A token has one byte or more, so a file of fewer bytes need not be tokenised to be known as too short.
        if len(document.data) >= length - len(before):
            ids = before + tokenizer.encode(document.text[: length * PROMPT_CHARACTERS])
            if len(ids) >= length:
                rows.append(ids[:length])
    return np.array(rows, dtype=np.int64).reshape(len(rows), length)


def edges(context: int) -> list[int]:
    """Ends of the buckets: `BUCKETS` + 1 integers from 0 to `context`."""
    count = min(BUCKETS, context)
    return [index * context // count for index in range(count + 1)]


def by_bucket(before: Floats, after: Floats) -> list[dict[str, Any]]:
    """Mean loss and paired difference (after minus before) in each bucket, nats per token.

    Args:
        before, after: float64 (sequences, context), the losses of the two models on the same tokens.
    """
    ends = edges(before.shape[1])
    rows: list[dict[str, Any]] = []
    for start, end in itertools.pairwise(ends):
        # (sequences,): the mean of a bucket in each sequence is one independent value.
        a, b = before[:, start:end].mean(axis=1), after[:, start:end].mean(axis=1)
        rows.append(
            {
                "start": start,
                "end": end,
                "before": mean_and_error(a),
                "after": mean_and_error(b),
                "difference": mean_and_error(b - a),
            }
        )
    return rows


def within_and_beyond(before: Floats, after: Floats, trained: int) -> dict[str, Any]:
    """The change inside the context that the earlier phase trained, and beyond it.

    Args:
        before, after: as in `by_bucket`.
        trained: context of the earlier phase, in tokens.
    """
    return {
        "within": _change(before[:, :trained], after[:, :trained]),
        "beyond": _change(before[:, trained:], after[:, trained:]),
    }


def _change(before: Floats, after: Floats) -> dict[str, Any]:
    # One number per sequence: sequences are independent, the positions within one are not.
    a, b = before.mean(axis=1), after.mean(axis=1)
    difference = mean_and_error(b - a)
    # A normal interval of the mean paired difference; one sequence alone has none.
    n = len(a)
    interval = None
    if difference["se"] is not None:
        half = Z95 * difference["se"]
        interval = [round(difference["mean"] - half, DIGITS), round(difference["mean"] + half, DIGITS)]
    away = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {
        "before": mean_and_error(a),
        "after": mean_and_error(b),
        "difference": difference,
        "interval": interval,
        "significant": away and n >= FEWEST,
    }
