"""Cross-entropy of a linear head without the logits of all tokens.

The loss over a large vocabulary takes more memory than the rest of a small model: tokens x vocabulary in fp32, twice.
Here the head runs over blocks of tokens. The gradient of each block is formed while its logits are still in the cache,
in the same buffer, so neither all logits nor their whole gradient ever exist (Liger-Kernel and Apple's CCE do the
same). On a GPU that step is one kernel (`softmax_gradient_`), between the products that torch has.

Shapes in this file: T tokens, R rows (tokens) of a block, F features, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn import functional as F

from codeshell.ops import cpu, devices, loss_cuda, products
from codeshell.ops.library import (
    check_one_device,
    define,
    differentiable_once,
    direct,
    direct_backward,
    plain,
    transformed,
)
from codeshell.ops.linear import widens

_CPU_ELEMENTS = 1 << 21
"""Logits that exist at once on a CPU: 8 MB in fp32, which stay in a server's L2 and L3."""
_MOST_PACKED = 1 << 24
"""Elements of the largest weight of which two packed copies are made on a CPU, 128 MB."""
_GPU_BYTES = 600 << 20
"""Memory of the logits that exist at once on a GPU. The gradient of the weight is read and written once for each block
(2.3 GB in fp32 for 70,144 x 4,096), so blocks have to be long: 4,096 rows of 70,144 in bf16 are 575 MB."""
_LEAST_ROWS = 16
"""Tokens that a block has at least: a huge vocabulary still gets products that are worth their name."""


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int = -100,
) -> torch.Tensor:
    """Cross-entropy of `softmax(hidden @ weight.T)` against `targets`, in nats.

    Args:
        hidden: (..., features), floating point. Under autocast it and `weight` are cast to the autocast dtype.
        weight: (vocabulary, features).
        targets: (...) int64, the shape of `hidden` without its last dimension.
        reduction: `"mean"` over the targets that count, or `"sum"`.
        ignore_index: targets of this value do not count.

    Returns:
        A fp32 scalar (fp64 for fp64 input). With no target that counts it is 0, and so are the gradients.

    Raises:
        ValueError: shapes or dtypes do not fit, or (on a CPU) a target lies outside the vocabulary. A GPU is not
            waited for: there the loss of such a target is NaN, or PyTorch's own check ends the process.
    """
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}: the last dimensions must agree"
        )
    if weight.shape[0] == 0:
        raise ValueError(f"weight {tuple(weight.shape)}: the vocabulary must have at least one token")
    if targets.shape != hidden.shape[:-1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets {tuple(targets.shape)} {targets.dtype}: must be int64 of shape {tuple(hidden.shape[:-1])}"
        )
    check_one_device("hidden", hidden=hidden, weight=weight, targets=targets)
    if not hidden.is_floating_point() or not weight.is_floating_point():
        raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}; both must be floating point")
    # Shapes and names first; values of targets need a pass over them.
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'sum'")
    # A bad target would be read outside the logits. On a GPU the question would wait for it, and a traced one has no
    # values; the kernel and PyTorch's own steps then check by themselves.
    flat = targets.reshape(-1)
    if flat.is_cpu and not devices.on_gpu(flat.device) and direct(flat) and flat.numel():
        outside = (flat != ignore_index) & ((flat < 0) | (flat >= weight.shape[0]))
        if bool(outside.any()):
            bad = int(flat[outside][0])
            raise ValueError(f"targets: {bad} is outside the vocabulary of {weight.shape[0]} and is not ignore_index")
    # Autocast, by hand: it would cast the operands of each block again.
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        if widens(hidden, weight):
            hidden, weight = hidden.float(), weight.float()
    elif hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must agree outside autocast")
    # A part of a subclass's tensor, and buffers that are filled in place, are not what every subclass has.
    if transformed() or not (torch.compiler.is_compiling() or plain(hidden, weight, targets)):
        # All logits at once, by torch's own operations, with the same width of sums.
        logits = F.linear(hidden.reshape(-1, hidden.shape[-1]), weight)
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(logits.to(wide), flat, ignore_index=ignore_index, reduction="sum")
        return total / (flat != ignore_index).sum().clamp(min=1) if reduction == "mean" else total
    loss: torch.Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        flat.contiguous(),
        reduction,
        ignore_index,
        torch.is_grad_enabled(),
        # One element of each, by which gradients of gradients can be refused: the two themselves need not be kept.
        *(x.detach() if not x.requires_grad else x.reshape(-1)[:1].clone() for x in (hidden, weight)),
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        reduction: str,
        ignore_index: int,
        training: bool,
        *anchors: torch.Tensor,
    ) -> torch.Tensor:
        # hidden (T, F), weight (V, F), targets (T,). Sums are wide: fp32, or fp64 for fp64.
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        need_hidden, need_weight = (training and needed for needed in ctx.needs_input_grad[:2])
        tokens, vocabulary = hidden.shape[0], weight.shape[0]
        # The factor on each counted token's gradient, kept on the device: nothing waits for the count.
        counted = targets != ignore_index
        scale = torch.ones((), dtype=wide, device=hidden.device)
        if reduction == "mean":
            scale = scale / counted.sum().clamp(min=1)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if need_weight else None
        losses = torch.empty(tokens, dtype=wide, device=hidden.device)
        rows = block_rows(tokens, vocabulary, hidden.element_size(), gpu=hidden.device.type != "cpu")
        # Where our products serve, the weight is packed once for all blocks, as each of the two operands that it is.
        own = products.serves(hidden, weight) and weight.numel() <= _MOST_PACKED
        columns = products.pack(weight.t()) if own else None
        features = products.pack(weight) if own and need_hidden else None
        with torch.autocast(hidden.device.type, enabled=False):
            buffer = torch.empty(min(rows, tokens), vocabulary, dtype=hidden.dtype, device=hidden.device)
            for start in range(0, tokens, rows):
                # Forward: the block's logits (R, V), in the one buffer that all blocks share.
                part = slice(start, min(start + rows, tokens))
                logits = buffer[: part.stop - start]
                if columns is None:
                    torch.mm(hidden[part], weight.t(), out=logits)
                else:
                    products.multiply(hidden[part], columns, out=logits)
                # They become their own gradient; the products with it are the backward pass of the head.
                softmax_gradient_(logits, targets[part], ignore_index, scale, losses[part])
                if features is not None and grad_hidden is not None:
                    products.multiply(logits, features, out=grad_hidden[part])
                elif grad_hidden is not None:
                    torch.mm(logits, weight, out=grad_hidden[part])
                if own and grad_weight is not None:
                    products.multiply(logits.t(), products.pack(hidden[part]), out=grad_weight, add=True)
                elif grad_weight is not None:
                    # The weight's gradient sums over all blocks, so it is summed wide.
                    _add_product_(grad_weight, logits.t(), hidden[part])
        ctx.save_for_backward(grad_hidden, grad_weight, *(x for x in anchors if x.requires_grad))
        ctx.weight_dtype = weight.dtype
        return losses.sum() * scale

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        # Everything was computed in the forward pass; what is left is the factor that comes in, which is mostly 1.
        (grad,) = grads
        grad_hidden, grad_weight, *_ = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype) if _is_scaled(grad) else grad_hidden
        if grad_weight is not None:
            grad_weight = (grad_weight * grad if _is_scaled(grad) else grad_weight).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, *[None] * 6


def _is_scaled(grad: torch.Tensor) -> bool:
    """Whether the incoming gradient is other than 1. Only asked on a CPU: on a GPU the answer would have to wait, and a
    traced gradient has none."""
    return devices.on_gpu(grad.device) or not (grad.is_cpu and direct_backward(grad)) or float(grad) != 1.0


def block_rows(tokens: int, vocabulary: int, element_size: int, *, gpu: bool) -> int:
    """How many tokens a block has: as many as the limit of its logits allows, and on a GPU blocks of about one length,
    a multiple of the tile of torch's products."""
    if not gpu:
        return max(_LEAST_ROWS, _CPU_ELEMENTS // vocabulary)
    tile = 128
    most = max(_LEAST_ROWS, _GPU_BYTES // (vocabulary * element_size))
    most = most // tile * tile or most
    blocks = max(1, -(-tokens // most))
    rows = -(-tokens // blocks)
    return max(_LEAST_ROWS, min(most, -(-rows // tile) * tile))


_NO_SUM: set[tuple[str, torch.dtype]] = set()
"""Kinds of devices and dtypes for which this torch has no product that is added to a wider sum."""


def _add_product_(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a @ b to `total`, which is as wide as a and b, or wider."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
        return
    # One product with an fp32 sum, which reads and writes `total` and nothing else. torch has it for 16-bit operands on
    # CUDA, and from one version to the next takes an fp32 summand; it tells before it starts anything.
    key = a.device.type, a.dtype
    if a.device.type == "cuda" and key not in _NO_SUM and not torch.compiler.is_compiling():
        try:
            torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
        except (RuntimeError, TypeError) as error:
            if "dtype" not in str(error):
                raise
            _NO_SUM.add(key)
        else:
            return
    total += a @ b


def _softmax_gradient_(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, scale: torch.Tensor, losses: torch.Tensor
) -> None:
    """`softmax_gradient_` by what serves these tensors."""
    if cpu.serves(logits, targets, losses):
        cpu.cross_entropy_(logits, targets, ignore_index, float(scale), losses)
    elif loss_cuda.serves(logits, losses) and direct(logits, targets, scale, losses):
        loss_cuda.launch(logits, targets, ignore_index, scale, losses)
    else:
        _by_torch_(logits, targets, ignore_index, scale, losses)


def _by_torch_(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, scale: torch.Tensor, losses: torch.Tensor
) -> None:
    """The same in PyTorch. Targets that do not count are looked up at 0, and their rows are zeroed at the end."""
    counted = targets != ignore_index
    wide = logits.to(losses.dtype)
    index = torch.where(counted, targets, 0).unsqueeze(1)
    lse = torch.logsumexp(wide, dim=1, keepdim=True)
    losses.copy_(torch.where(counted, (lse - wide.gather(1, index)).squeeze(1), 0.0))
    probability = (wide - lse).exp_()
    probability.scatter_add_(1, index, torch.full_like(lse, -1.0))
    probability *= torch.where(counted, scale, 0.0).unsqueeze(1)
    logits.copy_(probability)


_traced = define(
    "softmax_gradient_(Tensor(a!) logits, Tensor targets, int ignore_index, Tensor scale, Tensor(b!) losses) -> ()",
    _softmax_gradient_,
    lambda logits, targets, ignore_index, scale, losses: None,
)


def softmax_gradient_(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, scale: torch.Tensor, losses: torch.Tensor
) -> None:
    """Turn logits into their gradient, (softmax - one-hot) * scale, in their own memory, and fill `losses`.

    Args:
        logits: (R, V) with a contiguous last dimension.
        targets: (R,) int64, contiguous. A row whose target is `ignore_index` becomes zeros and has the loss 0. On a GPU
            nobody waits to check the others: a kernel's row with a target outside the vocabulary becomes NaN.
        ignore_index: the target of the rows that do not count.
        scale: (), of the dtype of `losses`; it stays on the device.
        losses: (R,), fp32 (fp64 for fp64 logits), contiguous: the loss of each row in nats, without the scale.
    """
    # A traced graph has the operation by its name where a kernel serves it, and the formula elsewhere.
    if direct(logits, targets, scale, losses):
        _softmax_gradient_(logits, targets, ignore_index, scale, losses)
    elif loss_cuda.serves(logits, losses):
        _traced(logits, targets, ignore_index, scale, losses)
    else:
        _by_torch_(logits, targets, ignore_index, scale, losses)


def cross_entropy_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> torch.Tensor:
    """The same loss through torch's own linear and cross_entropy, with all logits; the reference of the tests."""
    logits = F.linear(hidden.reshape(-1, hidden.shape[-1]), weight)
    total = F.cross_entropy(logits, targets.reshape(-1), ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1) if reduction == "mean" else total
