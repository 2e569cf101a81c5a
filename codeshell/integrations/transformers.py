"""`attn_implementation="codeshell"` for the models of Hugging Face transformers.

Importing this module registers the attention and its mask function; any model that uses transformers' attention
interface can then be loaded with `attn_implementation="codeshell"`, or switched by
`model.set_attn_implementation("codeshell")`. `codeshell.patch` does that and replaces the rotary embedding too.

Calls that `codeshell.ops.attention` can express exactly (causal or full attention, sliding windows, padding in a
prefill, packed documents, a growing cache) go there. On a GPU, a static cache and a cache with padding on the left are
read row by row, without their mask. Another dense mask goes to transformers' own SDPA function. Soft-capped scores,
attention sinks and requests for the attention weights are written out in PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from codeshell import ops
from codeshell.integrations import ARCHITECTURES, packing
from codeshell.integrations.masks import Made, Pattern, made, mask
from codeshell.integrations.supported import AttentionInterface, AttentionMaskInterface, sdpa_attention_forward
from codeshell.ops import decode_cuda, decode_flash, devices
from codeshell.ops.decode_cuda import DecodeCall
from codeshell.ops.library import differentiable

__all__ = ["NAME", "attention", "mask"]

NAME = "codeshell"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The function that `AttentionInterface` calls in each layer.

    Args:
        module: the attention layer; its attribute `is_causal` counts if the argument of that name is None.
        query: (batch, heads, queries, dim).
        key, value: (batch, kv_heads, keys, dim), the cached positions first.
        attention_mask: what `mask` returned, or a dense mask of the caller's: (batch, 1 or heads, queries, keys), True
            where a query sees a key, or numbers to add to the scores. With a mask, nothing else decides who sees whom.
        dropout: dropout on the probabilities.
        scaling: factor on the scores.
        sliding_window: the window, which counts where there is no mask.
        softcap: bound of the scores: they become `softcap * tanh(scores / softcap)`.
        s_aux: attention sinks, (heads,): one more score per head, of a key that has no value.
        kwargs: `cu_seq_lens_q` and `max_length_q` describe packed documents where no mask says otherwise, and so do
            `position_ids` (codeshell.integrations.packing) where the mask is not the caller's own;
            `output_attentions=True` asks for the probabilities; the rest is passed to SDPA.

    Returns:
        (batch, queries, heads, dim), and (batch, heads, queries, keys) probabilities or None.
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if causal:
        attention_mask = _within_documents(module, query, keys, attention_mask, sliding_window, **kwargs)
    # Without a mask, a causal layer sees the pattern that its arguments describe. With fewer queries than keys only one
    # query is unambiguous: several may be at the end of the keys (a cache), or at their beginning (a static cache).
    if attention_mask is None and causal and queries in (1, keys):
        attention_mask = Pattern(sliding_window)
    pattern = attention_mask if isinstance(attention_mask, Pattern) else None
    if pattern is not None and pattern.cu_seqlens is None and queries == keys:
        pattern = _with_documents(pattern, **kwargs)
    # What no fused attention has.
    if softcap is not None or s_aux is not None or kwargs.get("output_attentions"):
        if attention_mask is None and causal:  # the prefill of a static cache: the first keys are the queries' own
            key, value = key[:, :, :queries], value[:, :, :queries]
            pattern = Pattern()
        if pattern is not None:
            attention_mask = pattern.dense(query.shape[0], queries, key.shape[2], query.device)
        return _written_out(query, key, value, attention_mask, dropout, scaling, softcap, s_aux)

    # What ops.attention can express. Packed sequences off the kernels wait for their lengths, which breaks a graph.
    plain = key.shape == value.shape and query.dtype == key.dtype == value.dtype
    plain = plain and kwargs.get("position_bias") is None and kwargs.get("cache") is None
    plain = plain and torch._C._get_tracing_state() is None  # torch.jit.trace cannot look into a kernel
    packed = pattern is not None and pattern.cu_seqlens is not None
    if plain and not (packed and torch.compiler.is_compiling()):
        if pattern is not None:
            return _by_pattern(query, key, value, pattern, scaling, dropout), None
        if attention_mask is None and not causal:
            q, k, v = (x.transpose(1, 2) for x in (query, key, value))
            return ops.attention(q, k, v, causal=False, scale=scaling, dropout_p=dropout), None
        if attention_mask is None and queries < keys and not torch.compiler.is_compiling():
            # SDPA's meaning, the prompt of a static cache: the first keys are the queries' own.
            key, value = key[:, :, :queries], value[:, :, :queries]
            return _by_pattern(query, key, value, Pattern(), scaling, dropout), None
        known = made(attention_mask)
        if known is not None and known.causal is not None and dropout == 0.0:
            over_cache = _masked_cache(query, key, value, attention_mask, known, scaling)
            if over_cache is not None:
                return over_cache, None
    # The rest is transformers' own SDPA, which takes a mask: the caller's, or the pattern as one.
    if pattern is not None:
        attention_mask = pattern.dense(query.shape[0], queries, keys, query.device)
    out: torch.Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=causal, **kwargs
    )[0]
    return out, None


def _within_documents(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: int,
    mask: Any,
    window: int | None,
    position_ids: Any = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> Any:
    """The mask, within the packed documents that `position_ids` tell of."""
    batch, _heads, queries, _dim = query.shape
    if position_ids is None and cu_seq_lens_q is None:
        return mask
    # Fewer queries than keys and no mask may be something else (attention to an encoder's keys) in a model of a type
    # that we do not know.
    served = getattr(getattr(module, "config", None), "model_type", None) in ARCHITECTURES
    if mask is None and not served and queries != keys:
        return mask
    if torch.compiler.is_compiling():
        # A graph cannot depend on the documents. Without a cache or with padding, the mask is not None here.
        if mask is None and position_ids is not None and 1 < queries == position_ids.shape[-1]:
            torch._assert_async((position_ids.diff(dim=-1) == 1).all(), PACKED_AND_COMPILED)
        return mask
    if mask is None and queries in (1, keys):
        mask = Pattern(window)
    known = mask if isinstance(mask, Pattern) else made(mask)
    if known is None and mask is not None:  # a mask of the caller's own
        return mask
    if isinstance(mask, Pattern) and mask.cu_seqlens is not None and mask.rows is None:
        return mask  # transformers has looked at the positions
    documents: packing.Documents | None
    if cu_seq_lens_q is not None:
        if packing.place_of(known, queries, keys) > 0:
            raise ValueError("cu_seq_lens_q after a cache: packed documents must come with an empty cache or none")
        if isinstance(mask, Pattern) and mask.cu_seqlens is None:  # `attention` takes the offsets as they are
            return mask
        documents = packing.from_offsets(cu_seq_lens_q, batch, queries)
    else:
        documents = packing.find(position_ids, batch, queries, keys, known)
    if documents is None:
        return mask
    if isinstance(mask, Pattern):
        if queries == keys:
            return mask.within(documents.number, batch)
        mask = mask.dense(batch, queries, keys, query.device)
    elif mask is None:  # the beginning of a static cache, whose first keys are the queries' own
        mask = F.pad(Pattern(window).dense(batch, queries, queries, query.device), (0, keys - queries))
    return documents.within(mask)


PACKED_AND_COMPILED = (
    "packed position_ids with a cache inside torch.compile would attend to one another; pass use_cache=False"
)


def _with_documents(
    pattern: Pattern,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> Pattern:
    """The pattern within documents, if the caller gave their offsets to the model."""
    if cu_seq_lens_q is None:
        return pattern
    offsets, longest = packing.of_caller(cu_seq_lens_q, cu_seq_lens_k, max_length_q)
    return Pattern(pattern.window, offsets, longest)


def _by_pattern(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: Pattern,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    # (batch, heads, seq, dim) to (batch, seq, heads, dim). New tokens after a cache go to the kernel for decoding, and
    # one query elsewhere to a call that repeats nothing.
    if pattern.cu_seqlens is None and dropout == 0.0 and query.shape[2] < key.shape[2]:
        decoded = _decoded(query, key, value, pattern.window, scale)
        if decoded is not None:
            return decoded
    if query.shape[2] == 1 and pattern.cu_seqlens is None:
        return _one_query(query, key, value, pattern.window, scale, dropout)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if pattern.cu_seqlens is None:
        return ops.attention(q, k, v, scale=scale, window=pattern.window, dropout_p=dropout)
    # Packed: the batch becomes (total, heads, dim), and the padding's tokens are left out.
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    shape, rows = q.shape, pattern.rows
    if rows is not None:
        q, k, v = (x.index_select(0, rows) for x in (q, k, v))
    out = ops.attention(
        q,
        k,
        v,
        scale=scale,
        window=pattern.window,
        cu_seqlens=pattern.cu_seqlens,
        max_seqlen=pattern.max_seqlen,
        dropout_p=dropout,
    )
    if rows is not None:  # back into the batch, where the padding's rows are zeros
        out = out.new_zeros(shape).index_copy(0, rows, out)
    return out.view(query.shape[0], query.shape[2], *out.shape[1:])


def _decoded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, scale: float | None
) -> torch.Tensor | None:
    """Attention of a few tokens after a cache, by the kernel for that; None where it does not serve them."""
    if torch.compiler.is_compiling() or differentiable(query, key, value):
        return None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # transformers hands over cache and new tokens as one tensor, so nothing is appended: all keys are in the cache.
    lengths = torch.full((q.shape[0],), k.shape[1], dtype=torch.int32, device=q.device)
    if not decode_cuda.serves(DecodeCall(q, k, v, lengths, scale=scale, window=window or 0)):
        return None
    return ops.decode_attention(q, k, v, cache_seqlens=lengths, scale=scale, window=window)


def _masked_cache(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, known: Made, scale: float | None
) -> torch.Tensor | None:
    """Attention over a static cache, or over a cache with padding on the left, without the mask that says so: each row
    is its keys from `begin` to its last query. None where only a mask serves: on a CPU, and with gradients."""
    if known.causal is None or torch.compiler.is_compiling() or differentiable(query, key, value):
        return None
    if not devices.on_gpu(query.device) or not query.numel():
        return None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    # The keys up to the last query. The layers share a mask, and the first of them notes their number at it.
    lengths = getattr(mask, _LENGTHS, None)
    if lengths is None:
        end = known.first + q.shape[1]
        if isinstance(end, torch.Tensor):
            lengths = end.to(q.device, torch.int32).expand(q.shape[0]).contiguous()
        else:  # filled on the device: a copy from the host would wait
            lengths = torch.full((q.shape[0],), end, dtype=torch.int32, device=q.device)
        setattr(mask, _LENGTHS, lengths)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    (window,) = known.causal
    call = DecodeCall(q, k, v, lengths, scale=scale, window=window or 0)
    if known.begin is None and decode_cuda.serves(call):
        return ops.decode_attention(q, k, v, cache_seqlens=lengths, scale=scale, window=window)
    if decode_flash.refuses(call) is not None:
        return None
    return decode_flash.attend(q, call, begin=known.begin, lse=False)[0]


_LENGTHS = "codeshell_lengths"  # on a dense mask: int32 (batch,), the keys up to the last query


def _one_query(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """A decoding step: the heads of a group become queries of their key/value head, so that nothing is repeated."""
    # The one query is the last token, so its window is the end of the keys and there is no mask.
    if window is not None:
        key, value = key[:, :, -window:], value[:, :, -window:]
    batch, heads, _, dim = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], dim)
    out = F.scaled_dot_product_attention(grouped, key, value, dropout_p=dropout, scale=scale)
    return out.reshape(batch, 1, heads, dim)


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output (batch, queries, heads, dim), probabilities (batch, heads, queries, keys)), step by step in PyTorch."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None and mask.dtype == torch.bool:
        # Not minus infinity: a padding token that sees nothing would become NaN, and 0 times NaN would spread that.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    # A sink takes part in the softmax as one more key, and its probability is then cut off.
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat((scores, column), dim=-1)
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    probability = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)[..., : key.shape[2]]
    return (F.dropout(probability, dropout) @ value).transpose(1, 2).contiguous(), probability


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
