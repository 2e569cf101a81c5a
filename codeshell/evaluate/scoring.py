"""What a model says about given tokens: the negative log-likelihood of each, in nats.

A file is scored in sliding windows. With a window of W tokens and a stride S, the first window scores its W targets;
every further one moves on by S and scores the S targets that are new, so a target beyond the first window has at
least W - S tokens of its own file before it. A window begins at position 0 and sees nothing of another file.

Where a file begins, the model is in the state that training put it in (`start`):
- `"none"`: the first token of the file is the first input, at position 0, as in training where documents attend to
  themselves alone (`train.document_attention = "own"`) and as users prompt the released model. Nothing predicts the
  first token; it costs ln V, a uniform code over the model's vocabulary.
- `"eot"`: `<|endoftext|>` is the first input, as in training where documents follow one another in one context.
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
"""Logits in memory at a time (64 MB of fp32): batches are as large as this allows, and at least one window."""


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Cut `length` targets into windows.

    Returns:
        (begin, end, scored) of each: inputs and targets `begin … end - 1`, of which those from `scored` on count.
        Every target counts in exactly one window.

    Raises:
        ValueError: the stride is not between 1 and the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride: {stride} is not between 1 and the window {window}")
    cuts: list[tuple[int, int, int]] = []
    done = 0
    while done < length:
        end = min(length, window if not cuts else done + stride)
        cuts.append((max(0, end - window), end, done))
        done = end
    return cuts


@torch.inference_mode()
def score(
    model: Any, files: Sequence[Sequence[int]], *, eot: int, window: int, stride: int, start: Start = "none"
) -> list[npt.NDArray[np.float64]]:
    """Nats of every token of every file and of the `<|endoftext|>` behind it.

    Args:
        model: a `CodeShellForCausalLM` (anything that maps ids (batch, length) to `.logits` (batch, length, V)).
        files: token ids of each file, without special tokens.
        eot: id of `<|endoftext|>`.
        window: tokens the model sees at once.
        stride: see the module's text.
        start: see the module's text.

    Returns:
        float64 (len(file) + 1,) a file; the last entry is the end of text. An empty file has that entry alone, and
        with `start="none"` it is ln V.
    """
    sequences = [_inputs_and_targets(ids, eot, start) for ids in files]
    jobs = [
        (end - begin, index, begin, end, scored)
        for index, (inputs, _) in enumerate(sequences)
        for begin, end, scored in windows(len(inputs), window, stride)
    ]
    jobs.sort(key=lambda job: (-job[0], job[1:]))  # equal lengths together: little padding
    results = [np.zeros(len(ids) + 1) for ids in files]
    vocabulary = int(model.config.vocab_size)
    skipped = 1 if start == "none" else 0
    if skipped:
        for result in results:
            result[0] = math.log(vocabulary)
    at = 0
    while at < len(jobs):
        width = jobs[at][0]
        batch = jobs[at : at + max(1, LOGIT_ELEMENTS // (vocabulary * width))]
        at += len(batch)
        inputs = np.full((len(batch), width), eot, dtype=np.int64)
        targets = np.full((len(batch), width), IGNORED, dtype=np.int64)
        for row, (length, index, begin, end, scored) in enumerate(batch):
            inputs[row, :length] = sequences[index][0][begin:end]
            targets[row, scored - begin : length] = sequences[index][1][scored:end]
        nats = token_nats(model, inputs, targets)
        for row, (length, index, begin, end, scored) in enumerate(batch):
            results[index][skipped + scored : skipped + end] = nats[row, scored - begin : length]
    return results


def token_nats(model: Any, inputs: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-ln P(target) at every place of a batch; 0 where the target is `IGNORED`.

    Args:
        inputs: int64 (batch, length); attention is causal, so padding goes behind.
        targets: int64, the same shape.

    Returns:
        float64, the same shape. The softmax is fp32 over the whole (padded) vocabulary.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast("auto", device):
        logits = model(torch.from_numpy(inputs).to(device)).logits
    wanted = torch.from_numpy(targets).to(device).flatten()
    flat = F.cross_entropy(logits.float().flatten(0, 1), wanted, reduction="none", ignore_index=IGNORED)
    result: npt.NDArray[np.float64] = flat.reshape(inputs.shape).double().cpu().numpy()
    return result


def losses(model: Any, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nats of every token but the first of each sequence, given those before it.

    Args:
        sequences: int64 (sequences, length), no longer than the model's context allows.

    Returns:
        float64 (sequences, length - 1).
    """
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
    stream = np.array([eot, *ids, eot] if start == "eot" else [*ids, eot], dtype=np.int64)
    return stream[:-1], stream[1:]
