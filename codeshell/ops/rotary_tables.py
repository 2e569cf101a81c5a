"""Cosines and sines of rotary embedding, in fp32, for the scalings of long contexts that models ship with.

`RotaryScaling` says which scaling; its fields are those of a `config.json`'s rope parameters. There are linear scaling
(Chen et al. 2023, "position interpolation"), dynamic NTK (the base grows with the sequence), Llama 3's (by wavelength)
and YaRN (Peng et al. 2023, by wavelength, with a factor on the temperature of the attention).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary angles are stretched beyond the context that a model was first trained on.

    Args:
        kind: one of `KINDS`; "default" is no scaling.
        factor: how many times longer the context becomes, at least 1.
        original_length: positions of the first training; dynamic, llama3 and yarn need it.
        low_freq_factor, high_freq_factor: for llama3. Frequencies of wavelengths above original_length / low are
            divided by the factor, those of wavelengths below original_length / high are kept; between them is a ramp.
        beta_fast, beta_slow: for yarn. A dimension that rotates at least beta_fast times within the original context is
            kept, one that rotates at most beta_slow times is divided by the factor.
        attention_factor: for yarn. Factor on cosines and sines; None is the paper's, or follows from mscale and
            mscale_all_dim (DeepSeek).
        truncate: for yarn. Round the ends of the ramp to whole dimensions.

    Raises:
        ValueError: a value is impossible; the message names the field.
    """

    kind: str = "default"
    factor: float = 1.0
    original_length: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if not self.factor >= 1.0:
            raise ValueError(f"factor is {self.factor!r}; it must be a number of at least 1")
        if self.kind in ("dynamic", "llama3", "yarn") and not (self.original_length and self.original_length >= 1):
            raise ValueError(f"original_length is {self.original_length!r}; {self.kind} scaling needs the length")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor is {self.low_freq_factor}, high_freq_factor {self.high_freq_factor}; "
                "they must rise from above 0"
            )

    @classmethod
    def from_config(cls, parameters: Mapping[str, Any] | None, max_positions: int) -> RotaryScaling:
        """From the `rope_scaling` or `rope_parameters` of a `config.json`; None is no scaling.

        Args:
            max_positions: the config's `max_position_embeddings`, from which dynamic scaling starts.

        Raises:
            ValueError: a kind or value that is none of these.
        """
        if not parameters:
            return cls()
        # A value of null is a key that is not there.
        given = {name: parameters[name] for name in parameters if parameters[name] is not None}
        kind = given.get("rope_type", given.get("type", "default"))
        length = given.get("original_max_position_embeddings", max_positions)
        if kind == "dynamic":
            length = max_positions
        if kind == "yarn":
            given.setdefault("factor", max_positions / length)
        names = {f.name for f in fields(cls)} - {"kind", "original_length"}
        return cls(kind=kind, original_length=length, **{name: given[name] for name in names & given.keys()})

    @property
    def table_factor(self) -> float:
        """The factor on cosines and sines."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor

        # The paper's fit: in a context s times longer, q and k are each multiplied by 0.1 ln(s) + 1.
        def temperature(weight: float) -> float:
            return 0.1 * weight * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

        # DeepSeek gives a weight for the rotary part and one for all dimensions; the tables carry their ratio.
        if self.mscale and self.mscale_all_dim:
            return temperature(self.mscale) / temperature(self.mscale_all_dim)
        return temperature(1.0)


def rotary_frequencies(
    dim: int, base: float = 10000.0, scaling: RotaryScaling | None = None, length: int | None = None
) -> torch.Tensor:
    """Radians per position of each pair of dimensions: fp32 (dim / 2,).

    Args:
        dim: rotary dimension, even.
        base: base of the frequencies.
        scaling: how they are scaled; None is no scaling.
        length: length of the sequence, which "dynamic" scaling follows and others ignore.

    Raises:
        ValueError: an odd `dim`, or dynamic scaling without `length`.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim is {dim}; a rotary dimension is even and at least 2")
    scaling = scaling or RotaryScaling()
    if scaling.kind == "dynamic":
        if length is None:
            raise ValueError("length is None; dynamic scaling follows the length of the sequence")
        base = dynamic_base(dim, base, scaling, length)
    # Frequency i is base^(-2i / dim), i.e. one over these.
    powers = base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if scaling.kind == "yarn":
        return _yarn(powers, dim, base, scaling)
    frequencies = 1.0 / powers
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    return _llama3(frequencies, scaling) if scaling.kind == "llama3" else frequencies


def dynamic_base(dim: int, base: float, scaling: RotaryScaling, length: int) -> float:
    """The base of "dynamic" scaling for a sequence of `length`: unchanged within the original context."""
    assert scaling.original_length is not None
    if length <= scaling.original_length:
        return base
    # With this exponent the longest wavelength, 2 pi base^((dim - 2) / dim), grows by `growth`.
    growth = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
    return float(base * growth ** (dim / (dim - 2))) if dim > 2 else base


def rotary_tables(
    length: int, dim: int, base: float = 10000.0, scaling: RotaryScaling | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions 0 to `length` - 1 for `codeshell.ops.rotary`: fp32 (length, dim / 2) each.

    "dynamic" scaling takes `length` as the length of the sequence.
    """
    scaling = scaling or RotaryScaling()
    # (length, dim / 2) angles: the position times the frequency of each pair.
    frequencies = rotary_frequencies(dim, base, scaling, length)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    factor = scaling.table_factor
    return (angles.cos(), angles.sin()) if factor == 1.0 else (angles.cos() * factor, angles.sin() * factor)


def _llama3(frequencies: torch.Tensor, scaling: RotaryScaling) -> torch.Tensor:
    assert scaling.original_length is not None
    low, high, factor = scaling.low_freq_factor, scaling.high_freq_factor, scaling.factor
    # `kept` is 1 for short wavelengths, 0 for long ones, and a ramp in the number of waves between the two limits.
    wavelengths = 2 * math.pi / frequencies
    kept = ((scaling.original_length / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / factor + kept * frequencies


def _yarn(powers: torch.Tensor, dim: int, base: float, scaling: RotaryScaling) -> torch.Tensor:
    length = scaling.original_length
    assert length is not None

    def pair_of(rotations: float) -> float:
        """The pair, as a real number, that makes so many rotations within the original context."""
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    # The ramp over pairs: before `first` a frequency is kept, from `last` on it is divided by the factor.
    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001  # a step, not a division by zero
    divided = ((torch.arange(dim // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return 1.0 / (scaling.factor * powers) * divided + 1.0 / powers * (1 - divided)
