"""Trains a head on an encoder: the report's BERT, with scores for four dimensions and the whole.

Frozen (the default): every labelled text is embedded once, the vectors are kept in a file, and a ridge regression or a
small network learns the five scores from them; minutes for a thousand labels. Fine-tuned
(`quality.encoder_finetune`): the encoder learns as well.

All figures are out of fold: a file is scored by a model that saw nothing of its repository. The strength of the ridge
is chosen inside the training folds, so the held-out fold has no part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from codeshell.engine.files import atomic_path, make_directory
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.quality.agreement import ranks, spearman
from codeshell.quality.encoder_finetune import finetune
from codeshell.quality.encoder_settings import Settings, schedule
from codeshell.randomness import draw, uniform
from codeshell.scorers.bert import Encoder, one_thread
from codeshell.scorers.encoder_model import MEAN, OUTPUTS, EncoderModel, Head, Mix, quantiles

STRENGTHS = tuple(10.0**power for power in np.arange(1.0, 4.51, 0.25).tolist())
"""Ridge strengths that are tried, for standardised vectors: from nearly none to nearly the mean alone."""

SAVE_EVERY = 200
"""Documents between two writes of the file of vectors: a killed run loses some minutes at most."""

HIDDEN = 64
STEPS = 300
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.5
"""Of the small network: width, full-batch steps, peak of the schedule, decay. A thousand labels want much decay."""


class EncoderFit(NamedTuple):
    """A trained encoder, and what it says of files whose repositories it has not seen."""

    oof: NDArray[np.float64]
    """(n, 5): out-of-fold scores in the order of `OUTPUTS`."""
    encoder: Encoder
    head: Head
    """Trained on all labels."""
    metrics: dict[str, Any]

    def model(self, mixed: Mix = MEAN, trees: NDArray[np.float64] | None = None) -> EncoderModel:
        """The model to write. `trees`: (n,) out-of-fold scores of the trees, for the band of the cascade."""
        band = quantiles(np.zeros(0) if trees is None else trees)
        return EncoderModel(self.encoder, self.head, mixed, band, self.metrics)


def fit(
    labels: pa.Table, folds: NDArray[np.integer[Any]], directory: Path, settings: Settings, work: Path
) -> EncoderFit:
    """Train on labels, and measure in folds.

    Args:
        labels: columns text, language and the five of `OUTPUTS`, 0 to 5.
        folds: (n,) the fold of each label; files of one repository are in one fold.
        directory: the encoder's directory.
        work: a directory for the vectors, or for the fine-tuned encoder (`work/encoder`).

    Raises:
        UserError: the encoder cannot be loaded, or there are fewer than three folds.
    """
    if len(np.unique(folds)) < 3:
        raise UserError("labels: the repositories make fewer than three folds; label files of more repositories")
    # (n, 5)
    targets = np.stack([labels[name].to_numpy().astype(np.float64) for name in OUTPUTS], 1)
    if settings.finetune:
        encoder, head, oof = finetune(labels, targets, folds, directory, settings, work)
    else:
        # Without the language's name: frozen, it makes the vectors of a language alike (0.45 instead of 0.49).
        encoder = Encoder(directory, window=settings.window, windows=settings.windows)
        vectors = embed(encoder, labels["text"].to_pylist(), labels["language"].to_pylist(), work)
        oof = np.empty_like(targets)
        for fold in np.unique(folds).tolist():
            inside = folds != fold
            oof[~inside] = _head(vectors[inside], targets[inside], folds[inside], settings)(vectors[~inside])
        head = _head(vectors, targets, folds, settings)
    metrics = {name: figures(oof[:, place], targets[:, place]) for place, name in enumerate(OUTPUTS)}
    return EncoderFit(oof, encoder, head, {"labels": len(targets), "out_of_fold": metrics})


def mix(
    trees: NDArray[np.float64],
    encoder: NDArray[np.float64],
    score: NDArray[np.float64],
    folds: NDArray[np.integer[Any]],
) -> tuple[Mix, NDArray[np.float64]]:
    """The mix of the trees and an encoder: least squares on their out-of-fold scores, no weight below zero.

    Args:
        trees, encoder, score, folds: (n,) each.

    Returns:
        The mix learned on all, and (n,) joined scores of which each was mixed as the other folds say.
    """
    joined = np.empty(len(score))
    for fold in np.unique(folds).tolist():
        inside = folds != fold
        joined[~inside] = _mix(trees[inside], encoder[inside], score[inside]).join(trees[~inside], encoder[~inside])
    return _mix(trees, encoder, score), joined


def figures(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float | None]:
    """Spearman, mean absolute error, and the areas under the curve for labels of at least 3 and of at least 4."""
    return {
        "spearman": spearman(scores, targets),
        "mae": float(np.abs(scores - targets).mean()),
        "auc_3": area(scores, targets >= 3),
        "auc_4": area(scores, targets >= 4),
    }


def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve: how often a positive scores above a negative; None without one of the two."""
    count = int(positive.sum())
    if not 0 < count < len(scores):
        return None
    rank_sum = float(ranks(scores)[positive].sum())
    return (rank_sum - count * (count + 1) / 2) / (count * (len(scores) - count))


def embed(encoder: Encoder, texts: Sequence[str], languages: Sequence[str], work: Path) -> NDArray[np.float32]:
    """The vectors of texts, (n, dimension), from `work`/vectors.safetensors where it has them.

    A text is found by the hash of itself, its language and the encoder, so labels that are added later cost only
    themselves, and another encoder finds nothing of the first.
    """
    make_directory(work)
    path = work / "vectors.safetensors"
    salt = f"{encoder.identity} {encoder.window} {encoder.windows} {encoder.pooling} {encoder.prefix} "
    keys = [
        hashlib.sha256(f"{salt}{language}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
        for text, language in zip(texts, languages, strict=True)
    ]
    known = _read_vectors(path, encoder.dimension)
    places = {key: place for place, key in enumerate(keys) if key not in known}
    with Progress("embed", total=len(places), unit="documents") as progress:
        for count, (key, place) in enumerate(places.items(), 1):
            known[key] = encoder.embed([texts[place]], [languages[place]])[0]
            progress.advance(1)
            if count % SAVE_EVERY == 0 or count == len(places):
                _write_vectors(path, known)
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, encoder.dimension), np.float32)


def _read_vectors(path: Path, dimension: int) -> dict[str, NDArray[np.float32]]:
    """Hash to vector; nothing for a file that is not there, damaged, or of another dimension: it is made again."""
    try:
        tensors = load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError):
        return {}
    keys, vectors = tensors.get("keys"), tensors.get("vectors")
    if keys is None or vectors is None or vectors.shape != (len(keys), dimension):
        return {}
    return {key.tobytes().hex(): vector for key, vector in zip(keys, vectors, strict=True)}


def _write_vectors(path: Path, known: dict[str, NDArray[np.float32]]) -> None:
    keys = np.stack([np.frombuffer(bytes.fromhex(key), np.uint8) for key in known])
    with atomic_path(path) as temporary:
        save_file({"keys": keys, "vectors": np.stack(list(known.values()))}, temporary)


def _head(
    vectors: NDArray[np.float32], targets: NDArray[np.float64], folds: NDArray[np.integer[Any]], settings: Settings
) -> Head:
    if settings.head == "mlp":
        return _network(vectors.astype(np.float64), targets, settings.seed)
    return ridge(vectors.astype(np.float64), targets, folds)


def ridge(vectors: NDArray[np.float64], targets: NDArray[np.float64], folds: NDArray[np.integer[Any]]) -> Head:
    """A linear head by ridge regression; the strength has the least squared error over the folds."""
    errors = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds).tolist():
        inside = folds != fold
        for place, head in enumerate(_ridges(vectors[inside], targets[inside], STRENGTHS)):
            errors[place] += ((head(vectors[~inside]) - targets[~inside]) ** 2).sum()
    return _ridges(vectors, targets, [STRENGTHS[int(errors.argmin())]])[0]


def _ridges(vectors: NDArray[np.float64], targets: NDArray[np.float64], strengths: Sequence[float]) -> list[Head]:
    """The heads of some strengths, by one singular value decomposition of the standardised vectors."""
    mean, scale = _moments(vectors)
    bias = targets.mean(0)
    left, values, right = np.linalg.svd((vectors - mean) / scale, full_matrices=False)
    # (rank, 5): the targets in the coordinates of the left singular vectors.
    parts = left.T @ (targets - bias)
    heads = []
    for strength in strengths:
        shrunk = (values / (values**2 + strength))[:, None] * parts
        heads.append(Head(mean, scale, (right.T @ shrunk).T, bias))
    return heads


def _network(vectors: NDArray[np.float64], targets: NDArray[np.float64], seed: int) -> Head:
    """A head with one hidden layer, trained on all vectors at once with this package's optimizer and schedule."""
    import torch

    from codeshell.optim import AdamW, parameter_groups
    from codeshell.train.schedule import learning_rate

    mean, scale = _moments(vectors)
    width = vectors.shape[1]
    first, second = torch.nn.Linear(width, HIDDEN), torch.nn.Linear(HIDDEN, len(OUTPUTS))
    network = torch.nn.Sequential(first, torch.nn.GELU(approximate="tanh"), second)
    with torch.no_grad():
        for place, parameter in enumerate(network.parameters()):
            # Uniform in ± 1/sqrt(inputs), as torch does, but from a hash; biases begin at 0 and at the mean.
            numbers = uniform(draw(seed, place, "encoder head"), 0, parameter.numel()).reshape(parameter.shape)
            bound = (parameter.shape[1] if parameter.dim() == 2 else 1) ** -0.5
            start = (2 * numbers - 1) * bound if parameter.dim() == 2 else np.zeros(parameter.shape)
            parameter.copy_(torch.from_numpy(start))
        second.bias.copy_(torch.from_numpy(targets.mean(0)))
    inputs = torch.from_numpy((vectors - mean) / scale).float()
    wanted = torch.from_numpy(targets).float()
    plan = schedule(STEPS, LEARNING_RATE)
    with one_thread():
        optimizer = AdamW(parameter_groups(network, WEIGHT_DECAY), lr=LEARNING_RATE, betas=(plan.beta1, plan.beta2))
        for step in range(1, STEPS + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan, step)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(inputs), wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    arrays = [p.detach().double().numpy() for p in (second.weight, second.bias, first.weight, first.bias)]
    return Head(mean, scale, *arrays)


def _moments(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each component; one that never changes has the deviation 1."""
    deviation = vectors.std(0)
    return vectors.mean(0), np.where(deviation > 1e-12, deviation, 1.0)


def _mix(trees: NDArray[np.float64], encoder: NDArray[np.float64], score: NDArray[np.float64]) -> Mix:
    """Least squares of the score on both; where a weight would be negative, on the other one alone."""
    choices = []
    for columns in ((0, 1), (0,), (1,)):
        inputs = np.stack([(trees, encoder)[column] for column in columns], 1)
        weights, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(score)), inputs]), score, rcond=None)
        error = float(((weights[0] + inputs @ weights[1:] - score) ** 2).sum())
        full = np.zeros(2)
        full[list(columns)] = weights[1:]
        if (full >= 0).all():
            choices.append((error, Mix(float(weights[0]), float(full[0]), float(full[1]))))
    # Where even one alone is turned around, the mean of the labels is the best that they give.
    return min(choices)[1] if choices else Mix(float(score.mean()), 0.0, 0.0)
