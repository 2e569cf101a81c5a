"""Cases of decode_attention, with a check of every element against fp64: for the CPU's PyTorch, the kernel's host
execution and GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from codeshell import ops


@dataclass(frozen=True)
class Case:
    name: str
    lengths: tuple[int, ...]
    """Tokens in the cache before the call, a row."""
    queries: int = 1
    heads: int = 4
    kv_heads: int = 1
    dim: int = 64
    capacity: int = 0
    """0 is the longest row's need, to whole pages."""
    page: int = 0
    """0 is contiguous."""
    new: int = 0
    rotary: int = 0
    """Dimensions that turn."""
    interleaved: bool = False
    causal: bool = True
    window: int | None = None
    scale: float | None = None

    @property
    def room(self) -> int:
        need = self.capacity or max(1, *self.lengths) + self.new
        return -(-need // self.page) * self.page if self.page else need


CASES = [
    Case("one_key", (1,)),
    Case("two_rows", (40, 100), queries=1, heads=4, kv_heads=2, capacity=130),
    Case("splits", (700, 333), heads=8, kv_heads=2, dim=128),
    Case("ragged", (1, 63, 64, 65, 129), queries=1, capacity=200),
    Case("empty_rows", (0, 5, 0), queries=2, capacity=70),
    Case("group_1", (300,), heads=3, kv_heads=3),
    Case("group_8", (200, 90), heads=8, kv_heads=1, dim=128),
    Case("group_16", (260,), heads=16, kv_heads=1),
    Case("tokens_4", (200, 3), queries=4, heads=8, kv_heads=2),
    Case("tokens_16", (300, 90), queries=16, heads=4, kv_heads=1, dim=128),
    Case("two_row_tiles", (200, 130), queries=16, heads=8, kv_heads=1),
    Case("four_row_tiles", (330,), queries=16, heads=16, kv_heads=1),
    Case("not_causal", (150, 70), queries=3, causal=False),
    Case("more_queries_than_keys", (3, 1, 40), queries=6, heads=2),
    Case("window", (400, 30), queries=2, window=100),
    Case("window_1", (130, 64), queries=3, window=1),
    Case("scale", (90,), scale=0.5),
    Case("paged_16", (100, 250, 17), page=16, heads=8, kv_heads=2),
    Case("paged_48", (300, 5), page=48, dim=128),
    Case("paged_64", (64, 190, 0), page=64, queries=4),
    Case("paged_128", (700, 129), page=128, window=300),
    Case("append", (0, 63, 64, 200), new=1, capacity=201),
    Case("append_many", (10, 120), new=70, queries=2),
    Case("append_rotary", (0, 61, 127), new=4, queries=4, heads=8, kv_heads=2, rotary=64),
    Case("append_partial_interleaved", (30, 126), new=3, queries=3, dim=128, rotary=32, interleaved=True),
    Case("append_paged", (100, 15, 16, 31), new=2, queries=2, page=16, heads=4, kv_heads=2, dim=128, rotary=128),
    Case("append_paged_16_tokens", (250, 0), new=16, queries=16, heads=8, page=32, rotary=64),
    Case("append_full_rotary_one_token", (90, 128), new=1, heads=16, kv_heads=2, dim=128, rotary=128, page=64),
    Case("append_window", (300, 60), new=2, queries=2, window=70),
]


@dataclass
class Inputs:
    q: torch.Tensor
    caches: list[torch.Tensor]
    keywords: dict[str, Any]
    keys: list[torch.Tensor]
    """A row's keys before the call, (length, kv_heads, dim)."""
    values: list[torch.Tensor]


def inputs(case: Case, device: str, dtype: torch.dtype) -> Inputs:
    """Random values with a few large scores, and NaN wherever nothing may be read: beyond the lengths and in pages of
    nobody. The table's entries after the last page name no page at all."""
    generator = torch.Generator().manual_seed(len(case.name) + case.queries)

    def random(*shape: int) -> torch.Tensor:
        x = torch.randn(*shape[:-1], shape[-1] + 8, generator=generator)
        x[:, ::17] *= 3
        return x.to(device, dtype)[..., : shape[-1]]

    batch, width = len(case.lengths), (case.kv_heads, case.dim)
    q = random(batch, case.queries, case.heads, case.dim)
    held = [[random(1, max(1, n), *width)[0, :n] for n in case.lengths] for _ in range(2)]
    keywords: dict[str, Any] = {
        "cache_seqlens": torch.tensor(case.lengths, dtype=torch.int32, device=device),
        "causal": case.causal,
        "window": case.window,
        "scale": case.scale,
    }
    if case.page:
        a_row = case.room // case.page
        order = torch.randperm(batch * a_row + 3, generator=generator)[: batch * a_row].view(batch, a_row)
        pages, rows = order.to(torch.int32), (batch * a_row + 3, case.page)
        for row, n in enumerate(case.lengths):
            pages[row, -(-(n + case.new) // case.page) :] = -1 - row
        keywords["block_table"] = pages.to(device)
    else:
        order, rows = None, (batch, case.room)
    caches = [torch.full((*rows, *width), torch.nan, device=device, dtype=dtype) for _ in range(2)]
    for cache, parts in zip(caches, held, strict=True):
        for row, part in enumerate(parts):
            for i in range(part.shape[0] if order is not None else 0):
                cache[order[row, i // case.page], i % case.page] = part[i]
            if order is None:
                cache[row, : part.shape[0]] = part
    if case.new:
        keywords["k_new"], keywords["v_new"] = (random(batch, case.new, *width) for _ in range(2))
    if case.rotary:
        angles = torch.rand(case.room, case.rotary // 2, generator=generator).to(device) * 6
        keywords |= {"cos": angles.cos(), "sin": angles.sin(), "interleaved": case.interleaved}
    return Inputs(q, caches, keywords, *held)


def turned(case: Case, given: Inputs, x: torch.Tensor, row: int) -> torch.Tensor:
    """(tokens, heads, dim) at the row's new positions, turned in fp64 and rounded to the type of the inputs."""
    if not case.rotary:
        return x
    at = case.lengths[row] + torch.arange(x.shape[0], device=x.device)
    cos, sin = (given.keywords[name][at].double().unsqueeze(1) for name in ("cos", "sin"))
    out, half = x.to(torch.float64, copy=True), case.rotary // 2
    first, second = (slice(0, half), slice(half, 2 * half))
    if case.interleaved:
        first, second = slice(0, case.rotary, 2), slice(1, case.rotary, 2)
    a, b = out[..., first].clone(), out[..., second].clone()
    out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
    return out.to(x.dtype)


def reference(case: Case, given: Inputs, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE; probabilities and output rounded to `dtype`, all else in fp64 or, for 16-bit types, fp32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    outs, lses = [], []
    for row, length in enumerate(case.lengths):
        q = turned(case, given, given.q[row], row)
        k, v = given.keys[row], given.values[row]
        if case.new:
            k = torch.cat([k, turned(case, given, given.keywords["k_new"][row], row)])
            v = torch.cat([v, given.keywords["v_new"][row]])
        group = case.heads // case.kv_heads
        q, k, v = (
            x.to(wide).transpose(0, 1) for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        )
        scores = q @ k.transpose(1, 2) * (case.dim**-0.5 if case.scale is None else case.scale)
        last = torch.arange(case.queries, device=q.device)[:, None] + length + case.new - case.queries
        keys = torch.arange(length + case.new, device=q.device)
        if case.causal:
            scores = scores.masked_fill(keys > last, -torch.inf)
        if case.window:
            scores = scores.masked_fill(keys <= last - case.window, -torch.inf)
        lse = scores.logsumexp(-1)
        probabilities = (scores - lse[..., None]).exp().nan_to_num(0.0).to(dtype).to(wide)
        outs.append((probabilities @ v).to(dtype).transpose(0, 1))
        lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def check_case(case: Case, device: str, dtype: torch.dtype, *, in_pieces: bool = False) -> Inputs:
    """Within twice the error of the same arithmetic in PyTorch; the caches change where they should, not elsewhere.

    `in_pieces` says that each page's result is rounded to the dtype before all are added up. That is at most half a
    unit in the last place of the largest value more, and in the mean it must not show.
    """
    given = inputs(case, device, dtype)
    before = [cache.clone() for cache in given.caches]
    out, lse = ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True)
    exact, exact_lse = reference(case, given, torch.float64)
    same, _ = reference(case, given, dtype)
    assert out.dtype == dtype and out.shape == exact.shape
    bound = 2 * (same.double() - exact).abs().max().item() + (1e-6 if dtype != torch.float64 else 1e-12)
    if dtype == torch.float32 and device == "cpu":
        bound = max(bound, 2.0**-19 * exact.abs().max().item())  # torch's exponential there has 20 bits
    if in_pieces:
        values = torch.cat([x.flatten() for x in (*given.values, given.keywords.get("v_new", out.new_zeros(1)))])
        bound += torch.finfo(dtype).eps / 2 * values.abs().max().item()
        if out.numel() >= 512:
            assert _mean(out.double() - exact) <= 2 * _mean(same.double() - exact) + 1e-6, case.name
    error = (out.double() - exact).abs().max().item()
    assert error <= bound, f"{case.name}: error {error}, of PyTorch {bound / 2}"
    assert lse.dtype == torch.float32
    # A turned query or key may be rounded to the other neighbour, which moves a score.
    moved = {torch.bfloat16: 4e-3, torch.float16: 5e-4}.get(dtype, 0.0) if case.rotary else 0.0
    torch.testing.assert_close(lse, exact_lse.float(), rtol=1e-5, atol=2e-5 + moved)
    check_caches(case, given, before)
    return given


def _mean(error: torch.Tensor) -> float:
    return error.square().mean().sqrt().item()


def check_caches(case: Case, given: Inputs, before: list[torch.Tensor]) -> None:
    for cache, old, name in zip(given.caches, before, ("k_new", "v_new"), strict=True):
        for row, length in enumerate(case.lengths):
            for i in range(case.new):
                at: tuple[Any, int] = (row, length + i)
                if case.page:
                    at = given.keywords["block_table"][row, (length + i) // case.page], (length + i) % case.page
                new = given.keywords[name][row]
                want = turned(case, given, new, row)[i] if name == "k_new" else new[i]
                # A turn in fp32 may round to the other neighbour.
                one = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(new.dtype, 2e-6)
                near = one if case.rotary and name == "k_new" else 0.0
                torch.testing.assert_close(cache[at], want, rtol=near, atol=near / 8)
                old[at] = cache[at]
        same = (cache == old) | (cache.isnan() & old.isnan())
        assert bool(same.all()), f"{case.name}: the cache changed elsewhere"
