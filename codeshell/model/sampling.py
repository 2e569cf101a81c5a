"""How the next token is chosen: penalties, cuts of the distribution, and one uniform number from a hash.

Shapes in this file: R rows, V ids that may be produced.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from codeshell.model.stops import shown

LEAST_TEMPERATURE = 1e-200
"""Any fp32 logit divided by it is a finite double."""


class NotFiniteError(ValueError):
    """Logits from which no token can be chosen: NaN, +inf, or -inf for every id.

    Attributes:
        row: of the batch.
        cause: where it happened and why, as far as it is known.
    """

    def __init__(self, row: int, cause: str = "") -> None:
        self.row, self.cause = row, cause
        where = f"row {row}" + (f", {cause}" if cause else "")
        super().__init__(f"the model's logits are not finite (NaN or infinity) at {where}")


def sample(
    scores: torch.Tensor, temperature: float, top_k: int, top_p: float, draws: Sequence[float], min_p: float = 0.0
) -> list[int]:
    """One token per row from (R, V) logits.

    Args:
        scores: logits of the ids that may be chosen. -inf bans an id.
        temperature, top_k, top_p: as `generate` has them.
        draws: R numbers, uniform in [0, 1); temperature 0 does not use them.
        min_p: leave out tokens that are less likely than this share of the likeliest one (Nguyen et al. 2024). The
            cuts apply in the order top_k, top_p, min_p, to the distribution at this temperature.

    Raises:
        NotFiniteError: a row has a NaN or +inf, or nothing but -inf.
    """
    if temperature == 0.0:
        # The first of the largest, as `argmax` has it. NaN and +inf are larger than all else, so they are found here.
        best, tokens = scores.max(-1)
        return _read(tokens, best)
    ids: torch.Tensor | None = None
    if top_k and len(scores) == 1 and top_k < scores.shape[1]:
        # A sort of the whole vocabulary takes milliseconds. So first the ids from the last place on, in their order: as
        # many as top_k, or more if several have the logit of that place. NaN and +inf would be in the first one.
        top = scores.topk(top_k).values[0]
        if not top[0].isfinite():
            raise NotFiniteError(0)
        ids = (scores[0] >= top[-1]).nonzero().squeeze(1)
        scores = scores[:, ids]
    # Sorted, so that the cuts all keep the first few; stable, so that equal logits always come in id order.
    values, order = (scores.to(torch.float64) / temperature).sort(dim=-1, descending=True, stable=True)
    best = values[:, 0]
    if top_k:
        values, order = values[:, :top_k], order[:, :top_k]
    if ids is not None:
        order = ids[order]
    probability = values.softmax(-1)
    cumulative = probability.cumsum(-1)
    if top_p < 1.0 or min_p > 0.0:
        # A token stays while those before it have not reached top_p, so the one that reaches it is the last to stay.
        gone = cumulative - probability >= top_p
        if min_p > 0.0:
            gone |= probability < min_p * probability[:, :1]
        probability = probability.masked_fill(gone, 0.0)
        cumulative = probability.cumsum(-1)
    # Inverse of the cumulative sum at draw * total mass: what the cuts have left need not be normalised.
    point = torch.tensor(draws, dtype=torch.float64, device=scores.device).unsqueeze(1) * cumulative[:, -1:]
    # The last index with any mass bounds the search: rounding of the sum must not reach a token that was cut.
    last = (probability > 0).sum(-1, keepdim=True) - 1
    index = torch.minimum(torch.searchsorted(cumulative, point, right=True), last)
    # A row that is not finite has places beyond the end; `_read` refuses it, so any place will do.
    index = index.clamp(0, order.shape[1] - 1)
    return _read(order.gather(1, index).squeeze(1), best)


def _read(tokens: torch.Tensor, best: torch.Tensor) -> list[int]:
    """The (R,) tokens, whose rows have these (R,) largest logits; both come from the device in one transfer."""
    chosen: list[int] = torch.where(best.isfinite(), tokens, -1).tolist()
    if -1 in chosen:
        raise NotFiniteError(chosen.index(-1))
    return chosen


def penalise(
    scores: torch.Tensor,
    written: Mapping[int, int],
    recent: Sequence[int],
    *,
    repeat: float,
    presence: float,
    frequency: float,
) -> None:
    """Lower the logits of ids that have been there already, in place.

    Args:
        scores: (V,) logits of the ids that may be chosen.
        written: how often each id has been written in this completion. Its logit loses `frequency` for each time and
            `presence` once, as OpenAI's API defines them.
        recent: the last ids, those of the prompt among them. A positive logit is divided by `repeat` and another one
            multiplied by it (Keskar et al. 2019, CTRL; llama.cpp's `repeat_penalty`).
    """
    # Ids at or above V are never produced.
    ids = [index for index in dict.fromkeys(recent) if index < len(scores)] if repeat != 1.0 else []
    if ids:
        at = torch.tensor(ids, device=scores.device)
        values = scores[at]
        scores[at] = torch.where(values > 0, values / repeat, values * repeat)
    if written and (presence or frequency):
        at = torch.tensor(list(written), device=scores.device)
        loss = [frequency * count + presence for count in written.values()]
        scores[at] -= torch.tensor(loss, dtype=scores.dtype, device=scores.device)


def uniform(seed: int, row: int, step: int) -> float:
    """Uniform in [0, 1) with 53 bits, from a hash."""
    # The upper 53 of 64 bits: each value is a double of its own, and 1.0 is never reached.
    digest = hashlib.blake2b(f"generate {seed} {row} {step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def check_settings(
    *, temperature: Any, top_k: Any = 0, top_p: Any, max_new_tokens: Any
) -> tuple[float, int, float, int]:
    """The four settings as plain numbers.

    Raises:
        TypeError: one is no number of its kind; a bool, a text and None are none, numpy's numbers are.
        ValueError: one is out of range or not finite.
    """
    temperature, top_p = real("temperature", temperature), real("top_p", top_p)
    # Logits divided by less than the least would overflow even fp64. A NaN is in no range.
    if temperature != 0 and not LEAST_TEMPERATURE <= temperature < math.inf:
        raise ValueError(
            f"temperature {temperature}: must be 0 (the most likely token), or finite and at least {LEAST_TEMPERATURE}"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p}: must be above 0 and at most 1 (all tokens)")
    return temperature, whole("top_k", top_k), top_p, whole("max_new_tokens", max_new_tokens)


def real(name: str, value: Any) -> float:
    """A setting that must be a number, as a plain one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {shown(value)}; it must be a number")
    return float(value)


def whole(name: str, value: Any, *, least: int | None = 0, most: int | None = None) -> int:
    """A setting that must be a whole number in a range, as a plain one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {shown(value)}; it must be a whole number")
    number = int(value)
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} {number}: must be at least {least}" + ("" if most is None else f", at most {most}"))
    return number
