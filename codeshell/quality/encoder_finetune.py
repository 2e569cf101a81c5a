"""Fine-tunes an encoder with its head, on this package's optimizer and schedule: squared error of the scores.

A step is a batch of documents, of which each runs forward and backward alone, in its own windows: nothing is padded,
and the memory is that of one document. Dropout is off, because its random bits come from a generator with a state. For
the figures a fresh encoder is trained for each fold, so a measured run costs as much as the folds and one more.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.engine.files import make_directory
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.quality.encoder_settings import Settings, schedule
from codeshell.randomness import draw
from codeshell.scorers.bert import Encoder, one_thread
from codeshell.scorers.encoder_model import Head

WEIGHT_DECAY = 0.01
"""The field's value for fine-tuning BERT."""

HEAD_RATE = 30.0
"""The head begins at the mean score and learns faster than the encoder, by this factor."""

CLIP = 1.0
"""Global norm of the gradient at most."""


def finetune(
    documents: pa.Table,
    targets: NDArray[np.float64],
    folds: NDArray[np.integer[Any]],
    directory: Path,
    settings: Settings,
    work: Path,
) -> tuple[NDArray[np.float64], Encoder, Head]:
    """Train on each fold's complement and on all.

    Args:
        targets: (n, names) scores.
        work: the encoder that was trained on all is written to `work/encoder`.

    Returns:
        (n, names) out-of-fold scores, that encoder, and its head.
    """
    texts, languages = documents["text"].to_pylist(), documents["language"].to_pylist()
    if settings.epochs < 1 or settings.batch < 1 or not settings.lr > 0:
        raise UserError("--epochs, --batch and --lr: must be above 0; give larger numbers")
    oof = np.empty_like(targets)
    names = np.unique(folds).tolist()
    for fold in names:
        inside = np.flatnonzero(folds != fold)
        encoder, head = _train(directory, settings, texts, languages, targets, inside, f"fold {fold}")
        for place in np.flatnonzero(folds == fold).tolist():
            oof[place] = head(encoder.embed([texts[place]], [languages[place]]))[0]
    encoder, head = _train(directory, settings, texts, languages, targets, np.arange(len(texts)), "all labels")
    # The encoder that is kept is the one that is read back: its identity is that of the files.
    kept = make_directory(work) / "encoder"
    shutil.rmtree(kept, ignore_errors=True)
    encoder.model.save_pretrained(kept)
    shutil.copyfile(encoder.directory / "tokenizer.json", kept / "tokenizer.json")
    return oof, _encoder(kept, settings), head


def _encoder(directory: Path, settings: Settings) -> Encoder:
    """With the language's name before each window: an encoder that learns can make use of it."""
    return Encoder(directory, window=settings.window, windows=settings.windows, pooling="mean", prefix=True)


def _train(
    directory: Path,
    settings: Settings,
    texts: list[str],
    languages: list[str],
    targets: NDArray[np.float64],
    rows: NDArray[np.int64],
    label: str,
) -> tuple[Encoder, Head]:
    """An encoder and its head, trained on some rows."""
    import torch

    from codeshell.optim import AdamW, parameter_groups
    from codeshell.train.schedule import learning_rate

    encoder = _encoder(directory, settings)
    head = torch.nn.Linear(encoder.dimension, targets.shape[1])
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.from_numpy(targets[rows].mean(0)))
    steps_per_epoch = -(-len(rows) // settings.batch)
    plan = schedule(settings.epochs * steps_per_epoch, settings.lr)
    groups = [{**group, "rate": 1.0} for group in parameter_groups(encoder.model, WEIGHT_DECAY)]
    groups += [{**group, "rate": HEAD_RATE} for group in parameter_groups(head, WEIGHT_DECAY)]
    step = 0
    with one_thread(), Progress(f"fine-tune, {label}", total=plan.steps, unit="steps") as progress:
        optimizer = AdamW(groups, lr=settings.lr, betas=(plan.beta1, plan.beta2))
        for epoch in range(settings.epochs):
            # The order of an epoch is a hash of (seed, epoch, row).
            order = sorted(rows.tolist(), key=lambda row: draw(settings.seed, epoch, row, "fine-tune"))
            for start in range(0, len(order), settings.batch):
                batch = order[start : start + settings.batch]
                step += 1
                optimizer.zero_grad()
                total = 0.0
                for row in batch:
                    vector = encoder.pooled(encoder.cut(texts[row], languages[row]))
                    wanted = torch.from_numpy(targets[row]).float()
                    loss = ((head(vector) - wanted) ** 2).mean() / len(batch)
                    loss.backward()
                    total += float(loss.detach())
                if not np.isfinite(total):
                    raise UserError(f"fine-tuning: the loss is {total} at step {step}; give a smaller --lr")
                optimizer.clip_grad_norm(CLIP)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(plan, step) * group["rate"]
                optimizer.step()
                progress.advance(1, loss=round(total, 3))
    one = np.ones(encoder.dimension)
    weight, bias = (p.detach().double().numpy().copy() for p in (head.weight, head.bias))
    return encoder, Head(np.zeros(encoder.dimension), one, weight, bias)
