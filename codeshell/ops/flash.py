"""The FlashAttention inside torch, for attention on GPUs that no kernel of codeshell serves.

It runs on every NVIDIA GPU from compute capability 8.0 on, and takes what torch's SDPA has not: packed sequences in one
launch that waits for nothing, windows without a mask, causal attention of fewer queries than keys, and the log-sum-exp.
`sdpa` asks `missing`, and calls `attend` for those cases.

torch offers this as `torch.nn.attention.varlen.varlen_attn`, but for packed sequences alone, with other arguments in
each version, and not before 2.10. Below it are the two operations of ATen that are called here, which every version of
the supported range has alike. What a user activates by `torch.nn.attention.activate_flash_attention_impl("FA3")`, or
"FA4", takes the place of the same two operations, so it is used here too.

What FlashAttention 2 does, from torch's aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, and what
follows from it here:

- A query that sees no key has an LSE of plus infinity; the contract of `codeshell.ops.attention` is minus infinity. The
  backward pass needs it as it was.
- A window of at least the longest keys is taken for none, and a bound on one side alone gets the longest keys for the
  other one. Both would be wrong for sequences with more queries than keys, so the maximum of the keys that it is given
  is at least that of the queries; a dense call, which has its own lengths, is left to SDPA in that case.
- One query per sequence makes it turn the groups of heads into a batch, which fails if a sequence is empty. So the
  maximum of the queries of packed sequences is at least 2.
- It does not ask for aligned addresses, and faults or reads wrong without (pytorch #194818). So tensors are copied that
  16-byte loads cannot walk.
- Its gradients have the same bits every time only under `torch.use_deterministic_algorithms(True)`. A call that asks
  for that turns this switch of the whole process on for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from codeshell.ops import devices, hopper
from codeshell.ops.attention_call import AttentionCall
from codeshell.ops.library import (
    apply_directly,
    constant_in_graphs,
    define,
    differentiable,
    differentiable_once,
    direct,
    transformed,
)

_Pair = tuple[torch.Tensor, torch.Tensor]
_Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

DTYPES = (torch.bfloat16, torch.float16)
MAX_DIM = 256
MAX_GRID = 65535
"""Sequences and heads are the second and third dimension of its grid, which CUDA limits to this."""
CAPABILITY = (8, 0)
"""The oldest GPU that it runs on."""
_ACTIVATED = {"FA3": (9,), "FA4": (9, 10)}
"""The GPUs, by the first number of their compute capability, for which torch lets a user activate another version."""


def _fits() -> bool:
    """Whether torch's operations take the arguments that they are called with here."""
    forward, backward = (
        operation.default._schema.arguments
        for operation in (torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward)
    )
    named = {"scale", "window_size_left", "window_size_right"}
    return all(
        sum(not x.kwarg_only for x in arguments) == positional and named <= {x.name for x in arguments if x.kwarg_only}
        for arguments, positional in ((forward, 10), (backward, 14))
    )


built = torch.backends.cuda.is_flash_attention_available() and torch.version.hip is None and _fits()
"""Whether the installed torch has it. (That of a torch for another vendor's GPUs is another one, with other limits.)"""


@constant_in_graphs
def implementation() -> str:
    """The name of what runs: "FA2", which torch has; or what the user has activated in its place."""
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)  # not in the oldest torch
    name: str | None = None if current is None else current()
    return name or "FA2"


def missing(call: AttentionCall) -> str | None:
    """Why the call cannot be served here, as one clause; None if it can be."""
    q, k = call.q, call.k
    reason = missing_for(q.device, q.dtype, q.shape[-1], differentiable(*call[:3]), call.deterministic)
    if reason is not None:
        return reason
    if call.dropout_p:
        return "dropout of the probabilities"
    if call.scale <= 0.0:
        return "a scale that is not above 0"
    if not torch.compiler.is_compiling() and not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        return "the user turned flash attention off (torch.backends.cuda, or torch.nn.attention.sdpa_kernel)"
    # An autograd.Function would lose a tangent, or stop the transform; and subclasses have torch's own operations only.
    if transformed() or not all(type(x) in (torch.Tensor, torch.nn.Parameter, FakeTensor) for x in call[:3]):
        return "tensors of a subclass, or a transform around the call"
    if not (q.numel() and k.numel()):
        return "a call without work"
    sequences = q.shape[0] if call.cu_seqlens is None else call.cu_seqlens.numel() - 1
    if sequences > MAX_GRID or q.shape[-2] > MAX_GRID:
        return f"{sequences} sequences of {q.shape[-2]} heads (it takes up to {MAX_GRID} of both)"
    # See the window's rule above. (Sizes are tensors in torch.jit.trace, which was turned away as a transform.)
    if call.cu_seqlens is None:
        left, right = call.left, call.right
        beyond = right is not None and right > 0 and right >= k.shape[1]
        if beyond or (left is not None and right is None and q.shape[1] > k.shape[1] + 1):
            return "a window that is not causal, of more queries than keys"
    return None


def missing_for(
    device: torch.device, dtype: torch.dtype | None, dim: int, gradients: bool, deterministic: bool = False
) -> str | None:
    """Why no call on this device, of this dtype and head dimension, can be served; None if calls can be.

    Args:
        device, dtype: of q, k and v.
        dim: the head dimension.
        gradients: whether they are needed.
        deterministic: whether they must have the same bits every time.
    """
    if not devices.on_gpu(device):
        return f"tensors on {device.type}"
    if not built:
        return "no FlashAttention in this build of torch"
    capability = devices.capability(device)
    if capability < CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} (it needs 8.0)"
    if dtype not in DTYPES:
        return f"{str(dtype).removeprefix('torch.')} (it takes bfloat16 and float16)"
    if dim > MAX_DIM:
        return f"heads of {dim} (it takes up to {MAX_DIM})"
    name, on = implementation(), f"on compute capability {capability[0]}.{capability[1]}"
    # What a user activates has limits of its own: torch/nn/attention/_fa3.py and _fa4.py, hopper/flash_api.cpp and
    # flash_attn/cute/interface.py of flash-attention.
    if capability[0] not in _ACTIVATED.get(name, (capability[0],)):
        return f"{name}, which was activated, {on}"
    if name == "FA3" and gradients and dim > 192 and (deterministic or torch.are_deterministic_algorithms_enabled()):
        return f"deterministic gradients of heads of {dim} by {name}"
    if name == "FA4" and dim > 128 and capability[0] == 10:
        return f"heads of {dim} by {name} {on}"
    # The backward pass for these dimensions needs more shared memory than these GPUs have; torch's SDPA has this rule.
    if gradients and 192 < dim <= 224 and (capability[0] == 12 or (8, 6) <= capability <= (8, 9)):
        return f"gradients of heads of {dim} {on}"
    return None


def attend(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Output, and LSE if the call asks for it, of a call for which nothing is `missing`; with gradients of the
    output."""
    tensors = (*call[:4], call.cu_seqlens_k)
    # The offsets of the keys without a maximum of their own: the total is one.
    longest = call.max_seqlen
    longest_keys = longest if call.cu_seqlens_k is None else call.max_seqlen_k or call.k.shape[0]
    facts = longest, longest_keys, call.left, call.right, call.scale
    # Four ways, as for the kernels: with or without autograd, each directly or by the operation.
    plain = direct(*call[:3])
    if differentiable(*call[:3]):
        apply: Any = _apply_flash if plain else _Flash.apply
        out, lse = apply(*tensors, facts, call.deterministic)
    else:
        forward: Any = _forward if plain else _forward_op
        out, lse = forward(*tensors, *facts)
    return out, lse.masked_fill(lse == torch.inf, -torch.inf) if call.return_lse else None


class _Flash(torch.autograd.Function):
    """The tensors of a call apart, because autograd and tracing see only tensors that are arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        cu_seqlens_k: torch.Tensor | None,
        facts: tuple[Any, ...],
        deterministic: bool,
    ) -> _Pair:
        forward: Any = _forward if direct(q, k, v) else _forward_op
        out, lse = forward(q, k, v, cu_seqlens, cu_seqlens_k, *facts)
        ctx.save_for_backward(q, k, v, out, lse, cu_seqlens, cu_seqlens_k)
        ctx.facts, ctx.deterministic = facts, deterministic
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, out, lse, cu_seqlens, cu_seqlens_k = ctx.saved_tensors
        backward: Any = _backward if direct(grads[0], q, k, v) else _backward_op
        gradients = backward(grads[0], out, lse, q, k, v, cu_seqlens, cu_seqlens_k, *ctx.facts, ctx.deterministic)
        return (*gradients, *[None] * 4)


_apply_flash = apply_directly(_Flash)


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    left: int | None,
    right: int | None,
    scale: float,
) -> _Pair:
    """Output, shaped as q, and the LSE as FlashAttention gives it: (batch, heads, queries) or (heads, total)."""
    dim = q.shape[-1]
    q, k, v = (_walkable(x) for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(q, k, v),
        *_lengths(q, k, cu_seqlens, cu_seqlens_k, max_q, max_k),
        *(0.0, right == 0, False),  # dropout, causal, and no copy of the probabilities
        scale=scale,
        **_window(left, right),
    )
    return out[..., :dim], lse


def _backward(
    grad: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    left: int | None,
    right: int | None,
    scale: float,
    deterministic: bool,
) -> _Triple:
    """Gradients of q, k and v from `grad`, that of `out`; `out` and `lse` are what `_forward` gave."""
    dim = q.shape[-1]
    grad, out, q, k, v = (_walkable(x) for x in (grad.to(q.dtype), out, q, k, v))
    # The state of the random numbers of dropout, of which there is none.
    state, unused = (torch.empty(size, dtype=torch.uint64, device=q.device) for size in (2, ()))
    with _deterministic() if deterministic else nullcontext():
        gradients = torch.ops.aten._flash_attention_backward(
            *(grad, q, k, v, out, lse.contiguous()),
            *_lengths(q, k, cu_seqlens, cu_seqlens_k, max_q, max_k),
            *(0.0, right == 0, state, unused),
            scale=scale,
            **_window(left, right),
        )
    d_q, d_k, d_v = (x[..., :dim] for x in gradients)
    return d_q, d_k, d_v


def _lengths(
    q: torch.Tensor,
    k: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
) -> tuple[Any, ...]:
    """Offsets of queries and keys and the longest of both, as FlashAttention takes them."""
    if cu_seqlens is None:
        return None, None, q.shape[1], k.shape[1]
    # The grid is made for the longest, so a caller's generous limit must not make it larger than the tokens. At least 2
    # queries, and as many keys as queries: see the top of this file.
    max_q = max(2, min(max_q, q.shape[0]))
    offsets = cu_seqlens.contiguous()
    return offsets, offsets if cu_seqlens_k is None else cu_seqlens_k.contiguous(), max_q, max(max_q, max_k)


def _window(left: int | None, right: int | None) -> dict[str, int]:
    """The bounds, -1 for none. The right one of causal attention, which is 0, is a flag of its own."""
    return {"window_size_left": -1 if left is None else left, "window_size_right": right or -1}


def _walkable(x: torch.Tensor) -> torch.Tensor:
    """The tensor in a form that FlashAttention can read: head dimensions in steps of 8, aligned to 16 bytes."""
    rest = -x.shape[-1] % 8
    if rest:
        return F.pad(x, (0, rest))  # zeros add nothing to a score, and the output's are cut off
    return hopper.as_walkable(x)


@contextmanager
def _deterministic() -> Iterator[None]:
    # torch's Python function of this name would also set inductor's config, which costs its import.
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch._C._set_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])


# The operations, for calls that are traced. Their results are contiguous, whatever FlashAttention makes of the strides
# of its inputs, so that a traced graph knows the strides in advance.


def _forward_of(*arguments: Any) -> _Pair:
    out, lse = _forward(*arguments)
    return out.contiguous(), lse.contiguous()


def _backward_of(*arguments: Any) -> _Triple:
    d_q, d_k, d_v = _backward(*arguments)
    return d_q.contiguous(), d_k.contiguous(), d_v.contiguous()


def _empty(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None, *_: Any) -> _Pair:
    rows = (q.shape[0], q.shape[2], q.shape[1]) if cu_seqlens is None else (q.shape[1], q.shape[0])
    return q.new_empty(q.shape), q.new_empty(rows, dtype=torch.float32)


def _empty_gradients(
    grad: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
) -> _Triple:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens, Tensor? cu_seqlens_k, SymInt max_q, SymInt max_k, int? left, "
    "int? right, float scale"
)
_forward_op = define(f"flash_forward({_ARGUMENTS}) -> (Tensor, Tensor)", _forward_of, _empty)
_backward_op = define(
    f"flash_backward(Tensor grad, Tensor out, Tensor lse, {_ARGUMENTS}, bool deterministic) -> "
    "(Tensor, Tensor, Tensor)",
    _backward_of,
    _empty_gradients,
)
