"""Cases of the attention kernels, with checks of every element against fp64; for their host execution and for GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from codeshell import ops
from codeshell.ops import attention_cuda


@dataclass(frozen=True)
class Case:
    name: str
    queries: int
    keys: int
    heads: int = 2
    kv_heads: int = 1
    dim: int = 64
    batch: int = 1
    causal: bool = True
    window: int | None = None
    lengths: tuple[int, ...] = ()
    """Lengths of packed sequences; their sum is `queries` and `keys`."""
    scale: float | None = None


CASES = [
    Case("one_query", 1, 1),
    Case("one_tile", 128, 128, dim=128),
    Case("full", 130, 300, causal=False, dim=128),
    Case("full_whole_tiles", 256, 256, causal=False, batch=2),
    Case("causal", 300, 300, dim=128),
    Case("causal_long", 200, 700),
    Case("fewer_queries", 70, 400, heads=8, kv_heads=2, dim=128),
    Case("more_queries", 300, 100, dim=128),
    Case("group_8", 129, 129, heads=8, kv_heads=1, batch=2),
    Case("group_1", 129, 260, heads=2, kv_heads=2, dim=128, batch=2),
    Case("window", 400, 400, window=150, dim=128),
    Case("window_1", 140, 140, window=1),
    Case("window_long", 130, 700, window=300),
    Case("window_of_tiles", 384, 384, window=128),
    Case("packed", 460, 460, lengths=(1, 0, 128, 131, 200), heads=4, kv_heads=2, dim=128),
    Case("packed_full", 330, 330, lengths=(65, 190, 75), causal=False),
    Case("packed_window", 430, 430, lengths=(30, 300, 100), window=70),
    Case("scale", 64, 200, scale=0.5, causal=False),
]


def inputs(case: Case, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v as (batch, tokens, heads, dim), or packed: random with a few large scores, views of wider tensors."""
    generator = torch.Generator().manual_seed(len(case.name) + case.queries)
    parts = []
    for tokens, heads in ((case.queries, case.heads), (case.keys, case.kv_heads), (case.keys, case.kv_heads)):
        wide = torch.randn(case.batch, tokens, heads + 1, case.dim + 8, generator=generator)
        wide[:, ::17] *= 3
        parts.append(wide.to(device, dtype)[:, :, 1:, : case.dim])
    q, k, v = (x[0] for x in parts) if case.lengths else parts
    return q, k, v


def dense(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Output and LSE; probabilities rounded to `dtype`, and all else in fp64 or, for 16-bit types, in fp32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    q, k, v = (x.transpose(1, 2).to(wide) for x in (q, k, v))
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * (case.dim**-0.5 if case.scale is None else case.scale)
    rows = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    keys = torch.arange(k.shape[2], device=q.device)[None]
    if case.causal:
        scores = scores.masked_fill(keys > rows, -torch.inf)
    if case.window:
        scores = scores.masked_fill(keys <= rows - case.window, -torch.inf)
    lse = scores.logsumexp(-1)
    probabilities = (scores - lse[..., None]).exp().nan_to_num(0.0).to(dtype)
    return (probabilities.to(wide) @ v).to(dtype).transpose(1, 2), lse


def reference(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """`dense`, of packed sequences one by one."""
    if not case.lengths:
        return dense(case, q, k, v, dtype)
    parts = [
        dense(case, *(x[None] for x in xs), dtype)
        for xs in zip(*(x.split(case.lengths) for x in (q, k, v)), strict=True)
    ]
    return torch.cat([out[0] for out, _ in parts]), torch.cat([lse[0] for _, lse in parts], dim=1)


def packing(case: Case, device: torch.device) -> dict[str, Any]:
    if not case.lengths:
        return {}
    offsets = torch.tensor([0, *case.lengths]).cumsum(0).to(device, torch.int32)
    return {"cu_seqlens": offsets, "max_seqlen": max(case.lengths)}


def run(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = ops.attention(
        q,
        k,
        v,
        causal=case.causal,
        window=case.window,
        scale=case.scale,
        return_lse=True,
        **packing(case, q.device),
    )
    return out, lse


def gradients(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, deterministic: bool = False
) -> tuple[torch.Tensor, ...]:
    """The gradients of q, k and v, by `ops.attention`."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = ops.attention(
        *leaves,
        causal=case.causal,
        window=case.window,
        scale=case.scale,
        deterministic=deterministic,
        **packing(case, q.device),
    )
    return torch.autograd.grad(out, leaves, grad)


def dense_gradients(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """The gradients of q, k and v by the formulas: P and dS are rounded to `dtype`, the rest is fp64 (16 bit: fp32)."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    group, scale = case.heads // case.kv_heads, case.dim**-0.5 if case.scale is None else case.scale
    out, lse = (x.to(wide) for x in dense(case, q, k, v, dtype))
    q, k, v, grad, out = (x.transpose(1, 2).to(wide) for x in (q, k, v, grad, out))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    rows = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    keys = torch.arange(k.shape[2], device=q.device)[None]
    unseen = (keys > rows) & case.causal
    if case.window:
        unseen = unseen | (keys <= rows - case.window)
    p = (q @ k.transpose(2, 3) * scale - lse[..., None]).exp().masked_fill(unseen, 0.0)
    delta = (out * grad).sum(-1, keepdim=True)
    ds = (p * (grad @ v.transpose(2, 3) - delta)).masked_fill(unseen, 0.0).to(dtype).to(wide)
    p = p.to(dtype).to(wide)
    dq, dk, dv = ds @ k * scale, ds.transpose(2, 3) @ q * scale, p.transpose(2, 3) @ grad
    dk, dv = (x.unflatten(1, (case.kv_heads, group)).sum(2) for x in (dk, dv))
    return tuple(x.to(dtype).transpose(1, 2) for x in (dq, dk, dv))


def check_gradients(case: Case, device: str, dtype: torch.dtype, deterministic: bool = False) -> None:
    """Within twice the error of the same arithmetic in PyTorch, everywhere."""
    q, k, v = inputs(case, device, dtype)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(case.keys)).to(device, dtype)
    found = gradients(case, q, k, v, grad, deterministic)
    exact, same = (reference_gradients(case, q, k, v, grad, wanted) for wanted in (torch.float64, dtype))
    for name, x, a, b in zip(("dq", "dk", "dv"), found, exact, same, strict=True):
        assert x.dtype == dtype and x.shape == a.shape
        bound = 2 * (b.double() - a).abs().max().item() + 1e-6
        error = (x.double() - a).abs().max().item()
        assert error <= bound, f"{case.name}, {name}: error {error}, of PyTorch {bound / 2}"


def reference_gradients(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """`dense_gradients`, of packed sequences one by one."""
    if not case.lengths:
        return dense_gradients(case, q, k, v, grad, dtype)
    parts = [
        dense_gradients(case, *(x[None] for x in xs), dtype)
        for xs in zip(*(x.split(case.lengths) for x in (q, k, v, grad)), strict=True)
    ]
    return tuple(torch.cat([x[0] for x in xs]) for xs in zip(*parts, strict=True))


def poison(monkeypatch: Any) -> list[torch.Size]:
    """Outputs and workspaces start as NaN; returns the shape of the queries at each allocation."""
    taken: list[torch.Size] = []

    def poisoned(allocate: Any, value: float) -> Any:
        def wrapped(*arguments: Any) -> Any:
            taken.append(arguments[0].q.shape)
            made = allocate(*arguments)
            for x in made if isinstance(made, tuple) else (made,):
                x.fill_(value)
            return made

        return wrapped

    for name, value in (("_empty", torch.nan), ("_empty_gradients", torch.nan), ("_workspace", 0xFF)):
        monkeypatch.setattr(attention_cuda, name, poisoned(getattr(attention_cuda, name), value))
    return taken


def check_case(case: Case, device: str, dtype: torch.dtype) -> None:
    """Within twice the error of the same arithmetic in PyTorch, everywhere."""
    q, k, v = inputs(case, device, dtype)
    out, lse = run(case, q, k, v)
    exact, exact_lse = reference(case, q, k, v, torch.float64)
    same, _ = reference(case, q, k, v, dtype)
    assert out.dtype == dtype and out.shape == exact.shape
    bound = 2 * (same.double() - exact).abs().max().item() + 1e-6
    error = (out.double() - exact).abs().max().item()
    assert error <= bound, f"{case.name}: error {error}, of PyTorch {bound / 2}"
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse, exact_lse.float(), rtol=1e-5, atol=1e-5)
