"""Rotary position embedding (Su et al. 2021), half-split or interleaved, over the first dimensions of each head.

`rotary` rotates queries and keys, `rotary_qkv` a fused projection on its way to attention. Both are one pass over
memory by `csrc/rotary`: on the CPU for any instruction set, on the GPUs that `devices` says. A few lines of PyTorch
(`_reference`) serve what the kernels do not: fp64, heads beyond 1,024 dimensions, other GPUs.

A call costs a few microseconds, so this file counts them: all checks are in C++ (`csrc/bindings/rotary.cpp`), arguments
travel as plain tuples in the order of `Angles`, and functions of torch are looked up once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from codeshell.ops import devices
from codeshell.ops.library import (
    apply_directly,
    check_one_device,
    define,
    differentiable,
    differentiable_once,
    direct,
    direct_backward,
    say,
    transformed,
)

_Pair = tuple[torch.Tensor, torch.Tensor]

# Looked up once, as in library.py.
_grad_enabled, _empty_like, _threads = torch.is_grad_enabled, torch.empty_like, torch.get_num_threads


class Angles(NamedTuple):
    """Rotation angles of the tokens: keyword arguments of `rotary` and `rotary_qkv`, in the order of the kernels."""

    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    offset: int
    interleaved: bool
    doubled: bool
    conjugate: bool = False
    """Rotate back, as gradients do."""


def rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    positions: torch.Tensor | None = None,
    inplace: bool = False,
    doubled: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    offset: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys by the angles of their positions.

    Args:
        q: (batch, seq, heads, dim) or (total, heads, dim), floating point; any strides, the last dimension contiguous.
        k: the same with its own number of heads.
        cos, sin: fp32 (positions, rotary_dim / 2); a head's dimensions from rotary_dim on are left as they are. Or
            doubled, one column for each dimension, in any floating-point dtype: (positions, rotary_dim) with `doubled`,
            or one row for each token (batch or 1, seq, rotary_dim), as transformers makes them.
        interleaved: pairs are (0, 1), (2, 3) … (GPT-J); otherwise (0, rotary_dim / 2) … (GPT-NeoX, Llama, CodeShell).
            Doubled tables repeat a value in the columns of both partners.
        positions: int32 or int64 rows of `cos`: (seq,), (batch, seq) or (total,). None is 0, 1, 2 … along seq or total.
        inplace: write into `q` and `k` and return them. They must not be leaves that require gradients.
        doubled: two-dimensional tables are (positions, rotary_dim).
        cu_seqlens: int32 (sequences + 1,), offsets of packed sequences in q (total, heads, dim): positions count from
            the start of each.
        offset: position of the first token, where `positions` is not given.

    Returns:
        The rotated `q` and `k` in their dtypes. The rotation itself is computed in fp32 (fp64 for fp64 input).

    Raises:
        ValueError: an argument's shape, stride, dtype, device or value does not fit; the message names it. Values of
            `positions` and `cu_seqlens` are checked on the CPU only, because on a CUDA device that would wait for it:
            there a position that the tables do not have gives NaN.
    """
    # With autograd: one Function that saves the tables alone. It is tried first, as training is what calls this most.
    plain = direct(q, k, cos, sin)
    if not plain and transformed():
        return _rotary_formula(q, k, inplace, Angles(cos, sin, positions, cu_seqlens, offset, interleaved, doubled))
    if _grad_enabled() and (q.requires_grad or k.requires_grad or cos.requires_grad or sin.requires_grad):
        refuse_table_gradients(cos, sin)
        tables, settings = (cos, sin, positions, cu_seqlens), (offset, interleaved, doubled)
        if plain:
            out: _Pair = _apply_rotary(q, k, tables, settings, inplace, True)
            return out
        # A traced graph has no operation that writes in place and has a gradient, so it copies.
        out = _Rotary.apply(q, k, tables, settings, False, False)  # type: ignore[no-untyped-call]
        return (q.copy_(out[0]), k.copy_(out[1])) if inplace else out
    # Traced, or intercepted by a mode or a subclass.
    if not plain:
        op = _rotary_inplace_op if inplace else _rotary_op
        rotated: _Pair | None = op(q, k, cos, sin, positions, cu_seqlens, offset, interleaved, doubled, False)
        return rotated or (q, k)
    # Straight to the kernel.
    return _rotate_into(
        *((q, k) if inplace else (_empty_like(q), _empty_like(k))),
        *(q, k, cos, sin, positions, cu_seqlens, offset, interleaved, doubled, False),
    )


def rotary_qkv(
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    heads: int,
    kv_heads: int,
    interleaved: bool = False,
    positions: torch.Tensor | None = None,
    doubled: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    offset: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split a fused projection into queries, keys and values, add its bias, and rotate q and k, in one pass.

    The backward pass is one pass too, and gives the bias's gradient: summed in fp32 in an order that depends on the
    shape alone, so it has the same bits every time.

    Args:
        qkv: (batch, seq, (heads + 2 kv_heads) * dim) or (total, …): the product without its bias; Q, then K, then V.
        bias: ((heads + 2 kv_heads) * dim,), floating point, or None.
        heads, kv_heads: number of heads of Q, and of K and V each.
        cos, sin, interleaved, positions, doubled, cu_seqlens, offset: as for `rotary`.

    Returns:
        q (batch, seq, heads, dim) or (total, heads, dim), k and v with kv_heads: contiguous, in the dtype of `qkv`.

    Raises:
        ValueError: as for `rotary`.
    """
    angles = Angles(cos, sin, positions, cu_seqlens, offset, interleaved, doubled)
    if transformed():
        return _qkv_formula(qkv, bias, heads, kv_heads, angles)
    if differentiable(qkv, bias, cos, sin):
        refuse_table_gradients(cos, sin)
        out: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _RotaryQKV.apply(  # type: ignore[no-untyped-call]
            qkv, bias, cos, sin, positions, cu_seqlens, offset, interleaved, doubled, heads, kv_heads
        )
        return out
    return _split_qkv(qkv, bias, heads, kv_heads, angles)


# The operations. Outputs are allocated here; `extension` checks the arguments and fills them, or returns False where
# the kernels do not serve the case. `*angles` are the fields of `Angles`, in order.


def _rotate_into(out_q: torch.Tensor, out_k: torch.Tensor, q: torch.Tensor, k: torch.Tensor, /, *angles: Any) -> _Pair:
    # Tensors that the extension cannot read (of a meta device) raise there; if devices differ, the message says so.
    # On a GPU without the kernel there is no stream for it, and the extension only checks.
    stream = 0 if q.is_cpu and devices.simulated is None else devices.queue(q, devices.ROTARY)
    try:
        done = devices.extension.rotary(out_q, out_k, q, k, *angles, _threads(), stream)
    except RuntimeError:
        _check_devices("q", angles, q=q, k=k)
        raise
    if not done:
        _say_why("codeshell.ops.rotary", q, angles[0])
        named = Angles(*angles)
        out_q.copy_(_reference(q, named))
        out_k.copy_(_reference(k, named))
    return out_q, out_k


def _rotate(q: torch.Tensor, k: torch.Tensor, *angles: Any) -> _Pair:
    return _rotate_into(_empty_like(q), _empty_like(k), q, k, *angles)


def _rotate_(q: torch.Tensor, k: torch.Tensor, *angles: Any) -> None:
    _rotate_into(q, k, q, k, *angles)


def _empty_parts(qkv: torch.Tensor, heads: int, kv_heads: int) -> list[torch.Tensor]:
    check_width(qkv, heads, kv_heads)
    dim = qkv.shape[-1] // (heads + 2 * kv_heads)
    return [qkv.new_empty((*qkv.shape[:-1], count, dim)) for count in (heads, kv_heads, kv_heads)]


def _rotate_qkv(
    qkv: torch.Tensor, bias: torch.Tensor | None, heads: int, kv_heads: int, *angles: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Three contiguous outputs, which the attention kernels take without a copy.
    q, k, v = _empty_parts(qkv, heads, kv_heads)
    stream = devices.queue(qkv, devices.ROTARY)
    try:
        done = devices.extension.rotary_qkv(q, k, v, qkv, bias, heads, kv_heads, *angles, _threads(), stream)
    except RuntimeError:
        _check_devices("qkv", angles, qkv=qkv, bias=bias)
        raise
    if done:
        return q, k, v
    _say_why("codeshell.ops.rotary_qkv", q, angles[0], bias)
    return _qkv_reference(qkv, bias, heads, kv_heads, Angles(*angles))


def _rotate_qkv_backward(
    grad_q: torch.Tensor, grad_k: torch.Tensor, grad_v: torch.Tensor, with_bias: bool, *angles: Any
) -> _Pair:
    """Gradients of qkv and (fp32; empty without `with_bias`) of the bias. `angles` are conjugate already."""
    # grad_q (…, heads, dim), grad_k and grad_v (…, kv_heads, dim) become grad_qkv (…, width).
    heads, kv_heads, dim = grad_q.shape[-2], grad_k.shape[-2], grad_q.shape[-1]
    width = (heads + 2 * kv_heads) * dim
    grad_qkv = grad_q.new_empty((*grad_q.shape[:-2], width))
    grad_bias = grad_q.new_empty(width if with_bias else 0, dtype=torch.float32)
    tokens = grad_q.shape[:-2].numel()
    # The bias's gradient is a sum over tokens: each chunk of them has a row of `partial`, and rows are summed in order.
    if with_bias and tokens == 0:
        grad_bias.zero_()
    partial = grad_bias.new_empty((devices.extension.rotary_sum_chunks(tokens), width)) if with_bias else None
    if not devices.extension.rotary_qkv_backward(
        *(grad_q, grad_k, grad_v, grad_qkv, grad_bias if with_bias else None, partial, heads, kv_heads),
        *(*angles, _threads(), devices.queue(grad_q, devices.ROTARY)),
    ):
        return _qkv_backward_reference(grad_q, grad_k, grad_v, with_bias, Angles(*angles))
    return grad_qkv, grad_bias


def _say_why(operation: str, x: torch.Tensor, cos: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Say in the log why the kernels do not serve heads x (…, heads, dim)."""
    reason = devices.missing(x.device, devices.ROTARY) if devices.on_gpu(x.device) else None
    if reason is None:
        wide = torch.float64 in (x.dtype, cos.dtype, None if bias is None else bias.dtype)
        reason = "float64" if wide else f"heads of {x.shape[-1]} (at most 1024)"
    say(operation, reason)


def _qkv_backward_reference(
    grad_q: torch.Tensor, grad_k: torch.Tensor, grad_v: torch.Tensor, with_bias: bool, angles: Angles
) -> _Pair:
    """The same in PyTorch."""
    grad_qkv = torch.cat((_reference(grad_q, angles), _reference(grad_k, angles), grad_v), dim=-2).flatten(-2)
    return grad_qkv, grad_qkv.flatten(0, -2).sum(0) if with_bias else grad_qkv.new_empty(0)


def _check_devices(first: str, angles: tuple[Any, ...], **tensors: torch.Tensor | None) -> None:
    cos, sin, positions, cu_seqlens = angles[:4]
    check_one_device(first, **tensors, cos=cos, sin=sin, positions=positions, cu_seqlens=cu_seqlens)


def _fake_pair(q: torch.Tensor, k: torch.Tensor, *angles: Any) -> _Pair:
    _check_devices("q", angles, q=q, k=k)
    return torch.empty_like(q), torch.empty_like(k)


def _fake_inplace(q: torch.Tensor, k: torch.Tensor, *angles: Any) -> None:
    _check_devices("q", angles, q=q, k=k)


def _fake_qkv(
    qkv: torch.Tensor, bias: torch.Tensor | None, heads: int, kv_heads: int, *angles: Any
) -> tuple[torch.Tensor, ...]:
    _check_devices("qkv", angles, qkv=qkv, bias=bias)
    return tuple(_empty_parts(qkv, heads, kv_heads))


def _fake_qkv_backward(
    grad_q: torch.Tensor, grad_k: torch.Tensor, grad_v: torch.Tensor, with_bias: bool, *angles: Any
) -> _Pair:
    width = (grad_q.shape[-2] + 2 * grad_k.shape[-2]) * grad_q.shape[-1]
    dtype = torch.float64 if grad_q.dtype == torch.float64 and with_bias else torch.float32
    return grad_q.new_empty((*grad_q.shape[:-2], width)), grad_q.new_empty(width if with_bias else 0, dtype=dtype)


_ANGLES = (
    "Tensor cos, Tensor sin, Tensor? positions, Tensor? cu_seqlens, int offset, bool interleaved, bool doubled, "
    "bool conjugate"
)
_rotary_op = define(f"rotary(Tensor q, Tensor k, {_ANGLES}) -> (Tensor, Tensor)", _rotate, _fake_pair)
_rotary_inplace_op = define(f"rotary_(Tensor(a!) q, Tensor(b!) k, {_ANGLES}) -> ()", _rotate_, _fake_inplace)
_rotary_qkv_op = define(
    f"rotary_qkv(Tensor qkv, Tensor? bias, int heads, int kv_heads, {_ANGLES}) -> (Tensor, Tensor, Tensor)",
    _rotate_qkv,
    _fake_qkv,
)
_rotary_qkv_backward_op = define(
    f"rotary_qkv_backward(Tensor grad_q, Tensor grad_k, Tensor grad_v, bool with_bias, {_ANGLES}) -> (Tensor, Tensor)",
    _rotate_qkv_backward,
    _fake_qkv_backward,
)


class _Rotary(torch.autograd.Function):
    """Takes few arguments, because each costs time: `tables` are cos, sin, positions and cu_seqlens; `settings` are
    offset, interleaved and doubled."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
        settings: tuple[int, bool, bool],
        inplace: bool,
        plain: bool,
    ) -> _Pair:
        # A rotation needs nothing of its input for its gradient: the angles are enough.
        ctx.save_for_backward(*tables)
        ctx.settings = settings
        if not plain:
            rotated: _Pair = _rotary_op(q, k, *tables, *settings, False)
            return rotated
        if inplace:
            ctx.mark_dirty(q, k)
            return _rotate_into(q, k, q, k, *tables, *settings, False)
        return _rotate_into(_empty_like(q), _empty_like(k), q, k, *tables, *settings, False)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        # The gradient of a rotation is the rotation back: the same operation with `conjugate`.
        plain = all(direct_backward(grad) for grad in grads)
        grad_q, grad_k = (_with_contiguous_heads(grad) for grad in grads)
        if transformed():
            given: tuple[Any, ...] = (*ctx.saved_tensors, *ctx.settings, True)
            angles = Angles(*given)
            return (_reference(grad_q, angles), _reference(grad_k, angles), None, None, None, None)
        rotate = _rotate if plain else _rotary_op
        return (*rotate(grad_q, grad_k, *ctx.saved_tensors, *ctx.settings, True), None, None, None, None)


_apply_rotary = apply_directly(_Rotary)


class _RotaryQKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        bias: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor | None,
        cu_seqlens: torch.Tensor | None,
        offset: int,
        interleaved: bool,
        doubled: bool,
        heads: int,
        kv_heads: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Neither input nor output is kept: the gradient needs the angles, and the bias's is a sum of it.
        ctx.save_for_backward(cos, sin, positions, cu_seqlens)
        ctx.settings = (offset, interleaved, doubled, True)
        ctx.bias_dtype = None if bias is None else bias.dtype
        angles = Angles(cos, sin, positions, cu_seqlens, offset, interleaved, doubled)
        return _split_qkv(qkv, bias, heads, kv_heads, angles)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        plain = all(direct_backward(grad) for grad in grads)
        grad_q, grad_k, grad_v = (_with_contiguous_heads(grad) for grad in grads)
        # A frozen bias costs no sum.
        with_bias = ctx.bias_dtype is not None and ctx.needs_input_grad[1]
        angles = (*ctx.saved_tensors, *ctx.settings)
        if transformed():
            grad_qkv, grad_bias = _qkv_backward_reference(grad_q, grad_k, grad_v, with_bias, Angles(*angles))
            return (grad_qkv, grad_bias.to(ctx.bias_dtype) if with_bias else None, *[None] * 9)
        rotate = _rotate_qkv_backward if plain else _rotary_qkv_backward_op
        grad_qkv, grad_bias = rotate(grad_q, grad_k, grad_v, with_bias, *angles)
        return (grad_qkv, grad_bias.to(ctx.bias_dtype) if with_bias else None, *[None] * 9)


def _split_qkv(
    qkv: torch.Tensor, bias: torch.Tensor | None, heads: int, kv_heads: int, angles: Angles
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    plain = direct(qkv, angles.cos, angles.sin) if bias is None else direct(qkv, bias, angles.cos, angles.sin)
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (_rotate_qkv if plain else _rotary_qkv_op)(
        qkv, bias, heads, kv_heads, *angles
    )
    return out


def _with_contiguous_heads(grad: torch.Tensor) -> torch.Tensor:
    """Gradients have whatever strides their consumers gave them; the kernels need each head contiguous."""
    return grad if grad.stride(-1) == 1 or grad.shape[-1] == 1 else grad.contiguous()


def _reference(x: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Rotary embedding of checked arguments in PyTorch, computed in at least fp32."""
    # x (…, heads, dim); cos and sin (…, 1, half), where 2 half of the dimensions rotate.
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = _rows(angles.cos, x, angles).to(wide), _rows(angles.sin, x, angles).to(wide)
    if angles.conjugate:
        sin = -sin
    half = cos.shape[-1]
    rotating = x[..., : 2 * half].to(wide)
    # (a, b) are the two partners of each pair.
    if angles.interleaved:
        a, b = rotating[..., 0::2], rotating[..., 1::2]
        rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = rotating[..., :half], rotating[..., half:]
        rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((rotated.to(x.dtype), x[..., 2 * half :]), dim=-1)


def _qkv_reference(
    qkv: torch.Tensor, bias: torch.Tensor | None, heads: int, kv_heads: int, angles: Angles
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same steps in PyTorch: bias, split, rotation of two of the three parts."""
    biased = qkv if bias is None else qkv + bias.to(qkv.dtype)
    heads_of_all = biased.view(*qkv.shape[:-1], heads + 2 * kv_heads, -1)
    q, k, v = torch.split(heads_of_all, [heads, kv_heads, kv_heads], dim=-2)
    return _reference(q, angles), _reference(k, angles), v.contiguous()


# In a transform (library.transformed) the formula serves, and the checks of the extension are made here. Tables may
# have derivatives then.


def _rotary_formula(q: torch.Tensor, k: torch.Tensor, inplace: bool, angles: Angles) -> _Pair:
    if q.dim() not in (3, 4) or k.dim() != q.dim() or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}: both must be (batch, seq, heads, dim) or (total, heads, dim)"
        )
    _check_formula(q, "q", angles)
    out_q, out_k = _reference(q, angles), _reference(k, angles)
    return (q.copy_(out_q), k.copy_(out_k)) if inplace else (out_q, out_k)


def _qkv_formula(
    qkv: torch.Tensor, bias: torch.Tensor | None, heads: int, kv_heads: int, angles: Angles
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_width(qkv, heads, kv_heads)
    _check_formula(qkv.view(*qkv.shape[:-1], heads + 2 * kv_heads, -1), "qkv", angles)
    return _qkv_reference(qkv, bias, heads, kv_heads, angles)


def _check_formula(x: torch.Tensor, name: str, angles: Angles) -> None:
    """Raises ValueError where the angles do not fit x (…, heads, dim). Values of positions are torch's to check."""
    cos, sin, positions, cu_seqlens, offset, _, doubled, _ = angles
    tokens, wide = x.shape[:-2], 2 if doubled or cos.dim() == 3 else 1
    fits = cos.dim() == 2 or (cos.dim() == 3 and cos.shape[-2] == tokens[-1] and cos.shape[0] in (1, x.shape[0]))
    if not fits or cos.shape != sin.shape or 2 * cos.shape[-1] > wide * x.shape[-1]:
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)} do not fit {name} {tuple(x.shape)}")
    if positions is not None and tuple(positions.shape) not in (tuple(tokens), (tokens[-1],)):
        raise ValueError(f"positions {tuple(positions.shape)}: must be {tuple(tokens)} or ({tokens[-1]},)")
    ways = (positions is not None) + (cu_seqlens is not None or offset != 0) + (cos.dim() == 3)
    if ways > 1 or offset < 0 or (cu_seqlens is not None and len(tokens) > 1):
        raise ValueError(
            f"positions, cu_seqlens (packed tokens) with an offset >= 0, and tables (batch, seq, rotary_dim) each say "
            f"where the tokens of {name} {tuple(x.shape)} are; give one of them"
        )


def _rows(table: torch.Tensor, x: torch.Tensor, angles: Angles) -> torch.Tensor:
    """The table's row for each token of x, one column for each pair, with a dimension for the heads: (…, 1, half)."""
    # Undo the doubling first.
    if table.dim() == 3 or angles.doubled:
        half = table.shape[-1] // 2
        table = table[..., 0::2] if angles.interleaved else table[..., :half]
    if table.dim() == 3:
        return (table if x.dim() == 4 else table[0]).unsqueeze(-2)
    if angles.positions is not None:
        rows = angles.positions
    else:
        rows = torch.arange(x.shape[-3], device=x.device)
        # In packed sequences, subtract the start of the sequence that each token is in.
        if angles.cu_seqlens is not None:
            starts = torch.bucketize(rows, angles.cu_seqlens[1:], right=True)
            rows = rows - angles.cu_seqlens.to(rows.dtype)[starts]
        rows = rows + angles.offset
    if not devices.on_gpu(x.device):
        return table[rows].unsqueeze(-2)
    # On a GPU nobody has looked at the values, and torch would end the process over a row that the table does not have.
    # As in the kernels, it gives NaN.
    count = table.shape[0]
    with_nan = F.pad(table, (0, 0, 0, 1), value=torch.nan)
    return with_nan[torch.where((rows >= 0) & (rows < count), rows, count)].unsqueeze(-2)


def check_width(qkv: torch.Tensor, heads: int, kv_heads: int) -> None:
    """Raises ValueError unless qkv is a fused projection of these heads."""
    if heads < 1 or kv_heads < 1 or qkv.dim() not in (2, 3) or qkv.shape[-1] % (heads + 2 * kv_heads):
        raise ValueError(
            f"qkv {tuple(qkv.shape)}: must be (batch, seq, width) or (total, width), the width a multiple of "
            f"heads + 2 kv_heads = {heads + 2 * kv_heads}"
        )


def refuse_table_gradients(cos: torch.Tensor, sin: torch.Tensor) -> None:
    if cos.requires_grad or sin.requires_grad:
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)}: their gradients are not computed; detach")


def check_tables(cos: torch.Tensor, sin: torch.Tensor, dim: int) -> None:
    """Raises ValueError unless cos and sin are (positions, rotary_dim / 2) tables for heads of `dim`."""
    if cos.dim() != 2 or cos.shape != sin.shape:
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)}: both must be (positions, rotary_dim / 2)")
    if cos.dtype not in (torch.float32, torch.float64) or sin.dtype != cos.dtype:
        raise ValueError(f"cos is {cos.dtype} and sin {sin.dtype}; both must be fp32")
    if 2 * cos.shape[1] > dim:
        raise ValueError(f"cos {tuple(cos.shape)} rotates {2 * cos.shape[1]} dimensions, but a head has {dim}")
