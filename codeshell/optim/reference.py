"""AdamW's schemes in PyTorch, for GPUs that do not run the kernels: masters, stochastic rounding, bf16 moments.

It computes what csrc/adamw computes, in the same order and with the same random bits, so that a checkpoint continues on
any device. Some twenty operations a parameter take the place of one launch for all. Nothing waits for the GPU. Schemes
that torch's own step knows (`Scheme.is_torchs`) are left to that one, which is much faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from codeshell.optim.buckets import Bucket, local

PIECE = 1 << 24
"""Elements that are updated at a time: the temporary tensors of the largest parameter then stay below 1 GB."""

_LOW = 0xFFFFFFFF  # the lower 32 bits of an int64, which holds an unsigned number


class ReferenceBucket(Bucket):
    """A bucket that PyTorch updates."""

    has_kernel = False

    def _make_table(self) -> None:
        # Once, because a step must not copy from the host.
        self._stream_numbers = torch.tensor(list(self._streams), dtype=torch.int64, device=self.kind.device)
        scheme = self.kind.scheme
        moments = {"exp_avg": scheme.moment, "exp_avg_sq": scheme.moment}
        self._dtypes = {"master_param": torch.float32, **moments} if scheme.master else moments

    def _read(self, params: list[Tensor], gradients: list[Tensor | None] | None, states: list[dict[str, Any]]) -> bool:
        # The same questions as those of the kernels' table: dtype, size, device, contiguous memory.
        scheme, device = self.kind.scheme, self.kind.device

        def fits(x: Tensor | None, dtype: torch.dtype, count: int) -> bool:
            if x is None:
                return False
            x = local(x)
            return x.dtype == dtype and x.numel() == count and x.device == device and x.is_contiguous()

        for i, (p, state) in enumerate(zip(params, states, strict=True)):
            gradient, count = p.grad if gradients is None else gradients[i], local(p).numel()
            if gradient is None:
                continue
            if not (
                fits(p, scheme.param, count)
                and fits(gradient, scheme.gradient, count)
                and fits(state.get("step"), torch.float32, 1)
                and all(fits(state.get(name), dtype, count) for name, dtype in self._dtypes.items())
            ):
                return False
        return True

    def _tensors(self) -> Iterator[tuple[int, Tensor, Tensor, dict[str, Tensor]]]:
        """Number, flat parameter, flat gradient and flat state of all that have a gradient; `step` is ()."""
        params, gradients, states = self._staged or (self.params, None, self.states)
        for i, (p, state) in enumerate(zip(params, states, strict=True)):
            gradient = p.grad if gradients is None else gradients[i]
            if gradient is not None:
                flat = {name: local(state[name]).view(-1) for name in self._dtypes}
                flat["step"] = local(state["step"]).view(())
                yield i, local(p.detach()).view(-1), local(gradient.detach()).view(-1), flat

    @torch.no_grad()
    def _update(self, scalars: tuple[Any, ...], pointers: list[Tensor | None]) -> int:
        lr, beta1, beta2, eps, weight_decay, seed, maximize = scalars
        lr_pointer, scale, found_inf, factor = pointers
        tensors = list(self._tensors())
        if not tensors:
            return len(self.params)
        # The scalars of adamw.h's Coefficients, in fp64 and then in fp32; what depends on the step, for all tensors.
        skip = None if found_inf is None else found_inf.view(()) != 0
        step = torch.stack([state["step"] for *_, state in tensors]).double() + 1
        rate = lr if lr_pointer is None else lr_pointer.view(()).double()
        bias1, bias2 = (-torch.expm1(step * (math.log(beta) if beta else -math.inf)) for beta in (beta1, beta2))
        step_size, root_scale = (rate / bias1).float(), bias2.rsqrt().float()
        unscale = None if scale is None else 1 / scale.view(()).double()
        gradient_factor = None if factor is None else factor.view(()).double()
        if unscale is not None:
            gradient_factor = unscale if gradient_factor is None else gradient_factor * unscale
        rates = _Rates(
            gradient=None if gradient_factor is None else gradient_factor.float(),
            unscale=None if unscale is None else unscale.float(),
            decay=1 - rate * weight_decay if lr_pointer is None else (1 - rate * weight_decay).float(),
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            maximize=maximize,
        )
        # Keys of the random bits by the index's bits above 32, of which nearly every tensor has none.
        numbers = torch.stack([self._stream_numbers[i] for i, *_ in tensors])
        keys: dict[int, tuple[Tensor, Tensor]] = {}
        for place, (_, p, gradient, state) in enumerate(tensors):
            for start in range(0, p.numel(), PIECE):
                piece = slice(start, start + PIECE)
                mine = None
                if self.kind.scheme.stochastic:
                    high = start >> 32
                    if high not in keys:
                        keys[high] = _keys(seed, step.long(), numbers, high)
                    mine = keys[high][0][place], keys[high][1][place]
                arrays = [p[piece], gradient[piece], *(state[name][piece] for name in ("exp_avg", "exp_avg_sq"))]
                master = state["master_param"][piece] if self.kind.scheme.master else None
                self._update_piece(arrays, master, rates, step_size[place], root_scale[place], skip, mine, start)
            _put(state["step"], step[place], skip)
        return len(self.params)

    def _update_piece(
        self,
        arrays: list[Tensor],
        master: Tensor | None,
        rates: _Rates,
        step_size: Tensor,
        root_scale: Tensor,
        skip: Tensor | None,
        keys: tuple[Tensor, Tensor] | None,
        start: int,
    ) -> None:
        """Elements of one tensor from `start` on; `arrays` are parameter, gradient and both moments, (n,) each."""
        param, gradient, exp_avg, exp_avg_sq = arrays
        # In fp32, in the order of operations of adamw_math.h: decay, moments, then the update.
        g = gradient.float()
        if rates.unscale is not None:
            _put(gradient, g * rates.unscale, skip)
        if rates.gradient is not None:
            g = g * rates.gradient
        if rates.maximize:
            g = -g
        w = (param if master is None else master).float() * rates.decay
        m, v = exp_avg.float(), exp_avg_sq.float()
        m = m + (1 - rates.beta1) * (g - m)
        v = rates.beta2 * v + (1 - rates.beta2) * g * g
        w = w - step_size * m / (v.sqrt() * root_scale + rates.eps)
        if master is not None:
            _put(master, w, skip)
        new: tuple[Tensor, ...] = w, m, v
        if keys is not None:
            # One hash: the upper half for the parameter, the lower for the first moment; the second takes another.
            index = torch.arange(start, start + param.numel(), device=param.device) & _LOW
            bits = _random_bits(index, *keys)
            draws = bits >> 16, bits & 0xFFFF, _more_bits(bits) >> 16
            rounds = master is None, True, True
            new = tuple(
                _stochastic(x, draw) if target.dtype == torch.bfloat16 and at_random else x
                for x, draw, target, at_random in zip(
                    (w, m, v), draws, (param, exp_avg, exp_avg_sq), rounds, strict=True
                )
            )
        for target, value in zip((param, exp_avg, exp_avg_sq), new, strict=True):
            _put(target, value, skip)

    def sum_of_squares(self, sums: Tensor, slot: int, last: bool, max_norm: float, result: Tensor) -> None:
        # `last` is only for buckets with a kernel, which the others are never mixed with.
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for _, _, gradient, _ in self._tensors()]
        sums[slot] = torch.stack(norms).square().sum() if norms else 0.0


class _Rates(NamedTuple):
    """What all tensors of a step share; a tensor, () fp32, is on their device."""

    gradient: Tensor | None
    """Multiplies the gradient; None is 1."""
    unscale: Tensor | None
    """1 / grad_scale, for what is written back; None writes nothing."""
    decay: float | Tensor
    beta1: float
    beta2: float
    eps: float
    maximize: bool


def _put(target: Tensor, value: Tensor, skip: Tensor | None) -> None:
    """Write values in the target's dtype, rounded to nearest; where `skip` is true, leave it as it is."""
    target.copy_(value if skip is None else torch.where(skip, target.to(value.dtype), value))


# Unsigned arithmetic of adamw.h and adamw_math.h in int64, which wraps around at 2^64 as it does. Numbers of 32 bits
# are kept between 0 and 2^32 - 1.


def _keys(seed: int, step: Tensor, stream: Tensor, high: int) -> tuple[Tensor, Tensor]:
    """Two keys for each tensor's random bits, (n,) from (n,): hashes of seed, step, stream and `high`, the bits of the
    element's index above 32."""
    x = torch.full_like(step, _signed(seed))
    for part in (step, stream, torch.full_like(step, high)):
        x = (x ^ part) + _signed(0x9E3779B97F4A7C15)
        x = (x ^ _shifted(x)) * _signed(0xFF51AFD7ED558CCD)
        x = (x ^ _shifted(x)) * _signed(0xC4CEB9FE1A85EC53)
        x = x ^ _shifted(x)
    return x & _LOW, (x >> 32) & _LOW


def _signed(x: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return x - (1 << 64) if x >> 63 else x


def _shifted(x: Tensor) -> Tensor:
    """x >> 33 of an unsigned number."""
    return (x >> 33) & 0x7FFFFFFF


def _random_bits(index: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """32 random bits for each element."""
    x = ((index ^ a) * 0x9E3779B1) & _LOW
    x = (((x ^ (x >> 15)) ^ b) * 0x85EBCA77) & _LOW
    x = ((x ^ (x >> 13)) * 0xC2B2AE3D) & _LOW
    return x ^ (x >> 16)


def _more_bits(bits: Tensor) -> Tensor:
    """A second draw from a first."""
    x = ((bits ^ 0x27D4EB2F) * 0x165667B1) & _LOW
    x = ((x ^ (x >> 15)) * 0x85EBCA77) & _LOW
    return x ^ (x >> 13)


def _stochastic(x: Tensor, random16: Tensor) -> Tensor:
    """fp32 to bf16, up with the probability of the fraction that is cut off; infinities and NaNs as usual."""
    # The upper 16 bits of an fp32 number are bf16; the sum carries into them with that probability.
    carried = ((x.view(torch.int32) + random16.to(torch.int32)) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(x.isfinite(), carried, x.to(torch.bfloat16))
