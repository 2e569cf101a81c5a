"""The three functions of the flash-attn package, computed by codeshell: other code only has to change an import.

    from codeshell.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache

Names, order and defaults of the arguments, layouts and results are those of flash-attn 2
(github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py). They run on `codeshell.ops`, so they also
work on a CPU, and in fp32; what no kernel of codeshell serves runs on PyTorch's own attention, which the log says
once. What neither can do is refused: a `NotImplementedError` names the argument, a `ValueError` says what does not fit.
"""

from __future__ import annotations

from typing import Any

import torch

from codeshell import ops
from codeshell.ops import devices, hopper
from codeshell.ops.attention import attend
from codeshell.ops.attention_call import AttentionCall, check, check_heads, check_offsets, one_sided, scale_of
from codeshell.ops.library import check_one_device

__all__ = ["flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"]

_Window = tuple[int, int]
_UNBOUNDED = (-1, -1)


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: _Window = _UNBOUNDED,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Softmax attention, with gradients.

    Args:
        q: (batch, seqlen_q, heads, dim), floating point.
        k, v: (batch, seqlen_k, kv_heads, dim); query head h reads their head h // (heads / kv_heads).
        dropout_p: dropout on the probabilities; torch's SDPA then serves the call.
        softmax_scale: factor on the scores; None is `dim ** -0.5`.
        causal: query i stands at key i + seqlen_k - seqlen_q and sees the keys up to there.
        window_size: (left, right), how many keys before and after its own place a query sees; -1 is all. With `causal`
            the right bound is 0. A right bound above 0, or a left bound alone, goes to PyTorch: its FlashAttention,
            or SDPA with a mask.
        softcap, alibi_slopes: refused, unless 0 and None.
        deterministic: gradients have the same bits every time.
        return_attn_probs: return a triple. Not with dropout, because nothing here keeps the probabilities.

    Returns:
        (batch, seqlen_q, heads, dim) in the dtype of q, zeros for a query that sees no key. With `return_attn_probs`
        also the log-sum-exp of the scores, fp32 (batch, heads, seqlen_q), minus infinity for such a query (as
        flash-attn 3; version 2 says plus), and, as in flash-attn without dropout, a tensor without elements in the
        place of the probabilities.

    Raises:
        ValueError: a shape, dtype, device or value does not fit.
        NotImplementedError: an argument asks for what is refused.
    """
    _refuse(softcap, alibi_slopes, dropout_p, return_attn_probs)
    check_heads(q, k, v, packed=False)
    left, right = _bounds(window_size, causal, q.shape[1], k.shape[1])
    scale = scale_of(softmax_scale, q)
    call = AttentionCall(q, k, v, None, 0, left, right, scale, None, dropout_p, deterministic, return_attn_probs)
    return _attend(call, "flash_attn_func")


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: _Window = _UNBOUNDED,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
) -> Any:
    """`flash_attn_func` for sequences that lie one after another and do not see one another.

    The kernels serve sequences that attend to themselves: `cu_seqlens_k` is the very tensor `cu_seqlens_q`, or equal to
    it (where the Hopper kernels are in use, a call waits for the GPU to find that out; handing over the same tensor
    saves the wait). Others go to torch's FlashAttention; and what that does not take (fp32, a GPU before compute
    capability 8.0) to torch's SDPA, with one call for each pair of lengths.

    Args:
        q: (total_q, heads, dim), floating point.
        k, v: (total_k, kv_heads, dim); with `block_table` (pages, page_size, kv_heads, dim).
        cu_seqlens_q, cu_seqlens_k: int32 (batch + 1,), where each sequence begins and ends, from 0 to the total.
        max_seqlen_q, max_seqlen_k: lengths of the longest.
        block_table: int32 (batch, pages per sequence), the pages of each sequence's keys in order, of any page size.
            The pages in use are copied, and a call waits for the GPU to find them.

    The other arguments are those of `flash_attn_func`.

    Returns:
        (total_q, heads, dim); with `return_attn_probs` also fp32 (heads, total_q), and a tensor without elements.

    Raises:
        ValueError: a shape, dtype, device or value does not fit. Values of the offsets are checked on a CPU alone.
        NotImplementedError: an argument asks for what is refused.
    """
    _refuse(softcap, alibi_slopes, dropout_p, return_attn_probs)
    if block_table is not None:
        k, v = _unpaged(k, v, cu_seqlens_k, block_table)
    # All that the bounds below rely on, in the names of these arguments.
    check_heads(q, k, v, packed=True)
    check_offsets(q, cu_seqlens_q, max_seqlen_q, "q", "cu_seqlens_q", "max_seqlen_q")
    check_offsets(k, cu_seqlens_k, max_seqlen_k, "k", "cu_seqlens_k", "max_seqlen_k")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"cu_seqlens_q {tuple(cu_seqlens_q.shape)}, cu_seqlens_k {tuple(cu_seqlens_k.shape)}: must be of as many "
            "sequences"
        )
    left, right = _bounds(window_size, causal, max_seqlen_q, max_seqlen_k)
    # The offsets of the keys are a fact of the call only where they differ from those of the queries.
    themselves = q.shape[0] == k.shape[0] and _same(cu_seqlens_q, cu_seqlens_k)
    call = AttentionCall(
        *(q, k, v, cu_seqlens_q, max_seqlen_q, left, right, scale_of(softmax_scale, q)),
        cu_seqlens_k=None if themselves else cu_seqlens_k,
        dropout_p=dropout_p,
        deterministic=deterministic,
        return_lse=return_attn_probs,
        max_seqlen_k=max_seqlen_k,
    )
    return _attend(call, "flash_attn_varlen_func")


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    cache_seqlens: int | torch.Tensor | None = None,
    cache_batch_idx: torch.Tensor | None = None,
    cache_leftpad: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: _Window = _UNBOUNDED,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: torch.Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """Attention of a few new tokens over a cache, to which their keys and values are appended first; no gradients.

    Args:
        q: (batch, seqlen_q, heads, dim), floating point: the last tokens of each row.
        k_cache, v_cache: (cache rows, capacity, kv_heads, dim) in the dtype of q, or with `block_table`
            (pages, page_size, kv_heads, dim) of any page size.
        k, v: (batch, seqlen_new, kv_heads, dim), written into the cache after what is there.
        rotary_cos, rotary_sin: (positions, rotary_dim / 2): rotate `k` and `q`, which must have equally many tokens, by
            the angles of their positions.
        cache_seqlens: int, or int32 (batch,) on the device: tokens in the cache before the call. None, without `k`, is
            the whole capacity.
        cache_batch_idx: int32 (batch,), the cache row of each row of q. Not with `block_table`.
        block_table: int32 (batch, pages per row), the pages of each row in order.
        causal, window_size: as for `flash_attn_func`, except that with several queries a right bound above 0, or a left
            bound alone, is refused.
        rotary_interleaved: pairs are dimensions (0, 1), (2, 3), …; False: (0, rotary_dim / 2),
            (1, rotary_dim / 2 + 1), ….
        num_splits: how the work is divided. No result depends on it, and the kernel decides it by itself.
        return_softmax_lse: also return the log-sum-exp.
        cache_leftpad, softcap, alibi_slopes: refused, unless None, 0 and None.

    Returns:
        (batch, seqlen_q, heads, dim) in the dtype of q, zeros for a query that sees no key; with `return_softmax_lse`
        also fp32 (batch, heads, seqlen_q).

    Raises:
        ValueError: a shape, dtype, device or value does not fit. Values of the integer tensors are checked on a CPU
            alone; on a GPU a row whose length does not fit gives NaN and writes nothing.
        NotImplementedError: an argument asks for what is refused.
    """
    # What a cache cannot have.
    _refuse(softcap, alibi_slopes)
    if cache_leftpad is not None:
        raise NotImplementedError(
            "cache_leftpad is not served: start each row at the cache's first token, or keep flash-attn for this call"
        )
    if q.dim() != 4 or k_cache.dim() != 4:
        raise ValueError(f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}: both must have four dimensions")
    # Rows of the cache by index are pages of a whole row each.
    if cache_batch_idx is not None:
        if block_table is not None:
            raise ValueError("cache_batch_idx and block_table both say where a row is; give one of them")
        if cache_batch_idx.shape != q.shape[:1] or cache_batch_idx.dtype != torch.int32:
            raise ValueError(
                f"cache_batch_idx {tuple(cache_batch_idx.shape)} {cache_batch_idx.dtype}: must be int32 ({q.shape[0]},)"
            )
        rows = k_cache.shape[0]
        if cache_batch_idx.device.type == "cpu" and bool(((cache_batch_idx < 0) | (cache_batch_idx >= rows)).any()):
            raise ValueError(
                f"cache_batch_idx is {cache_batch_idx.tolist()[:8]}…, but k_cache has the rows 0 to {rows - 1}"
            )
        block_table = cache_batch_idx.unsqueeze(1)
    # Lengths: all of the capacity, one number for all rows, or a tensor.
    capacity = k_cache.shape[1] * (1 if block_table is None else block_table.shape[-1])
    if cache_seqlens is None:
        if k is not None:
            raise ValueError("cache_seqlens is missing; with k it says where in the cache the new tokens are written")
        cache_seqlens = capacity
    # decode_attention takes lengths on the device, one for each row.
    if not isinstance(cache_seqlens, torch.Tensor):
        cache_seqlens = torch.full((q.shape[0],), cache_seqlens, dtype=torch.int32, device=q.device)
    # No row has more keys than the capacity, so a bound that hides nothing there hides nothing anywhere.
    left, right = _bounds(window_size, causal, q.shape[1], capacity)
    if not one_sided(left, right):
        raise NotImplementedError(
            f"window_size is {tuple(window_size)} with {q.shape[1]} queries: over a cache only causal windows, "
            "(left, 0), are served"
        )
    if (k is None) != (v is None):
        raise ValueError("k and v go together; give both or neither")
    if (rotary_cos is None) != (rotary_sin is None):
        raise ValueError("rotary_cos and rotary_sin go together; give both or neither")
    if rotary_cos is not None and rotary_sin is not None:
        if k is None or k.shape[1] != q.shape[1]:
            given = "is missing" if k is None else f"has {k.shape[1]} tokens"
            raise ValueError(f"rotary_cos rotates q and k alike: q has {q.shape[1]} tokens, k {given}")
        # flash-attn rotates queries that are not causal by the angle of the first of them, and ours by their places.
        if right is None and q.shape[1] > 1:
            raise NotImplementedError(
                f"rotary_cos without causal, of {q.shape[1]} queries, would rotate them all by one angle, which is not "
                "served; rotate q and k before the call (codeshell.ops.rotary)"
            )
        rotary_cos, rotary_sin = rotary_cos.float(), rotary_sin.float()
    # With these bounds the call is one of decode_attention, which checks everything else.
    extra: Any = {"return_lse": True} if return_softmax_lse else {}
    return ops.decode_attention(
        q,
        k_cache,
        v_cache,
        cache_seqlens=cache_seqlens,
        block_table=block_table,
        scale=softmax_scale,
        causal=right == 0,
        window=None if left is None else left + 1,
        k_new=k,
        v_new=v,
        cos=rotary_cos,
        sin=rotary_sin,
        interleaved=rotary_interleaved,
        **extra,
    )


def _attend(call: AttentionCall, name: str) -> Any:
    """What the function called `name` returns: the output, or the triple that flash-attn has without dropout."""
    check(call)
    out, lse = attend(call, name)
    return (out, lse, out.new_empty(0)) if call.return_lse else out


def _refuse(softcap: float, alibi_slopes: Any, dropout_p: float = 0.0, return_attn_probs: bool = False) -> None:
    if softcap > 0.0:
        raise NotImplementedError(
            f"softcap is {softcap}: capped scores are not served; keep flash-attn for this call, or FlexAttention"
        )
    if alibi_slopes is not None:
        raise NotImplementedError(
            "alibi_slopes are not served; keep flash-attn for this call, or give torch's SDPA the bias as its attn_mask"
        )
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}: must be at least 0 and below 1")
    if dropout_p and return_attn_probs:
        raise NotImplementedError(
            f"return_attn_probs with dropout_p {dropout_p} asks for the probabilities, which nothing here keeps"
        )


def _bounds(window_size: _Window, causal: bool, queries: int, keys: int) -> tuple[int | None, int | None]:
    """How far before and after its place a query sees; None where the bound hides nothing from any query."""
    # flash-attn's own way of giving bounds: -1 stands for none.
    pair = isinstance(window_size, tuple | list) and len(window_size) == 2
    if not pair or not all(isinstance(side, int) for side in window_size):
        raise ValueError(f"window_size is {window_size!r}: must be two ints (left, right), -1 for no bound")
    left, right = (None if side < 0 else side for side in window_size)
    right = 0 if causal else right
    # A bound beyond all keys or queries hides nothing; without it more calls have a form that the kernels serve.
    if left is not None and left >= keys - 1:
        left = None
    if right is not None and right >= queries - 1:
        right = None
    if queries == 1 and left is not None:
        right = 0  # no key is after the one query, so this window is causal
    return left, right


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of offsets are equal. Only the Hopper kernels need to know, so no other GPU is waited for."""
    if a is b:
        return True
    if torch.compiler.is_compiling():
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return (not devices.on_gpu(a.device) or hopper.available(a.device)) and torch.equal(a, b)


def _unpaged(
    k: torch.Tensor, v: torch.Tensor, offsets: torch.Tensor, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """k and v (total_k, kv_heads, dim), copied from pages (pages, page_size, kv_heads, dim)."""
    if k.dim() != 4 or k.shape != v.shape:
        raise ValueError(
            f"k {tuple(k.shape)}, v {tuple(v.shape)}: with block_table both must be (pages, page_size, kv_heads, dim)"
        )
    if offsets.dtype != torch.int32 or offsets.dim() != 1 or offsets.numel() < 2:
        raise ValueError(f"cu_seqlens_k {tuple(offsets.shape)} {offsets.dtype}: must be int32 (sequences + 1,)")
    if table.dim() != 2 or table.dtype != torch.int32 or table.shape[0] != offsets.numel() - 1:
        raise ValueError(
            f"block_table {tuple(table.shape)} {table.dtype}: must be int32 ({offsets.numel() - 1}, pages per sequence)"
        )
    check_one_device("k", k=k, v=v, cu_seqlens_k=offsets, block_table=table)
    # Entries of pages that no token is in may be anything, so only what is used is checked.
    lengths, size = offsets.diff().long(), k.shape[1]
    if bool((lengths < 0).any()) or int(lengths.max()) > table.shape[1] * size:
        raise ValueError(
            f"cu_seqlens_k has sequences of {int(lengths.min())} to {int(lengths.max())} keys; block_table holds "
            f"{table.shape[1]} pages of {size} for each"
        )
    # Of each token of all keys, (total_k,): its sequence, its place there, and the page and row of the cache it is in.
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=k.device), lengths)
    place = torch.arange(len(sequence), device=k.device) - offsets.long()[sequence]
    pages = table[sequence, place // max(size, 1)].long()
    if pages.numel() and (int(pages.min()) < 0 or int(pages.max()) >= k.shape[0]):
        raise ValueError(
            f"block_table has entries from {int(pages.min())} to {int(pages.max())}, but k has the pages 0 to "
            f"{k.shape[0] - 1}"
        )
    # The pages as rows of one long cache, of which only the tokens in use are copied.
    row = pages * size + place % max(size, 1)
    return k.flatten(0, 1)[row], v.flatten(0, 1)[row]
