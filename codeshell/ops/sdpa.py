"""Attention that no kernel of codeshell serves: torch's scaled_dot_product_attention (SDPA), and the line that says so.

On a GPU, torch's FlashAttention (`flash`) takes what SDPA would need a mask, all scores in memory, or a call for each
length for. A query that sees no key gets zeros and a log-sum-exp of minus infinity. Shape suffixes in this file:

    B batch   Q queries of a sequence   S keys of a sequence   H query heads   K key/value heads   D head dimension
    T tokens of all packed sequences    N sequences
"""
# ruff: noqa: N803, N806  (the suffixes)

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from codeshell.ops import devices, flash, hopper
from codeshell.ops.attention_call import AttentionCall, Bound, one_sided
from codeshell.ops.library import address, direct, plain, say, transformed

_Result = tuple[torch.Tensor, torch.Tensor | None]


def attend(call: AttentionCall) -> _Result:
    """The output, shaped as `call.q`; and if the call asks for it the fp32 log-sum-exp, which has no gradient."""
    # torch's kernels for the CPU would read address 0.
    if call.q.is_cpu and direct(*call[:3]):
        for x in call[:3]:
            address(x)
    return dense(call) if call.cu_seqlens is None else packed(call)


def dense(call: AttentionCall) -> _Result:
    """Attention of q (B, Q, H, D) to k, v (B, S, K, D); the LSE is (B, H, Q)."""
    q, k, v = call[:3]
    queries, keys = q.shape[1], k.shape[1]
    call = _within(call, queries, keys)
    left, right = call.left, call.right
    # SDPA's own causal flag is aligned top left, so it is right only for as many keys as queries.
    causal = left is None and right == 0 and bool(queries == keys)  # sizes are tensors in torch.jit.trace
    # SDPA has neither the LSE nor a window without a mask; and of its fast backends none is deterministic unless the
    # whole process is.
    flagged = causal or (left is None and right is None)
    if (call.return_lse or call.deterministic or not flagged) and flash.missing(call) is None:
        return flash.attend(call)
    # The first queries may see nothing. They are left out here, because SDPA gives NaN or zeros for them, depending on
    # its backend.
    blind = queries if keys == 0 else 0 if right is None else min(queries, max(0, queries - keys - right))
    if blind:
        out, lse = dense(call._replace(q=q[:, blind:]))
        out = F.pad(out, (0, 0, 0, 0, blind, 0))
        return out, None if lse is None else F.pad(lse, (blind, 0), value=-torch.inf)
    if call.return_lse:
        return _written_out(call, _mask(queries, keys, left, right, q.device))
    mask_QS = None if causal else _mask(queries, keys, left, right, q.device)
    q_BHQD, k_BKSD, v_BKSD = (x.transpose(1, 2) for x in (q, k, v))
    if mask_QS is not None:
        # With a mask, the backends that do not write the scores out need keys and values for every query head.
        k_BKSD, v_BKSD = (x.repeat_interleave(q.shape[2] // k.shape[2], 1) for x in (k_BKSD, v_BKSD))
    # On a GPU, all backends but this one sum gradients in any order. And it alone has all derivatives: forward ones,
    # and gradients of gradients. It consists of operations that every subclass of tensors has, too. Of the others, some
    # multiply a hidden key's minus infinity by the scale, which must be above 0 then.
    summed_in_order = call.deterministic and devices.on_gpu(q.device)
    in_steps = summed_in_order or transformed() or not plain(q, k, v) or call.scale <= 0.0
    with sdpa_kernel(SDPBackend.MATH) if in_steps else nullcontext():
        out_BHQD = F.scaled_dot_product_attention(
            *(q_BHQD, k_BKSD, v_BKSD),
            attn_mask=mask_QS,
            dropout_p=call.dropout_p,
            is_causal=causal,
            scale=call.scale,
            enable_gqa=mask_QS is None,
        )
    return out_BHQD.transpose(1, 2), None


def packed(call: AttentionCall) -> _Result:
    """Sequences one after another: q (Tq, H, D), k and v (Tk, K, D); the LSE is (H, Tq).

    On a GPU it is one call of torch's FlashAttention. What that does not serve is one call of SDPA for all sequences
    that have the same two lengths, which waits for the device, because the lengths decide what is called.
    """
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            "attention with cu_seqlens: torch.jit.trace would keep these lengths for all later calls; trace padded "
            "batches, or use torch.compile"
        )
    q, k, v, offsets, *_ = call
    key_offsets = offsets if call.cu_seqlens_k is None else call.cu_seqlens_k
    assert offsets is not None and key_offsets is not None
    if devices.on_gpu(q.device):
        # Without a token, or without a key, there is nothing to wait for either.
        if not q.numel() or not k.shape[0]:
            return _without_keys(call)
        longest_keys = call.max_seqlen if call.cu_seqlens_k is None else call.max_seqlen_k or k.shape[0]
        call = _within(call, call.max_seqlen, longest_keys)
        if flash.missing(call) is None:
            return flash.attend(call)
    starts_N, key_starts_N = offsets[:-1].long(), key_offsets[:-1].long()
    lengths_N2 = torch.stack((offsets.diff(), key_offsets.diff()), 1)
    outs, lses, rows = [], [], []
    for pair in sorted({(queries, keys) for queries, keys in lengths_N2.tolist() if queries}):
        queries, keys = pair
        # Gather the sequences of these lengths into a dense batch of B of them.
        alike = (lengths_N2 == lengths_N2.new_tensor(pair)).all(1)
        index_BQ = starts_N[alike].unsqueeze(1) + torch.arange(queries, device=q.device)
        index_BS = key_starts_N[alike].unsqueeze(1) + torch.arange(keys, device=q.device)
        part = call._replace(
            q=q[index_BQ], k=k[index_BS], v=v[index_BS], cu_seqlens=None, max_seqlen=0, cu_seqlens_k=None
        )
        out_BQHD, lse_BHQ = dense(part)
        outs.append(out_BQHD.flatten(0, 1))
        rows.append(index_BQ.flatten())
        if lse_BHQ is not None:
            lses.append(lse_BHQ.transpose(0, 1).flatten(1))
    if not rows:
        return q.clone(), q.new_empty(q.shape[1], 0, dtype=torch.float32) if call.return_lse else None
    # `rows` says where each output row belongs; sorting by it puts the tokens back into their order.
    order_T = torch.argsort(torch.cat(rows))
    return torch.cat(outs)[order_T], torch.cat(lses, dim=1)[:, order_T] if lses else None


def _within(call: AttentionCall, queries: int, keys: int) -> AttentionCall:
    """The call without bounds that end no query's sight, for sequences of at most so many queries and keys."""
    left, right = call.left, call.right
    left = None if left is None or left >= keys - 1 else left
    right = None if right is None or right >= queries - 1 else right
    return call if (left, right) == (call.left, call.right) else call._replace(left=left, right=right)


def _without_keys(call: AttentionCall) -> _Result:
    """Zeros for packed queries that have no keys at all, and a graph to all inputs, whose gradients are zeros too."""
    q, k, v = call[:3]
    out = q.masked_fill(q.new_ones((), dtype=torch.bool), 0.0) + (k[:0].sum() + v[:0].sum())
    return out, q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=torch.float32) if call.return_lse else None


def say_why(operation: str, call: AttentionCall) -> None:
    """`say` why no kernel serves a call; nothing for a call without work, or in a graph that is being traced."""
    if torch.compiler.is_compiling() or transformed() or not call.q.numel() or not call.k.numel():
        return
    say(operation, _reason(call))
    slow = flash.missing(call) if call.cu_seqlens is not None and devices.on_gpu(call.q.device) else None
    if slow is not None:
        say(operation, f"packed sequences, by a call for each length, which waits for the GPU (FlashAttention: {slow})")


def _reason(call: AttentionCall) -> str:
    """The first condition of the kernels that the call does not meet."""
    q = call.q
    if call.cu_seqlens_k is not None:
        return "cu_seqlens_k other than cu_seqlens_q"
    if not one_sided(call.left, call.right):
        return "a window_size that is not causal"
    if call.dropout_p:
        return "dropout of the probabilities"
    dim, name = q.shape[-1], str(q.dtype).removeprefix("torch.")
    if not devices.on_gpu(q.device):
        if not direct(*call[:4]):
            return "tensors of a subclass, or a mode or trace around the call"
        return f"{name} with heads of {dim} (on a CPU: float32 and bfloat16, heads of 16, 32, … 256)"
    if q.dtype not in hopper.DTYPES:
        return f"{name} (on a GPU: bfloat16 and float16)"
    if dim not in hopper.DIMS:
        return f"heads of {dim} (on a GPU: {' and '.join(map(str, hopper.DIMS))})"
    if call.scale <= 0.0:
        return "a scale that is not above 0"
    return hopper.missing(q.device) or "a call that the kernels turned down"


def _mask(queries: int, keys: int, left: Bound, right: Bound, device: torch.device) -> torch.Tensor | None:
    """(Q, S), True where a query sees a key; None where all see all."""
    if left is None and right is None:
        return None
    # Each query's place among the keys, aligned bottom right.
    place_Q1 = torch.arange(queries, device=device).unsqueeze(1) + (keys - queries)
    key_1S = torch.arange(keys, device=device).unsqueeze(0)
    seen_QS = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if left is not None:
        seen_QS = seen_QS & (key_1S >= place_Q1 - left)
    if right is not None:
        seen_QS = seen_QS & (key_1S <= place_Q1 + right)
    return seen_QS


def _written_out(call: AttentionCall, mask_QS: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention step by step, because SDPA does not give the log-sum-exp. Every query sees a key, or there is none."""
    q, k, v = call[:3]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // k.shape[2]
    q_BHQD = q.transpose(1, 2).to(wide)
    k_BHSD, v_BHSD = (x.transpose(1, 2).repeat_interleave(group, 1).to(wide) for x in (k, v))
    scores_BHQS = q_BHQD @ k_BHSD.transpose(2, 3) * call.scale
    if mask_QS is not None:
        scores_BHQS = scores_BHQS.masked_fill(~mask_QS, -torch.inf)
    out_BHQD = (torch.softmax(scores_BHQS, dim=-1) @ v_BHSD).to(q.dtype)
    return out_BHQD.transpose(1, 2), torch.logsumexp(scores_BHQS.detach(), dim=-1).to(torch.float32)
