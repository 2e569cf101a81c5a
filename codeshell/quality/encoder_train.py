"""Trains a head on an encoder: the report's BERT, with one score and four dimensions.

Frozen (the default): every labelled text is embedded once, the vectors are kept in a file, and a ridge regression or a
small network learns the scores from them. Fine-tuned (`quality.encoder_finetune`): the encoder learns as well.

All figures are out of fold: a file is scored by a model that saw nothing of its repository. The strength of the ridge
is chosen inside the training folds, so the held-out fold has no part in it; the mix with the trees likewise.
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
from codeshell.quality.encoder_finetune import finetune
from codeshell.quality.encoder_settings import Settings, schedule
from codeshell.quality.metrics import measure
from codeshell.randomness import draw, uniform
from codeshell.scorers import encoder_model
from codeshell.scorers.bert import Encoder, one_thread
from codeshell.scorers.encoder_model import HIGHEST, LOWEST, MEAN, EncoderModel, Head, Mix, quantiles

STRENGTHS = tuple(10.0**power for power in np.arange(1.0, 4.51, 0.25).tolist())
"""Ridge strengths that are tried, for standardised vectors: from nearly none to nearly the mean alone."""

SAVE_EVERY = 200
"""Documents between two writes of the file of vectors: a killed run loses some minutes at most."""

HIDDEN = 64
STEPS = 300
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.5
"""The small network: its width, full-batch steps, peak of the schedule, decay. A thousand labels need much decay."""

Folds = NDArray[np.integer[Any]]
Array = NDArray[np.float64]


class Labelled(NamedTuple):
    """What is learned from. `quality.labels.Labels` has all of it."""

    documents: pa.Table
    """(n rows): columns text and language."""
    targets: Array
    """(n, names): scores from 0 to 5."""
    names: tuple[str, ...]
    """`quality`, then dimensions."""


class EncoderFit(NamedTuple):
    """A trained encoder, and what it says of files whose repositories it has not seen."""

    oof: Array
    """(n, names): out-of-fold scores."""
    encoder: Encoder
    head: Head
    """Trained on all labels."""


def train(
    labelled: Labelled,
    folds: Folds,
    directory: Path,
    settings: Settings,
    folder: Path,
    trees: Array | None = None,
) -> dict[str, dict[str, float]]:
    """Train on labels, and write the model `folder` that the scorer `encoder` reads.

    Args:
        folds: (n,) the fold of each label; files of one repository are in one fold.
        directory: the encoder's directory.
        trees: (n,) out-of-fold scores of the trees, from the same folds; None for an encoder alone.

    Returns:
        Figures out of fold (`quality.metrics.measure`) of the score: `encoder`, and with trees `trees`, `mean` and
        `joined`; and of each dimension, by its name.

    Raises:
        UserError: the encoder cannot be loaded, or there are fewer than three folds.
    """
    found = fit(labelled, folds, directory, settings, folder)
    judged = labelled.targets[:, 0]
    figures = {"encoder": measure(found.oof[:, 0], judged)}
    mixed, band = MEAN, quantiles(np.zeros(0))
    if trees is not None:
        mixed, joined = mix(trees, found.oof[:, 0], judged, folds)
        band = quantiles(trees)
        figures["trees"] = measure(trees, judged)
        figures["mean"] = measure(MEAN.join(trees, found.oof[:, 0]), judged)
        figures["joined"] = measure(joined, judged)
    for place, name in enumerate(labelled.names[1:], 1):
        figures[name] = measure(found.oof[:, place], labelled.targets[:, place])
    # NaN, where a figure is not defined, has no JSON.
    told = {
        name: {key: value if np.isfinite(value) else None for key, value in one.items()}
        for name, one in figures.items()
    }
    metrics = {"labels": len(judged), "folds": len(np.unique(folds)), "out_of_fold": told}
    model = EncoderModel(found.encoder, found.head, labelled.names, mixed, band, metrics)
    encoder_model.write(folder, model, "encoder" if settings.finetune else str(found.encoder.directory.resolve()))
    return figures


def fit(labelled: Labelled, folds: Folds, directory: Path, settings: Settings, work: Path) -> EncoderFit:
    """Train on each fold's complement and on all; `work` takes the vectors, or the fine-tuned encoder."""
    names = np.unique(folds).tolist()
    if len(names) < 3:
        raise UserError("labels: the repositories make fewer than three folds; label files of more repositories")
    documents, targets = labelled.documents, labelled.targets
    if settings.finetune:
        return EncoderFit(*finetune(documents, targets, folds, directory, settings, work))
    # Without the language's name: frozen, it makes the vectors of a language alike (0.45 instead of 0.49).
    encoder = Encoder(directory, window=settings.window, windows=settings.windows)
    vectors = embed(encoder, documents["text"].to_pylist(), documents["language"].to_pylist(), work).astype(np.float64)
    oof = np.empty_like(targets)
    for fold in names:
        inside = folds != fold
        oof[~inside] = _head(vectors[inside], targets[inside], folds[inside], settings)(vectors[~inside])
    return EncoderFit(oof, encoder, _head(vectors, targets, folds, settings))


def mix(trees: Array, encoder: Array, score: Array, folds: Folds) -> tuple[Mix, Array]:
    """The mix of the trees and an encoder: the shares with the least squared error of their out-of-fold scores.

    One number is learned, and no intercept: both are on the labels' scale, and an intercept follows the mean of the
    other folds, which is high where the held-out repositories are bad (docs/decisions.md).

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


def _head(vectors: Array, targets: Array, folds: Folds, settings: Settings) -> Head:
    return _network(vectors, targets, settings.seed) if settings.head == "mlp" else ridge(vectors, targets, folds)


def ridge(vectors: Array, targets: Array, folds: Folds) -> Head:
    """A linear head by ridge regression; the strength has the least squared error over the folds.

    Args:
        vectors: (n, dimension).
        targets: (n, outputs).
        folds: (n,).
    """
    errors = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds).tolist():
        inside = folds != fold
        solver = _Ridge(vectors[inside], targets[inside])
        outside = (vectors[~inside] - solver.mean) / solver.scale
        for place, strength in enumerate(STRENGTHS):
            predicted = np.clip(outside @ solver.weights(strength) + solver.bias, LOWEST, HIGHEST)
            errors[place] += ((predicted - targets[~inside]) ** 2).sum()
    solver = _Ridge(vectors, targets)
    # In the order of memory in which it is written and read: the order of a sum follows it.
    weights = np.ascontiguousarray(solver.weights(STRENGTHS[int(errors.argmin())]).T)
    return Head(solver.mean, solver.scale, weights, solver.bias)


class _Ridge:
    """The ridge regressions of one set of vectors, for any strength after one decomposition."""

    def __init__(self, vectors: Array, targets: Array) -> None:
        self.mean, self.scale = _moments(vectors)
        self.bias = targets.mean(0)
        self._inputs = (vectors - self.mean) / self.scale
        # The dual form: labels are fewer than components, so the matrix of their products is the small one.
        self._values, self._basis = np.linalg.eigh(self._inputs @ self._inputs.T)
        self._parts = self._basis.T @ (targets - self.bias)

    def weights(self, strength: float) -> Array:
        """(dimension, outputs)."""
        shrunk = self._parts / (np.maximum(self._values, 0.0) + strength)[:, None]
        result: Array = self._inputs.T @ (self._basis @ shrunk)
        return result


def _network(vectors: Array, targets: Array, seed: int) -> Head:
    """A head with one hidden layer, trained on all vectors at once with this package's optimizer and schedule."""
    import torch

    from codeshell.optim import AdamW, parameter_groups
    from codeshell.train.schedule import learning_rate

    mean, scale = _moments(vectors)
    first, second = torch.nn.Linear(vectors.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, targets.shape[1])
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


def _moments(vectors: Array) -> tuple[Array, Array]:
    """Mean and deviation of each component; one that never changes has the deviation 1."""
    deviation = vectors.std(0)
    return vectors.mean(0), np.where(deviation > 1e-12, deviation, 1.0)


def _mix(trees: Array, encoder: Array, score: Array) -> Mix:
    """The share of the trees, from 0 to 1, that has the least squared error; the encoder has the rest."""
    difference = trees - encoder
    scale = float((difference**2).sum())
    share = float((difference * (score - encoder)).sum()) / scale if scale > 0 else 0.5
    share = min(max(share, 0.0), 1.0)
    return Mix(0.0, share, 1.0 - share)
