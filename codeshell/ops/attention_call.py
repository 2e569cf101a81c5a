"""The structure that one attention call is packed into, and the checks of it: the only ones that attention has.

`attention` and the flash_attn functions pack an `AttentionCall` once. Autograd, the CPU kernel, the Hopper kernel, its
fakes and torch's SDPA all take it as it is, so none of them repeats its arguments.

Positions are aligned bottom right: query i of `queries` stands at key `i + keys - queries`. It sees the keys from
`left` before that place to `right` after it, both included; None is no bound. So causal attention is (None, 0), and a
sliding window of w keys (w - 1, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from codeshell.ops import devices
from codeshell.ops.library import check_one_device

Bound = int | None


class AttentionCall(NamedTuple):
    """Facts of one call. Those up to `scale` are the arguments of `torch.ops.codeshell.attention_forward`, in order.

    Attributes:
        q: (batch, queries, heads, dim), or packed (total, heads, dim).
        k, v: (batch, keys, kv_heads, dim), or packed (total, kv_heads, dim).
        cu_seqlens: int32 (sequences + 1,), where each packed sequence begins and ends; None for a dense batch.
        max_seqlen: length of the longest packed sequence; 0 for a dense batch.
        left, right: how many keys before and after its own place a query sees; None is all.
        scale: factor on the scores.
        cu_seqlens_k: offsets of the keys where they differ from those of the queries. Only PyTorch serves that.
        dropout_p: dropout on the probabilities. Only PyTorch serves that.
        deterministic: whether gradients must have the same bits every time.
        return_lse: whether the log-sum-exp is wanted too. PyTorch computes it only then; the kernels always do.
        max_seqlen_k: length of the longest sequence of keys, with `cu_seqlens_k`; 0 if nobody knows.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cu_seqlens: torch.Tensor | None
    max_seqlen: int
    left: Bound
    right: Bound
    scale: float
    cu_seqlens_k: torch.Tensor | None = None
    dropout_p: float = 0.0
    deterministic: bool = False
    return_lse: bool = False
    max_seqlen_k: int = 0

    @property
    def causal(self) -> bool:
        """What the kernels call causal: no key after the query's place."""
        return self.right == 0

    @property
    def window(self) -> int:
        """The window as the kernels take it, a C++ int: 0 is none, and one beyond all sequences hides nothing."""
        return 0 if self.left is None else min(self.left + 1, 2**31 - 1)


OPERATION_ARGUMENTS = AttentionCall._fields.index("scale") + 1
"""How many of the fields are arguments of the operation."""


def scale_of(scale: float | None, q: torch.Tensor) -> float:
    """The scale of a call: `dim ** -0.5` unless it is given, and anything for a `q` that the checks will refuse."""
    if scale is not None:
        return scale
    dim = q.shape[-1] if q.dim() else 0
    return dim**-0.5 if dim else 1.0


def one_sided(left: Bound, right: Bound) -> bool:
    """Whether the bounds are such as kernels take: causal, with or without a window; or every query sees every key."""
    return right == 0 or (left is None and right is None)


def has_kernel_form(call: AttentionCall) -> bool:
    """Whether kernels can serve the call at all: no dropout, no key after a query unless every key is seen, and packed
    sequences that attend to themselves. Device, dtype and dimension are each kernel's own matter."""
    return one_sided(call.left, call.right) and call.dropout_p == 0.0 and call.cu_seqlens_k is None


def check(call: AttentionCall) -> None:
    """Check everything that the packed facts can show.

    Raises:
        ValueError: a shape, dtype, device or value does not fit; the message names it.
    """
    # The cheap questions about shapes first; the values of the offsets, which take a pass over them, last.
    q, k, v, cu_seqlens = call.q, call.k, call.v, call.cu_seqlens
    check_heads(q, k, v, packed=cu_seqlens is not None)
    if not 0.0 <= call.dropout_p < 1.0 or (call.dropout_p and call.return_lse):
        raise ValueError(f"dropout_p is {call.dropout_p}: must be at least 0 and below 1, and 0 with return_lse")
    if min(call.left or 0, call.right or 0) < 0:
        raise ValueError(f"left is {call.left}, right {call.right}: each must be at least 0, or None")
    # A caller with offsets for the keys has checked both by the names that its own arguments have.
    if cu_seqlens is not None and call.cu_seqlens_k is None:
        if q.shape[0] != k.shape[0]:
            raise ValueError(f"q has {q.shape[0]} tokens, k {k.shape[0]}; packed sequences attend to themselves")
        check_offsets(q, cu_seqlens, call.max_seqlen, "q", "cu_seqlens", "max_seqlen")


def check_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: bool) -> None:
    """Raises ValueError where the three do not fit: (batch, seq, heads, dim), or `packed` (total, heads, dim)."""
    # Ranks and shapes, then heads in whole groups, then dtypes, then devices: each message relies on those before it.
    # Each shape is looked up once, because a look-up makes a new tuple, which costs time in small calls.
    q_shape, k_shape = q.shape, k.shape
    if (
        len(q_shape) != (3 if packed else 4)
        or len(k_shape) != len(q_shape)
        or k_shape != v.shape
        or q_shape[-1] != k_shape[-1]
        or (not packed and q_shape[0] != k_shape[0])
    ):
        layout = "(total, heads, dim) with cu_seqlens" if packed else "(batch, seq, heads, dim)"
        raise ValueError(f"q {tuple(q_shape)}, k {tuple(k_shape)}, v {tuple(v.shape)}: must be {layout}, k and v alike")
    heads, dim, kv_heads = q_shape[-2], q_shape[-1], k_shape[-2]
    if not (dim and heads and kv_heads) or heads % kv_heads:
        raise ValueError(f"q has {heads} heads of {dim}, not a multiple of the {kv_heads} of k")
    if not (q.dtype == k.dtype == v.dtype) or not q.dtype.is_floating_point:
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; they must be one floating-point dtype")
    if not (q.device == k.device == v.device):
        check_one_device("q", q=q, k=k, v=v)


def check_window(window: int | None, causal: bool) -> None:
    """Raises ValueError for a sliding window that is not a positive int, or that comes without a causal mask."""
    if window is not None and (isinstance(window, float) or window < 1 or not causal):
        raise ValueError(f"window is {window}: must be an int of at least 1, and causal")


def check_offsets(x: torch.Tensor, offsets: torch.Tensor, longest: int, name: str, given: str, limit: str) -> None:
    """Raises ValueError where `offsets` are not those of packed sequences in `x` of at most `longest` tokens.

    Their values are checked only on a CPU: on a GPU that would wait for it, and a traced graph cannot look at them.
    `name`, `given` and `limit` are what the caller calls the three.
    """
    if not isinstance(offsets, torch.Tensor):
        raise ValueError(f"{given} is a {type(offsets).__name__}: must be an int32 tensor (sequences + 1,)")
    if offsets.dtype != torch.int32 or offsets.dim() != 1 or offsets.numel() < 2:
        raise ValueError(f"{given} {tuple(offsets.shape)} {offsets.dtype}: must be int32 (sequences + 1,)")
    if offsets.device != x.device:
        check_one_device(name, **{name: x, given: offsets})
    # From here on the values: they rise from 0 to all tokens, by no more than the longest sequence.
    if offsets.device.type != "cpu" or devices.on_gpu(offsets.device):
        return
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != x.shape[0] or bool((lengths < 0).any()):
        raise ValueError(
            f"{given} must rise from 0 to the {x.shape[0]} tokens of {name}; it is {offsets.tolist()[:8]}…"
        )
    if int(lengths.max()) > longest:
        raise ValueError(f"{limit} is {longest}, but a sequence has {int(lengths.max())} tokens")
