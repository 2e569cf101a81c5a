"""The negative log-likelihood of given tokens under a model, in nats.

A file is scored in sliding windows. With a window of W tokens and a stride S, the first window scores its W targets.
Every further one moves on by S and scores the S targets that are new, so a target beyond the first window has at
least W - S tokens of its own file before it. A window begins at position 0 and sees nothing of another file.

Where a file begins, the model is in the state that training put it in (`start`):
- `"none"`: the first token of the file is the first input, at position 0. So it is in training where documents do not
  attend to one another (`train.document_attention`), and where users prompt the released model. Nothing predicts the
  first token; it costs ln V, a uniform code over the model's vocabulary.
- `"eot"`: `<|endoftext|>` is the first input, as in training where documents see those before them in the context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from codeshell.model.precision import autocast

Start = Literal["none", "eot"]
IGNORED = -100
LOGIT_ELEMENTS = 16_777_216
"""Logits in memory at a time (64 MB of fp32). A batch is as large as this allows, and one window at least."""


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Cut `length` targets into windows.

    Returns:
        (begin, end, scored) of each window: its inputs and targets are `begin … end - 1`, and those from `scored` on
        count. Every target counts in exactly one window.

    Raises:
        ValueError: the stride is not between 1 and the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride: {stride} is not between 1 and the window {window}")
    cuts: list[tuple[int, int, int]] = []
    done = 0
    while done < length:
        # The window reaches back from its end as far as it can, so that new targets see as much as possible.
        end = min(length, window if not cuts else done + stride)
        cuts.append((max(0, end - window), end, done))
        done = end
    return cuts


@torch.inference_mode()
def score(
    model: Any, files: Sequence[Sequence[int]], *, eot: int, window: int, stride: int, start: Start = "none"
) -> list[npt.NDArray[np.float64]]:
    """Nats of every token of every file and of the `<|endoftext|>` after it.

    Args:
        model: a `CodeShellForCausalLM` (anything that maps ids (batch, length) to `.logits` (batch, length, V)).
        files: token ids of each file, without special tokens.
        eot: id of `<|endoftext|>`.
        window: tokens that the model sees at once.
        stride: see the module's text.
        start: see the module's text.

    Returns:
        One float64 (len(file) + 1,) per file; the last entry is the end of text. An empty file has that entry alone,
        and with `start="none"` it is ln V.
    """
    sequences = [_inputs_and_targets(ids, eot, start) for ids in files]
    jobs = [
        (end - begin, index, begin, end, scored)
        for index, (inputs, _) in enumerate(sequences)
        for begin, end, scored in windows(len(inputs), window, stride)
    ]
    # Windows of equal length come together, so that batches need little padding; the longest come first.
    jobs.sort(key=lambda job: (-job[0], job[1:]))
    results = [np.zeros(len(ids) + 1) for ids in files]
    # Without a start token nothing predicts the first token: it costs a uniform code, and targets begin after it.
    vocabulary = int(model.config.vocab_size)
    skipped = 1 if start == "none" else 0
    if skipped:
        for result in results:
            result[0] = math.log(vocabulary)
    at = 0
    while at < len(jobs):
        # The next batch: as many windows as the limit allows at the width of its first, longest one.
        width = jobs[at][0]
        batch = jobs[at : at + max(1, LOGIT_ELEMENTS // (vocabulary * width))]
        at += len(batch)
        # inputs and targets are int64 (batch, width). Targets that do not count, and the padding, are ignored.
        inputs = np.full((len(batch), width), eot, dtype=np.int64)
        targets = np.full((len(batch), width), IGNORED, dtype=np.int64)
        for row, (length, index, begin, end, scored) in enumerate(batch):
            inputs[row, :length] = sequences[index][0][begin:end]
            targets[row, scored - begin : length] = sequences[index][1][scored:end]
        # Windows of a file may come in any order: each writes its own stretch of the result.
        nats = token_nats(model, inputs, targets)
        for row, (length, index, begin, end, scored) in enumerate(batch):
            results[index][skipped + scored : skipped + end] = nats[row, scored - begin : length]
    return results


def token_nats(model: Any, inputs: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-ln P(target) at every place of a batch; 0 where the target is `IGNORED`.

    Args:
        inputs: int64 (batch, length); attention is causal, so padding comes last.
        targets: int64, the same shape.

    Returns:
        float64, the same shape. The softmax is fp32 over the whole (padded) vocabulary.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast("auto", device):
        logits = model(torch.from_numpy(inputs).to(device)).logits
    ids = torch.from_numpy(targets).to(device).flatten()
    flat = F.cross_entropy(logits.float().flatten(0, 1), ids, reduction="none", ignore_index=IGNORED)
    result: npt.NDArray[np.float64] = flat.reshape(inputs.shape).double().cpu().numpy()
    return result


def losses(model: Any, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nats of every token but the first of each sequence, given those before it.

    Args:
        sequences: int64 (sequences, length), no longer than the model's context allows.

    Returns:
        float64 (sequences, length - 1).
    """
    # Every target counts here; a real token never has the id that means "ignored".
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    assert not (targets == IGNORED).any()
    rows = max(1, LOGIT_ELEMENTS // (int(model.config.vocab_size) * inputs.shape[1]))
    batches = [
        token_nats(model, np.ascontiguousarray(inputs[at : at + rows]), np.ascontiguousarray(targets[at : at + rows]))
        for at in range(0, len(inputs), rows)
    ]
    return np.concatenate(batches)


def _inputs_and_targets(
    ids: Sequence[int], eot: int, start: Start
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    # The input at each place predicts the token after it.
    stream = np.array([eot, *ids, eot] if start == "eot" else [*ids, eot], dtype=np.int64)
    return stream[:-1], stream[1:]
