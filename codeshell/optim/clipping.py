"""The norm of all gradients, the clipping factor, and the gradients for which that factor holds."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from codeshell.optim.buckets import Bucket, Kind
from codeshell.optim.masters import version_of


class Clipped:
    """The gradients for which a clipping factor was computed, without keeping them alive."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        found = [(id(p), gradient) for p in params if (gradient := p.grad) is not None]
        reference = weakref.ref
        try:
            self._seen = {key: (reference(gradient), gradient._version) for key, gradient in found}
        except (
            RuntimeError
        ):  # A tensor of inference mode has no version, and asking for it by name costs twice the time.
            self._seen = {key: (reference(gradient), version_of(gradient)) for key, gradient in found}

    def holds_for(self, params: Sequence[Tensor]) -> bool:
        """Whether the factor is for the gradients that the parameters have now; False if all of them are new.

        Raises:
            RuntimeError: some gradients are those of then and others not, or some were written since.
        """
        same = changed = 0
        for p in params:
            now = p.grad
            if now is None:
                continue
            gradient, version = self._seen.get(id(p), (None, 0))
            if gradient is None or gradient() is not now:
                changed += 1
            elif version == version_of(now):
                same += 1
            else:
                same, changed = same + 1, changed + 1
        if same and changed:
            raise RuntimeError(
                f"AdamW: {changed} gradients have changed since clip_grad_norm, whose factor is for those of then; "
                "call it after the last backward pass and after GradScaler.unscale_, or zero_grad of this optimizer"
            )
        return not changed


def norm_and_factor(buckets: list[Bucket], others: list[Tensor], max_norm: float) -> Tensor:
    """(norm, factor) in PyTorch: for tensors on several devices or on the CPU, DTensors, and those without a kernel."""
    # The sum of squares in fp64, on the device of the first tensor.
    total: Tensor | None = None
    for bucket in buckets:
        sums = torch.zeros(1, dtype=torch.float64, device=bucket.kind.device)
        bucket.sum_of_squares(sums, 0, False, max_norm, sums)
        part = sums[0]
        if bucket.kind.mesh is not None:
            part = _over_mesh(part, bucket.kind)
        total = part if total is None else total + part.to(total.device)
    # A DTensor's norm is over all processes once it is asked for as a full tensor.
    for gradient in others:
        norm = torch.linalg.vector_norm(gradient.detach(), dtype=None if gradient.is_complex() else torch.float64)
        square = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).double().square()
        total = square if total is None else total + square.to(total.device)
    if total is None:
        return torch.tensor([0.0, 1.0])
    # As in torch's clip_grad_norm_: the factor is never above 1. An infinite limit only measures.
    norm = total.sqrt()
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0) if max_norm < math.inf else torch.ones_like(norm)
    return torch.stack([norm, factor]).float()


def _over_mesh(part: Tensor, kind: Kind) -> Tensor:
    """The sum over the processes that hold different shards; replicas are counted once, and have the same bits."""
    from torch import distributed
    from torch.distributed.tensor import DTensor, Partial, Replicate

    placements = [Partial() if placement.is_shard() else Replicate() for placement in kind.placements]
    whole: Tensor = DTensor.from_local(part, kind.mesh, placements, run_check=False).full_tensor()
    # Each replica sums by itself, and another order could round otherwise: the replicas would drift apart.
    for dimension, placement in enumerate(kind.placements):
        if kind.mesh.ndim > 1 and not placement.is_shard():
            distributed.broadcast(whole, group=kind.mesh.get_group(dimension), group_src=0)
    return whole
