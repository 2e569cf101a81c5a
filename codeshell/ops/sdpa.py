"""Attention that no kernel of codeshell serves: torch's scaled_dot_product_attention (SDPA), and the line that says so.

Positions are aligned bottom right: query i of `queries` stands at key `i + keys - queries`. It sees the keys from
`left` before that place to `right` behind it; None is no bound, so causal attention is (None, 0). A query that sees no
key gets zeros and a log-sum-exp of minus infinity.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from codeshell.ops import attention_cuda

Bound = int | None

_log = logging.getLogger("codeshell")
_said: set[str] = set()


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    left: Bound,
    right: Bound,
    scale: float,
    dropout_p: float,
    return_lse: bool,
    deterministic: bool = False,
) -> Any:
    """Attention of q (batch, queries, heads, dim) to k, v (batch, keys, kv_heads, dim).

    Returns:
        The output, shaped as `q`; with `return_lse` also fp32 (batch, heads, queries), which has no gradient.
    """
    queries, keys = q.shape[1], k.shape[1]
    # The first queries may see nothing. They are left out: SDPA gives NaN or zeros for them, as its backend likes.
    blind = queries if keys == 0 else 0 if right is None else min(queries, max(0, queries - keys - right))
    if blind:
        result = dense(q[:, blind:], k, v, left, right, scale, dropout_p, return_lse, deterministic)
        out, lse = result if return_lse else (result, None)
        out = F.pad(out, (0, 0, 0, 0, blind, 0))
        return out if lse is None else (out, F.pad(lse, (blind, 0), value=-torch.inf))
    left = None if left is None or left >= keys - 1 else left
    right = None if right is None or right >= queries - 1 else right
    if return_lse:
        return _written_out(q, k, v, _mask(queries, keys, left, right, q.device), scale)
    causal = left is None and right == 0 and queries == keys
    mask = None if causal else _mask(queries, keys, left, right, q.device)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if mask is not None:  # the backends that do not write out the scores then want every head its own keys
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    # On a GPU the gradients of all other backends are sums in any order.
    with sdpa_kernel(SDPBackend.MATH) if deterministic and q.is_cuda else nullcontext():
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=causal, scale=scale, enable_gqa=mask is None
        )
    return out.transpose(1, 2)


def packed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    left: Bound,
    right: Bound,
    scale: float,
    dropout_p: float,
    return_lse: bool,
    deterministic: bool = False,
) -> Any:
    """The same for sequences one after another, in one call of SDPA for all that have the same lengths.

    Waits for the device: the lengths decide what is called.

    Args:
        q: (total_q, heads, dim).
        k, v: (total_k, kv_heads, dim).
        query_offsets, key_offsets: (sequences + 1,), where each sequence begins and ends.

    Returns:
        The output, shaped as `q`; with `return_lse` also fp32 (heads, total_q).
    """
    starts, key_starts = query_offsets[:-1].long(), key_offsets[:-1].long()
    lengths = torch.stack((query_offsets.diff(), key_offsets.diff()), 1)
    outs, lses, rows = [], [], []
    for pair in sorted({(queries, keys) for queries, keys in lengths.tolist() if queries}):
        queries, keys = pair
        alike = (lengths == lengths.new_tensor(pair)).all(1)
        index = starts[alike].unsqueeze(1) + torch.arange(queries, device=q.device)
        key_index = key_starts[alike].unsqueeze(1) + torch.arange(keys, device=q.device)
        result = dense(q[index], k[key_index], v[key_index], left, right, scale, dropout_p, return_lse, deterministic)
        out, lse = result if return_lse else (result, None)
        outs.append(out.flatten(0, 1))
        rows.append(index.flatten())
        if lse is not None:
            lses.append(lse.transpose(0, 1).flatten(1))
    if not rows:
        return (q.clone(), q.new_empty(q.shape[1], 0, dtype=torch.float32)) if return_lse else q.clone()
    order = torch.argsort(torch.cat(rows))
    together = torch.cat(outs)[order]
    return (together, torch.cat(lses, dim=1)[:, order]) if return_lse else together


def say(operation: str, reason: str) -> None:
    """One line in the log of `codeshell` for each operation and reason, at its first call."""
    line = f"{operation}: PyTorch takes what no kernel of codeshell serves: {reason}"
    if line not in _said:
        _said.add(line)
        _log.warning("%s (said once; `codeshell info --kernels` lists what is served)", line)


def say_why(operation: str, q: torch.Tensor, k: torch.Tensor, scale: float, dropout_p: float) -> None:
    """`say` why no kernel serves a call of `attention`; nothing of a call without work, or in a graph being traced."""
    if not torch.compiler.is_compiling() and q.numel() and k.numel():
        say(operation, _reason(q, scale, dropout_p))


def _reason(q: torch.Tensor, scale: float, dropout_p: float) -> str:
    if dropout_p:
        return "dropout of the probabilities"
    dim, name = q.shape[-1], str(q.dtype).removeprefix("torch.")
    if q.device.type == "cpu":
        return f"{name} with heads of {dim} (on a CPU: float32 and bfloat16, heads of 16, 32, … 256)"
    if q.dtype not in attention_cuda.DTYPES:
        return f"{name} (on a GPU: bfloat16 and float16)"
    if dim not in attention_cuda.DIMS:
        return f"heads of {dim} (on a GPU: {' and '.join(map(str, attention_cuda.DIMS))})"
    if scale <= 0.0:
        return "a scale that is not above 0"
    return attention_cuda.missing(q.device) or "offsets on another device"


def _mask(queries: int, keys: int, left: Bound, right: Bound, device: torch.device) -> torch.Tensor | None:
    """(queries, keys), True where a query sees a key; None where all see all."""
    if left is None and right is None:
        return None
    place = torch.arange(queries, device=device).unsqueeze(1) + (keys - queries)
    key = torch.arange(keys, device=device).unsqueeze(0)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if left is not None:
        seen &= key >= place - left
    if right is not None:
        seen &= key <= place + right
    return seen


def _written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """SDPA does not give the log-sum-exp. Every query sees a key, or there are no queries."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // k.shape[2]
    queries, (keys, values) = (
        q.transpose(1, 2),
        (x.transpose(1, 2).repeat_interleave(group, 1).to(wide) for x in (k, v)),
    )
    scores = queries.to(wide) @ keys.transpose(2, 3) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    out = (torch.softmax(scores, dim=-1) @ values).to(q.dtype)
    return out.transpose(1, 2), torch.logsumexp(scores.detach(), dim=-1).to(torch.float32)
