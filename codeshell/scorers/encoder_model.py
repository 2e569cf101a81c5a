"""A trained encoder model: a folder with an encoder, the head that makes scores of its vectors, and its calibration.

    encoder.json        what the encoder is, how texts are cut, the mix with the trees, and the trees' quantiles
    head.safetensors    the head: standardisation, one layer or two
    encoder/            the encoder itself, where it was fine-tuned; else encoder.json names the directory

`codeshell quality train --encoder` writes it and the scorer `encoder` reads it. The head is computed in float64.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from codeshell.engine.files import atomic_path, make_directory, write_json
from codeshell.errors import UserError
from codeshell.scorers.bert import Encoder

VERSION = 1

SCORE = "quality"
"""The first output of every head. The others are those of the report's four dimensions that the labels had."""

LOWEST, HIGHEST = 0.0, 5.0

QUANTILES = 201
"""Points of the distribution of the trees' scores that are kept, to choose a band by its share of the documents."""

TENSORS = ("mean", "scale", "weight", "bias")
HIDDEN = ("hidden_weight", "hidden_bias")


class Mix(NamedTuple):
    """How the trees' score and the encoder's become one: `intercept + trees * t + encoder * e`, within 0 … 5."""

    intercept: float
    trees: float
    encoder: float

    def join(self, trees: NDArray[np.float64], encoder: NDArray[np.float64]) -> NDArray[np.float64]:
        """The joined scores of (n,) scores of each."""
        return np.clip(self.intercept + self.trees * trees + self.encoder * encoder, LOWEST, HIGHEST)


MEAN = Mix(0.0, 0.5, 0.5)
"""The plain mean, where no out-of-fold scores of the trees are there to learn a mix from."""


@dataclass(frozen=True)
class Head:
    """Scores of vectors: standardised, through one hidden layer of GELU or none, then linear; within 0 … 5.

    Attributes:
        mean, scale: (dimension,): a vector is standardised as (vector - mean) / scale.
        weight, bias: (outputs, width) and (outputs,), where width is the dimension or that of the hidden layer.
        hidden_weight, hidden_bias: (width, dimension) and (width,); None for a linear head.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    hidden_weight: NDArray[np.float64] | None = None
    hidden_bias: NDArray[np.float64] | None = None

    def __call__(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """(n, outputs) scores of (n, dimension) vectors; each row depends on its vector alone, to the bit."""
        scores = np.empty((len(vectors), len(self.bias)))
        # A product for each vector: in one product of matrices the order of a sum may depend on their number.
        for row, vector in zip(scores, vectors, strict=True):
            state = (np.asarray(vector, np.float64) - self.mean) / self.scale
            if self.hidden_weight is not None and self.hidden_bias is not None:
                state = gelu((self.hidden_weight * state).sum(1) + self.hidden_bias)
            row[:] = (self.weight * state).sum(1) + self.bias
        return np.clip(scores, LOWEST, HIGHEST)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """The arrays by name, without those that are None."""
        names = (*TENSORS, *(HIDDEN if self.hidden_weight is not None else ()))
        return {name: np.ascontiguousarray(getattr(self, name), np.float64) for name in names}


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What encoder.json holds."""

    version: int
    encoder: str
    """The encoder's directory: absolute, or `encoder` for the one inside the folder."""
    sha256: str
    """`Encoder.identity` of it."""
    dimension: int
    outputs: tuple[str, ...]
    """`SCORE`, then dimensions; each from 0 to 5."""
    window: int
    windows: int
    pooling: Literal["mean", "rich"]
    prefix: bool
    mix: tuple[float, float, float]
    band: tuple[float, ...]
    """Quantiles of the trees' out-of-fold scores of the labels, ascending; empty without trees."""
    metrics: dict[str, Any] = {}
    """Figures of the training, for a person."""


@dataclass(frozen=True)
class EncoderModel:
    """A model folder in memory."""

    encoder: Encoder
    head: Head
    outputs: tuple[str, ...]
    mix: Mix
    band: NDArray[np.float64]
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """A short hash of all that decides a score: another model or encoder scores again."""
        digest = hashlib.sha256(
            f"{VERSION} {self.encoder.identity} {self.encoder.window} {self.encoder.windows}".encode()
        )
        for name, tensor in sorted(self.head.tensors().items()):
            digest.update(name.encode() + tensor.tobytes())
        digest.update(np.array([*self.mix, *self.band.tolist()]).tobytes())
        return digest.hexdigest()[:16]

    def half_width(self, threshold: float, share: float) -> float:
        """The half width of the band around a threshold that holds `share` of the documents, by the labels' scores.

        Raises:
            UserError: the model was trained without trees, so that their distribution is not known.
        """
        if not len(self.band):
            raise UserError("scorer encoder: the model knows no scores of trees; give `band` instead of `share`")
        return float(np.quantile(np.abs(self.band - threshold), share, method="inverted_cdf"))


def quantiles(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The `QUANTILES` points of the distribution of (n,) scores that a model keeps; none for no scores."""
    if not len(scores):
        return np.zeros(0)
    return np.quantile(scores, np.linspace(0.0, 1.0, QUANTILES), method="inverted_cdf")


def write(folder: Path, model: EncoderModel, encoder: str) -> None:
    """Write a model folder. encoder.json is written last: without it the folder is none.

    Args:
        encoder: the encoder's directory, or `encoder` where it is inside the folder already.
    """
    make_directory(folder)
    with atomic_path(folder / "head.safetensors") as temporary:
        save_file(model.head.tensors(), temporary)
    card = Card(
        version=VERSION,
        encoder=encoder,
        sha256=model.encoder.identity,
        dimension=model.encoder.dimension,
        outputs=model.outputs,
        window=model.encoder.window,
        windows=model.encoder.windows,
        pooling="rich" if model.encoder.pooling == "rich" else "mean",
        prefix=model.encoder.prefix,
        mix=(model.mix.intercept, model.mix.trees, model.mix.encoder),
        band=tuple(model.band.tolist()),
        metrics=model.metrics,
    )
    write_json(folder / "encoder.json", msgspec.to_builtins(card))


def load(folder: Path, encoder: str = "") -> EncoderModel:
    """Read a model folder and its encoder.

    Args:
        encoder: the encoder's directory, if it is no longer where it was when the model was trained.

    Raises:
        UserError: no model, a damaged one, or an encoder that is not the one that it was trained with.
    """
    path = folder / "encoder.json"
    if not path.is_file():
        raise UserError(f"{folder}: no encoder model; train one with codeshell quality train LABELS --encoder DIR")
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
        tensors = load_file(folder / "head.safetensors")
    except (msgspec.DecodeError, SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder}: a damaged encoder model ({error}); train it again") from None
    if card.version != VERSION:
        raise UserError(f"{path}: version {card.version}, and this codeshell reads {VERSION}; train it again")
    head = _checked(tensors, card, folder)
    place = encoder or (str(folder / "encoder") if card.encoder == "encoder" else card.encoder)
    loaded = Encoder(place, window=card.window, windows=card.windows, pooling=card.pooling, prefix=card.prefix)
    # Another encoder's vectors would go through the head without an error, and mean nothing.
    if loaded.identity != card.sha256:
        raise UserError(f"{place}: not the encoder that {folder} was trained with; give its directory as `encoder`")
    return EncoderModel(loaded, head, card.outputs, Mix(*card.mix), np.asarray(card.band, np.float64), card.metrics)


def gelu(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """GELU by its tanh approximation, as torch's `approximate="tanh"`."""
    inner = math.sqrt(2.0 / math.pi) * (values + 0.044715 * values**3)
    result: NDArray[np.float64] = 0.5 * values * (1.0 + np.tanh(inner))
    return result


def _checked(tensors: dict[str, Any], card: Card, folder: Path) -> Head:
    """The head of the tensors of a file, if their shapes are those of a head."""
    width = len(tensors["hidden_bias"]) if "hidden_bias" in tensors else card.dimension
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (card.dimension,),
        "scale": (card.dimension,),
        "weight": (len(card.outputs), width),
        "bias": (len(card.outputs),),
    }
    if width != card.dimension or "hidden_bias" in tensors:
        shapes |= {"hidden_weight": (width, card.dimension), "hidden_bias": (width,)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    finite = all(np.isfinite(tensor).all() for tensor in tensors.values())
    if found != shapes or not finite or card.outputs[:1] != (SCORE,):
        raise UserError(f"{folder}: head.safetensors does not fit encoder.json; train it again")
    return Head(**{name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()})
