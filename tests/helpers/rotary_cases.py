"""Cases of rotary embedding and their reference in fp64, for the CPU kernel and for the CUDA kernel run on the host."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from codeshell import ops


@dataclass
class Case:
    name: str
    shape: tuple[int, ...] = (2, 9)
    """(batch, seq) or (total,)."""
    heads: tuple[int, int] = (4, 2)
    dim: int = 64
    half: int = 32
    interleaved: bool = False
    tables: str = "half"
    """half, doubled (2-D), tokens (3-D, one table a batch) or shared (3-D, one table)."""
    table_dtype: torch.dtype = torch.float32
    where: str = "none"
    """none, offset, positions (one row for all), each (positions of every token), sequences (cu_seqlens)."""
    int32: bool = False
    layout: str = "plain"
    """plain, transposed (a view of heads before tokens), fused (views of one projection) or padded (odd strides)."""
    seed: int = 0
    lengths: list[int] = field(default_factory=lambda: [5, 0, 1, 12])


CASES = [
    Case("plain"),
    Case("total", shape=(18,)),
    Case("interleaved", interleaved=True),
    Case("partial", half=8),
    Case("partial-interleaved", half=8, interleaved=True),
    Case("odd-pairs", dim=30, half=7),
    Case("odd-pairs-interleaved", dim=30, half=7, interleaved=True),
    Case("odd-head", dim=33, half=12),
    Case("one-pair", dim=2, half=1),
    Case("nothing-turns", dim=16, half=0),
    Case("wide", dim=256, half=128, heads=(2, 1)),
    Case("transposed", layout="transposed"),
    Case("fused", layout="fused"),
    Case("padded", layout="padded"),
    Case("doubled", tables="doubled"),
    Case("doubled-interleaved", tables="doubled", interleaved=True),
    Case("tokens-bf16", tables="tokens", table_dtype=torch.bfloat16, layout="transposed"),
    Case("tokens-interleaved", tables="tokens", interleaved=True),
    Case("shared-fp16-partial", tables="shared", table_dtype=torch.float16, half=16),
    Case("offset", where="offset"),
    Case("positions", where="positions"),
    Case("each", where="each", int32=True),
    Case("each-total", shape=(18,), where="each"),
    Case("sequences", shape=(18,), where="sequences"),
    Case("many-tokens", shape=(3, 67), heads=(5, 1), dim=128, half=64),
]


def random_case(seed: int) -> tuple[Case, torch.dtype]:
    draw = random.Random(seed)
    dim = draw.choice([2, 6, 16, 24, 32, 40, 64, 80, 96, 128])
    flat = draw.random() < 0.5
    tables = draw.choice(["half", "half", "doubled"] + ([] if flat else ["tokens", "shared"]))
    shape = (draw.randint(1, 40),) if flat else (draw.randint(1, 3), draw.randint(1, 20))
    where = "none"
    if tables in ("half", "doubled"):
        where = draw.choice(["none", "offset", "positions", "each"] + (["sequences"] if flat else []))
    cuts = sorted(draw.randint(0, shape[0]) for _ in range(draw.randint(0, 4)))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, shape[0]], strict=True)]
    case = Case(
        f"seed-{seed}",
        shape=shape,
        heads=(draw.randint(1, 7), draw.randint(1, 3)),
        dim=dim,
        half=draw.choice([dim // 2, draw.randint(1, dim // 2)]),
        interleaved=draw.random() < 0.5,
        tables=tables,
        table_dtype=torch.float32 if tables == "half" else draw.choice([torch.float32, torch.bfloat16, torch.float16]),
        where=where,
        int32=draw.random() < 0.5,
        layout=draw.choice(["plain", "transposed", "fused", "padded"]),
        seed=seed,
        lengths=lengths,
    )
    return case, draw.choice([torch.float32, torch.bfloat16, torch.float16])


def lay_out(shape: tuple[int, ...], heads: tuple[int, ...], dim: int, layout: str, dtype: torch.dtype, random):
    """Tensors (…, heads, dim) of random numbers, in the memory layout asked for; what lies between them is NaN."""
    if layout == "fused":
        whole = torch.randn(*shape, sum(heads), dim, generator=random).to(dtype)
        return list(whole.split(list(heads), dim=-2))
    tensors = []
    for count in heads:
        values = torch.randn(*shape, count, dim, generator=random).to(dtype)
        if layout == "transposed":
            values = values.transpose(-3, -2).contiguous().transpose(-3, -2)
        if layout == "padded":
            room = torch.full((*shape, count + 1, dim + 3), torch.nan, dtype=dtype)
            room[..., :count, :dim] = values
            values = room[..., :count, :dim]
        tensors.append(values)
    return tensors


def tables_of(case: Case, random) -> tuple[torch.Tensor, torch.Tensor, dict, torch.Tensor]:
    """cos and sin as the case hands them over, the keyword arguments, and the angles' (cos, sin) of each token in fp64:
    complex (…, half)."""
    batch, seq = (1, *case.shape)[-2:]
    rows = seq + 5 if case.tables in ("half", "doubled") else seq
    lead = {"tokens": (batch,), "shared": (1,)}.get(case.tables, ())
    angles = torch.rand(*lead, rows, case.half, generator=random) * 6
    cos, sin = angles.cos().to(case.table_dtype), angles.sin().to(case.table_dtype)
    turn = torch.complex(cos.double(), sin.double())
    keywords: dict = {}
    if case.where == "none":
        where = torch.arange(seq).expand(case.shape)
    elif case.where == "offset":
        keywords["offset"] = 3
        where = torch.arange(seq).expand(case.shape) + 3
    elif case.where == "sequences":
        keywords["cu_seqlens"] = torch.tensor([0, *torch.tensor(case.lengths).cumsum(0).tolist()], dtype=torch.int32)
        keywords["offset"] = 2
        where = torch.cat([torch.arange(n) for n in case.lengths]) + 2
    else:
        shape = (seq,) if case.where == "positions" else case.shape
        where = torch.randint(0, rows, shape, generator=random)
        keywords["positions"] = where.to(torch.int32 if case.int32 else torch.int64)
    turn = turn[..., :seq, :] if lead else turn[where].expand(*case.shape, case.half)
    if lead:
        turn = turn.expand(*case.shape, case.half)
    if case.tables != "half":
        keywords |= {"doubled": True} if case.tables == "doubled" else {}
        double = (lambda x: x.repeat_interleave(2, -1)) if case.interleaved else (lambda x: torch.cat((x, x), -1))
        cos, sin = double(cos), double(sin)
    return cos, sin, keywords | {"interleaved": case.interleaved}, turn


def turned(x: torch.Tensor, turn: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Complex multiplication of the first dimensions of fp64 heads."""
    half, turn = turn.shape[-1], turn.unsqueeze(-2)
    if interleaved:
        z = torch.view_as_complex(x[..., : 2 * half].unflatten(-1, (half, 2)).contiguous()) * turn
        first = torch.view_as_real(z).flatten(-2)
    else:
        z = torch.complex(x[..., :half].contiguous(), x[..., half : 2 * half].contiguous()) * turn
        first = torch.cat((z.real, z.imag), dim=-1)
    return torch.cat((first, x[..., 2 * half :]), dim=-1)


def as_torch(x: torch.Tensor, turn: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """What eager PyTorch computes in the dtype of x, step by step: the measure of the error that is allowed."""
    half = turn.shape[-1]
    cos, sin = turn.real.to(x.dtype).unsqueeze(-2), turn.imag.to(x.dtype).unsqueeze(-2)
    rest = x[..., 2 * half :]
    if interleaved:
        a, b = x[..., : 2 * half : 2], x[..., 1 : 2 * half : 2]
        return torch.cat((torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2), rest), -1)
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def check_close(got: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor) -> None:
    """Every element within twice the largest error of the same computation in PyTorch at the same dtype, or a unit in
    the last place of the largest where PyTorch is exact by luck (few elements)."""
    assert got.shape == exact.shape and torch.isfinite(got).all()
    if not exact.numel():
        return
    floor = torch.finfo(got.dtype).eps * float(exact.abs().max())
    allowed = max(2 * float((plain.detach().double() - exact).abs().max()), floor)
    assert float((got.detach().double() - exact).abs().max()) <= allowed


def check_case(case: Case, dtype: torch.dtype) -> None:
    """Out of place with its gradients, and in place with what lies around the heads left alone."""
    random = torch.Generator().manual_seed(case.seed)
    pair = lay_out(case.shape, case.heads, case.dim, case.layout, dtype, random)
    cos, sin, keywords, turn = tables_of(case, random)
    leaves = [x.detach().requires_grad_() for x in pair]
    out = ops.rotary(*leaves, cos, sin, **keywords)
    upstream = lay_out(case.shape, case.heads, case.dim, "plain", dtype, random)
    gradients = torch.autograd.grad(out, leaves, upstream)
    for x, y, g, up in zip(pair, out, gradients, upstream, strict=True):
        assert y.dtype == g.dtype == dtype
        check_close(y, turned(x.double(), turn, case.interleaved), as_torch(x, turn, case.interleaved))
        back = turn.conj().resolve_conj()
        check_close(g, turned(up.double(), back, case.interleaved), as_torch(up, back, case.interleaved))
        assert torch.equal(y[..., 2 * case.half :], x[..., 2 * case.half :])
    around = [x.untyped_storage().clone() for x in pair]
    again = ops.rotary(*pair, cos, sin, inplace=True, **keywords)
    for x, z, y, storage in zip(pair, again, out, around, strict=True):
        assert z is x and torch.equal(x, y)
        if case.layout == "padded":
            before = torch.empty(0, dtype=dtype).set_(storage).view(*case.shape, x.shape[-2] + 1, x.shape[-1] + 3)
            after = torch.empty(0, dtype=dtype).set_(x.untyped_storage()).view_as(before)
            assert torch.isnan(before[..., -1, :]).all() and torch.isnan(after[..., -1, :]).all()
            assert torch.isnan(after[..., case.dim :]).all()


QKV_CASES = [
    Case("plain"),
    Case("total", shape=(18,)),
    Case("interleaved", interleaved=True),
    Case("partial", half=8),
    Case("odd", dim=10, half=3, heads=(3, 3)),
    Case("sequences", shape=(18,), where="sequences"),
    Case("positions", where="each"),
    Case("doubled", tables="tokens", table_dtype=torch.bfloat16),
    Case("many-tokens", shape=(2, 150), heads=(4, 2), dim=32, half=16),
    Case("many-heads", shape=(40,), heads=(40, 4), dim=128, half=64),
]


def check_qkv_case(case: Case, dtype: torch.dtype, bias_dtype: torch.dtype | None = None) -> None:
    """q, k, v, the gradient of the projection and of its bias; and the same without a bias."""
    random = torch.Generator().manual_seed(case.seed)
    heads, kv_heads = case.heads
    counts = [heads, kv_heads, kv_heads]
    qkv = torch.randn(*case.shape, sum(counts) * case.dim, generator=random).to(dtype).requires_grad_()
    bias = torch.randn(sum(counts) * case.dim, generator=random).to(bias_dtype or dtype).requires_grad_()
    cos, sin, keywords, turn = tables_of(case, random)
    keywords |= {"heads": heads, "kv_heads": kv_heads}
    parts = ops.rotary_qkv(qkv, bias, cos, sin, **keywords)
    upstream = [torch.randn(part.shape, generator=random).to(dtype) for part in parts]
    gradient, bias_gradient = torch.autograd.grad(parts, (qkv, bias), upstream)
    assert all(part.is_contiguous() and part.dtype == dtype for part in parts)
    assert gradient.dtype == dtype and bias_gradient.dtype == bias.dtype

    def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.unflatten(-1, (sum(counts), case.dim)).split(counts, dim=-2)

    exact = split(qkv.detach().double() + bias.detach().double())
    plain = split(qkv.detach() + bias.detach().to(dtype))
    back = turn.conj().resolve_conj()
    wanted_gradients, plain_gradients = [], []
    for i, (part, up) in enumerate(zip(parts, upstream, strict=True)):
        if i < 2:
            check_close(part, turned(exact[i], turn, case.interleaved), as_torch(plain[i], turn, case.interleaved))
            wanted_gradients.append(turned(up.double(), back, case.interleaved))
            plain_gradients.append(as_torch(up, back, case.interleaved))
        else:
            check_close(part, exact[i], plain[i])
            wanted_gradients.append(up.double())
            plain_gradients.append(up)
    wanted, peer = torch.cat(wanted_gradients, -2).flatten(-2), torch.cat(plain_gradients, -2).flatten(-2)
    check_close(gradient, wanted, peer)
    check_close(bias_gradient, wanted.flatten(0, -2).sum(0), peer.flatten(0, -2).sum(0).to(bias.dtype))
    bare = ops.rotary_qkv(qkv, None, cos, sin, **keywords)
    zero = ops.rotary_qkv(qkv, torch.zeros_like(bias), cos, sin, **keywords)
    assert all(torch.equal(a, b) for a, b in zip(bare, zero, strict=True))
    (alone,) = torch.autograd.grad(bare, qkv, upstream)
    assert torch.equal(alone, gradient)


ROWS = {"cos": torch.zeros(8, 16), "sin": torch.zeros(8, 16)}
BAD_ARGUMENTS = [
    ({"q": torch.zeros(8, 32), "k": torch.zeros(8, 32)}, r"q \(8, 32\), k \(8, 32\)"),
    ({"k": torch.zeros(2, 7, 2, 32)}, r"q \(2, 8, 4, 32\) and k \(2, 7, 2, 32\) differ"),
    ({"k": torch.zeros(2, 8, 2, 32).bfloat16()}, r"q \(2, 8, 4, 32\) is float32 and k .* bfloat16"),
    ({"q": torch.zeros(2, 8, 4, 32).long(), "k": torch.zeros(2, 8, 2, 32).long()}, "q .* floating-point"),
    ({"q": torch.zeros(2, 8, 32, 4).transpose(2, 3)}, r"q \(2, 8, 4, 32\) has stride 4 in its last dimension"),
    ({"sin": torch.zeros(8, 8)}, r"cos \(8, 16\), sin \(8, 8\)"),
    ({"cos": torch.zeros(8, 16).half(), "sin": torch.zeros(8, 16).half()}, r"cos \(8, 16\) is float16 .* fp32"),
    ({"cos": torch.zeros(8, 32), "sin": torch.zeros(8, 32)}, r"rotates 64 dimensions.*q \(2, 8, 4, 32\).*doubled=True"),
    ({"cos": torch.zeros(8, 15), "sin": torch.zeros(8, 15), "doubled": True}, "odd rotary dimension, 15"),
    ({"cos": torch.zeros(3, 8, 32), "sin": torch.zeros(3, 8, 32)}, r"cos \(3, 8, 32\) does not go with q"),
    ({"cos": torch.zeros(2, 9, 32), "sin": torch.zeros(2, 9, 32)}, r"cos \(2, 9, 32\) does not go with q"),
    ({"cos": torch.zeros(7, 16), "sin": torch.zeros(7, 16)}, r"cos has 7 positions, fewer than the 8 of q \(2, 8"),
    ({"offset": 1}, "cos has 8 positions, fewer than the 9 of q .* offset included"),
    ({"offset": -1}, "offset is -1"),
    ({"positions": torch.arange(7)}, r"positions \(7,\) does not go with q \(2, 8, 4, 32\)"),
    ({"positions": torch.zeros(3, 8).long()}, r"positions \(3, 8\) does not go with q"),
    ({"positions": torch.zeros(8)}, r"positions \(8,\) is float32; it must be an integer"),
    ({"positions": torch.arange(8) - 1}, "positions run from -1 to 6, but cos has rows 0 to 7"),
    ({"positions": torch.arange(8) + 1}, "positions run from 1 to 8"),
    ({"positions": torch.arange(8), "offset": 1}, "give one of them"),
    ({"cu_seqlens": torch.tensor([0, 8], dtype=torch.int32)}, "q .* has a batch dimension"),
    ({"cu_seqlens": torch.tensor([0, 8])}, r"cu_seqlens \(2,\) is int64; it must be int32"),
    (
        {
            "q": torch.zeros(8, 4, 32),
            "k": torch.zeros(8, 2, 32),
            "cu_seqlens": torch.tensor([0, 5, 3, 8], dtype=torch.int32),
        },
        "must rise from 0 to the 8 tokens",
    ),
    (
        {
            "q": torch.zeros(9, 4, 32),
            "k": torch.zeros(9, 2, 32),
            "cu_seqlens": torch.tensor([0, 9], dtype=torch.int32),
        },
        "cos has 8 positions, fewer than the 9 of the longest sequence",
    ),
    ({"q": torch.zeros(1, 1, 4, 32).expand(2, 8, 4, 32), "inplace": True}, "q .* is expanded"),
    ({"cos": torch.zeros(8, 16, requires_grad=True)}, "gradients are not computed"),
]


def check_compiled(
    step: Callable[..., torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    backend: str = "aot_eager",
) -> None:
    """Values and gradients of a full graph equal eager's.

    Args:
        step: makes a loss of x, y and the two tables.
        backend: of torch.compile; inductor has a compiler run.
    """
    leaves = (x, y)
    losses, gradients = [], []
    for function in (step, torch.compile(step, fullgraph=True, backend=backend)):
        x, y = (leaf.clone().requires_grad_() for leaf in leaves)
        loss = function(x, y, *tables)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, (x, y)))
        with torch.no_grad():
            assert torch.equal(function(*leaves, *tables), losses[0])
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
