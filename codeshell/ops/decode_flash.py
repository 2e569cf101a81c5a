"""Decoding attention on GPUs without a kernel of ours: torch's FlashAttention 2 reads the cache where it lies.

torch has that kernel for GPUs of compute capability 8.0 and newer (`aten::_flash_attention_forward`). Its form for
sequences of different lengths takes two numbers for each sequence, both on the device: the token at which its keys
begin, and how many they are. That is all that decoding needs:

    a row of a contiguous cache    begins at row * (tokens from one row to the next)
    a page of a paged cache        begins at entry * (tokens from one page to the next). Each page is a sequence of its
                                   own, of any size, and their results are added up by their log-sum-exps
    a causal query, a window       each query is a sequence of its own with its own first and last key: no mask

So nothing of a cache is gathered, repeated or widened, no length comes to the host, and nothing beyond it is read. One
query a sequence is also the form in which the kernel reads the keys of a group of heads once, and splits long sequences
over the multiprocessors. Many queries in a row are one sequence with the kernel's own causal flag instead.

The kernel's page tables are not used: they take pages of 256 tokens only, and in the versions that we have read a table
and several splits write all rows of a batch into the first one (docs/decisions.md).

Shape suffixes in this file:

    B batch   Q queries of a row   H query heads   K key/value heads   D head dimension
    P pieces of a row: its pages, or equal parts of a contiguous row   N sequences of the call: P * B * Q
    T tokens of a cache: from its first to its last, those of other rows and gaps included
"""
# ruff: noqa: N803, N806  (the suffixes)

from __future__ import annotations

import torch

from codeshell.ops import devices, flash, hopper
from codeshell.ops.decode_cuda import MOST_QUERIES, DecodeCall
from codeshell.ops.library import say

SHORTEST_PIECE = 256
"""Tokens of a contiguous row that a piece has at least: shorter ones cost more in the sum than they gain."""


def refuses(call: DecodeCall) -> str | None:
    """Why torch's kernel does not take a call on a GPU, as a clause; None if it does."""
    # The device and torch, then the numbers, then where the caches lie.
    q, caches = call.q, (call.k_cache, call.v_cache)
    lacking = flash.missing_for(q.device, q.dtype, q.shape[-1], False)
    if lacking is not None:
        return lacking
    if not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        return "the user turned flash attention off (torch.backends.cuda, or torch.nn.attention.sdpa_kernel)"
    if flash.implementation() != "FA2":
        return f"{flash.implementation()} is activated in torch (it may read beyond the keys of a row)"
    if q.shape[-1] % 8:
        return f"heads of {q.shape[-1]} (it takes multiples of 8)"
    if call.scale <= 0.0:
        return "a scale that is not above 0"
    if not call.k_cache.numel() or (call.block_table is not None and not call.block_table.numel()):
        return "a cache without room"
    if not all(hopper.walkable(cache) for cache in caches):
        return "a cache whose address or strides are not multiples of 16 bytes"
    steps = {_step(cache) for cache in caches}
    if len(steps) > 1 or None in steps:
        return "a cache whose rows or pages are no whole number of tokens apart, or other numbers for keys and values"
    if _tokens(call.k_cache) >= 2**31:
        return "a cache of 2^31 tokens or more"
    return None


def attend(
    q: torch.Tensor, call: DecodeCall, *, begin: torch.Tensor | None = None, lse: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, Q, H, D) and LSE (B, H, Q) for a call that is not refused; its new tokens are in the caches already.

    Args:
        q: (B, Q, H, D), the call's queries, rotated if the call has angles; not empty.
        begin: int32 (B,), the first key of each row that counts, for a contiguous cache; None is the first of all.
        lse: off leaves the LSE without its last corrections, which nobody reads then.
    """
    batch, queries, heads, _ = q.shape
    group = heads // call.k_cache.shape[2]
    # Keys that each row has. A length that cannot be is brought into the cache, and its row becomes NaN at the end.
    end_B = call.cache_seqlens + call.new_tokens if call.new_tokens else call.cache_seqlens
    keys_B = end_B.clamp(call.new_tokens, call.capacity)
    wrong_B = keys_B != end_B

    # A row of a cache is one piece or several, a page is a piece. They begin at `first_PB` and hold `length` tokens.
    k_cache, v_cache = call.k_cache, call.v_cache
    few = queries <= MOST_QUERIES and (group > 1 or queries == 1)
    length = _piece(call) if few else call.capacity
    paged = call.block_table is not None
    if call.block_table is not None:
        pages, size = k_cache.shape[:2]
        # The table may hold anything after a row's last page. What a row does use must be a page.
        table_PB = call.block_table.t()
        known_PB = table_PB.clamp(0, pages - 1)
        used_PB = _places(0, table_PB.shape[0] * size, size, q.device).unsqueeze(1) < keys_B
        wrong_B = wrong_B | ((known_PB != table_PB) & used_PB).any(0)
        # A result for each query and page must be small beside the page, or else the pages are copied into rows first.
        if queries <= MOST_QUERIES and size >= smallest_page(queries, group):
            few, length = True, size
        else:
            say("codeshell.ops.decode_attention", _why_copied(size, queries, group))
            # `index_select` gives contiguous copies; what is indexed by [] may have its dimensions in another order.
            order = known_PB.t().flatten()
            k_cache, v_cache = (
                cache.index_select(0, order).view(batch, call.capacity, *cache.shape[2:])
                for cache in (k_cache, v_cache)
            )
            paged, length = False, call.capacity
    step = _step(k_cache)
    assert step is not None
    if paged:
        first_PB = known_PB * step
    else:
        # Rows are `step` tokens apart, their pieces `length`.
        first_PB = _places(0, batch * step, step, q.device).unsqueeze(0)
        if begin is not None:
            first_PB, keys_B = first_PB + begin, (keys_B - begin).clamp(min=0)
        if length < call.capacity:
            first_PB = first_PB + _places(0, call.capacity, length, q.device).unsqueeze(1)

    k_TKD, v_TKD = _flat(k_cache, step), _flat(v_cache, step)
    if few:
        out, lse_BHQ = _each_query(q, k_TKD, v_TKD, call, keys_B, first_PB, length)
    else:
        out, lse_BHQ = _rows(q, k_TKD, v_TKD, call, keys_B, first_PB[0])
    out = out.masked_fill_(wrong_B.view(-1, 1, 1, 1), torch.nan)
    return out, _corrected(lse_BHQ, call, queries, keys_B, wrong_B) if lse else lse_BHQ


def smallest_page(queries: int, group: int) -> int:
    """Tokens that a page needs to be read in place: results of queries and pages are then at most half of the keys."""
    return 2 * queries * group


def _why_copied(size: int, queries: int, group: int) -> str:
    if queries > MOST_QUERIES:
        return f"{queries} new tokens over pages, which are copied into rows (up to {MOST_QUERIES} need no copy)"
    least = smallest_page(queries, group)
    return (
        f"pages of {size} tokens, which are copied into rows (at {queries} new tokens and {group} query heads a "
        f"key/value head, pages of {least} tokens and more are read in place)"
    )


def _each_query(
    q: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    call: DecodeCall,
    keys_B: torch.Tensor,
    first_PB: torch.Tensor,
    length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query over each piece is a sequence: output (B, Q, H, D), LSE (B, H, Q) with +inf where no key is seen."""
    batch, queries, heads, dim = q.shape
    pieces = first_PB.shape[0]
    # The keys that each query sees, from `low` to `high`.
    high_BQ = _seen_up_to(keys_B, call, queries)
    low_BQ = high_BQ - call.window if call.window else None
    # Those of them that lie in each piece: their number, and where they begin.
    start_PBQ, count_PBQ = first_PB.unsqueeze(2), high_BQ.unsqueeze(0)
    if pieces > 1 or low_BQ is not None:
        at_P11 = _places(0, pieces * length, length, q.device).view(-1, 1, 1)
        count_PBQ = (count_PBQ - at_P11).clamp(max=length)
        if low_BQ is not None:
            skipped_PBQ = (low_BQ - at_P11).clamp(0, length)
            start_PBQ, count_PBQ = start_PBQ + skipped_PBQ, count_PBQ - skipped_PBQ
    count_PBQ = count_PBQ.clamp(min=0).expand(pieces, batch, queries)
    count_N = count_PBQ.flatten()
    start_N = start_PBQ.expand(pieces, batch, queries).flatten()
    # One call, but for a cache of very many pages.
    q_NHD = q.expand(pieces, *q.shape).reshape(-1, heads, dim)
    most = min(length, call.window or length)
    parts = [
        _launch(q_NHD[part], k_TKD, v_TKD, start_N[part], count_N[part], 1, most, call)
        for part in (slice(i, i + flash.MAX_GRID) for i in range(0, count_N.numel(), flash.MAX_GRID))
    ]
    out_NHD, lse_HN = parts[0] if len(parts) == 1 else (torch.cat(x, i) for i, x in enumerate(zip(*parts, strict=True)))
    lse_HPBQ = lse_HN.view(heads, pieces, batch, queries)
    if pieces == 1:
        return out_NHD.view(q.shape), lse_HPBQ.squeeze(1).transpose(0, 1)
    # The sum over the pieces, in fp32, each with its share of the exponentials. A piece without a key has zeros, and an
    # LSE of +inf that stands for -inf.
    lse_HPBQ = lse_HPBQ.masked_fill((count_PBQ == 0).unsqueeze(0), -torch.inf)
    total_HBQ = torch.logsumexp(lse_HPBQ, 1)
    blind_HBQ = total_HBQ == -torch.inf
    share_HPBQ = (lse_HPBQ - total_HBQ.masked_fill(blind_HBQ, 0.0).unsqueeze(1)).exp()
    share_x1P = share_HPBQ.permute(2, 3, 0, 1).reshape(-1, 1, pieces)
    out_xPD = out_NHD.view(pieces, -1, dim).float().transpose(0, 1)
    out = torch.bmm(share_x1P, out_xPD).view(q.shape).to(q.dtype)
    return out, total_HBQ.masked_fill(blind_HBQ, torch.inf).transpose(0, 1)


def _rows(
    q: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    call: DecodeCall,
    keys_B: torch.Tensor,
    first_B: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row is a sequence, with the kernel's own causal flag and window; results as `_each_query` has them."""
    batch, queries, heads, _ = q.shape
    out_NHD, lse_HN = _launch(q.flatten(0, 1), k_TKD, v_TKD, first_B, keys_B, queries, call.capacity, call)
    return out_NHD.view(q.shape), lse_HN.view(heads, batch, queries).transpose(0, 1)


def _launch(
    q_NHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    start: torch.Tensor,
    count: torch.Tensor,
    queries: int,
    most: int,
    call: DecodeCall,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One launch for sequences of `queries` queries each: output (N, H, D), LSE (H, N).

    Args:
        start, count: int32 (sequences,): where the keys of a sequence begin among the T, and how many they are.
        most: no sequence has more keys; decides in how many parts the kernel splits them.
    """
    # The kernel loads 16 bytes at a time. Of the offsets of keys it reads each sequence's own, never the last one.
    q_NHD = hopper.as_walkable(q_NHD)
    starts = torch.cat((start, start[-1:]))
    offsets = _places(0, q_NHD.shape[0] + 1, queries, q_NHD.device)
    # One query of a sequence sees all the keys that it was given; more of them get the flag or the window.
    causal = call.causal and queries > 1
    left = call.window - 1 if causal and call.window else None
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(q_NHD, k_TKD, v_TKD, offsets, starts, queries, most, 0.0, causal, False),
        scale=call.scale,
        window_size_left=left,
        window_size_right=0 if causal else None,
        seqused_k=count.contiguous(),
    )
    return out, lse


def _corrected(
    lse_BHQ: torch.Tensor, call: DecodeCall, queries: int, keys_B: torch.Tensor, wrong_B: torch.Tensor
) -> torch.Tensor:
    """The LSE as we have it: -inf where a query sees no key, NaN for NaN scores and for rows that cannot be."""
    # The kernel has +inf for all of these. How many keys a query sees is known from the lengths.
    high_BQ = _seen_up_to(keys_B, call, queries)
    lse_BHQ = lse_BHQ.masked_fill((lse_BHQ == torch.inf) | wrong_B.view(-1, 1, 1), torch.nan)
    return lse_BHQ.masked_fill((high_BQ <= 0).unsqueeze(1) & ~wrong_B.view(-1, 1, 1), -torch.inf)


def _seen_up_to(keys_B: torch.Tensor, call: DecodeCall, queries: int) -> torch.Tensor:
    """The end of the keys that each query sees, (B, Q), or (B, 1) where it is the same for all of a row. It is 0 or
    below where a query comes before all keys. The last query is the row's last token."""
    high_B1 = keys_B.unsqueeze(1)
    if not call.causal or queries == 1:
        return high_B1
    return high_B1 + _places(1 - queries, 1, 1, keys_B.device)


def _piece(call: DecodeCall) -> int:
    """Tokens of a piece of a contiguous row."""
    # With groups of heads the kernel splits the keys by itself, and otherwise never.
    batch, _, heads, _ = call.q.shape
    if heads > call.k_cache.shape[2]:
        return call.capacity
    # Two blocks for each multiprocessor are enough to keep its memory busy.
    wanted = 2 * devices.facts(call.q.device).multiprocessors // (batch * heads)
    pieces = min(wanted, call.capacity // SHORTEST_PIECE)
    if pieces < 2:
        return call.capacity
    # Whole tiles of keys, which are 64 or 128 tokens high.
    return -(-call.capacity // (pieces * 128)) * 128


def _places(first: int, end: int, step: int, device: torch.device) -> torch.Tensor:
    """int32 numbers from `first` to before `end`."""
    return torch.arange(first, end, step, dtype=torch.int32, device=device)


def _step(cache: torch.Tensor) -> int | None:
    """Tokens from one row or page to the next, if that is a whole number above 0."""
    rows, tokens, *_ = cache.shape
    if rows == 1:
        return tokens
    if tokens == 1:  # a stride along one token means nothing
        return 1
    step, rest = divmod(cache.stride(0), cache.stride(1))
    return step if step > 0 and not rest else None


def _tokens(cache: torch.Tensor) -> int:
    """Tokens from the first of a cache to the last."""
    return (cache.shape[0] - 1) * (_step(cache) or 0) + cache.shape[1]


def _flat(cache: torch.Tensor, step: int) -> torch.Tensor:
    """A view (T, K, D) of a cache, from its first token to its last. Layouts of (rows, heads, tokens, dim) have their
    heads there, so tokens of the view may share memory; each is where it is in the cache."""
    token = cache.stride(0) if cache.shape[1] == 1 else cache.stride(1)
    return cache.as_strided((_tokens(cache), *cache.shape[2:]), (token, cache.stride(2), 1))
