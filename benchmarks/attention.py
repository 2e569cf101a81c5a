"""Attention with grouped heads: codeshell.ops.attention against torch's SDPA, FlexAttention and flash-attention.

    python benchmarks/attention.py --json attention.json --chart attention.svg

On a GPU the cases are the rows of the targets in docs/kernels/attention-log.md: forward and backward, causal and full,
dim 128 at 2k to 16k tokens with 64 query and 8 key/value heads, the shape of CodeShell-7B, and dim 64. A backward case
times the backward pass alone, after a forward pass that is kept; "deterministic" asks each contender for gradients
that have the same bits every time. All contenders take turns. Peers that are not installed are listed as absent:

    torch SDPA cuDNN, flash   one backend each, `enable_gqa`; deterministic under torch.use_deterministic_algorithms
    FlexAttention             torch.compile; only at 8192 tokens, because it compiles for each length
    FlashAttention 3          flash_attn_interface, or else only the forward pass, of the fa3-fwd wheel
    FlashAttention 4          flash_attn.cute of the flash-attn-4 wheel

FLOPs are those of the scores that the mask leaves, 4 * batch * heads * seq^2 * dim, half of that if causal, and 2.5
times that for the backward pass. The floor is a matrix product. The kernels run even where `ops.attention` does not use
them by default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from codeshell.ops import attention, hopper

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
OURS = "codeshell.ops.attention"
FLEX_TOKENS = 8192

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool, bool], torch.Tensor]
"""(q, k, v, causal, deterministic) to the output, all (batch, seq, heads, dim)."""


@dataclass(frozen=True)
class Shape:
    batch: int
    seq: int
    heads: int = 64
    kv_heads: int = 8
    dim: int = 128


@dataclass(frozen=True)
class Peer:
    function: Function
    backward: bool = True
    deterministic: bool = True
    """Whether it can be asked for gradients that have the same bits every time."""
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    """The context in which its deterministic backward pass runs."""


PUBLISHED = [Shape(2, seq) for seq in (2048, 4096, 8192, 16384)]
CODESHELL_7B = [Shape(8, 2048, 32), Shape(2, 8192, 32)]
DIM_64 = [Shape(8, 2048, 32, 4, 64), Shape(2, 8192, 32, 4, 64)]
"""CodeShell-small, if its width of 2048 were 32 heads."""

PASSES = ("forward", "backward", "deterministic backward")


def table(session: Session) -> Iterator[tuple[str, bool, Shape]]:
    """(pass, causal, shape) of each row."""
    if session.args.smoke or session.device.type == "cpu":
        shapes = [Shape(1, 16, 32)] if session.args.smoke else [Shape(1, 512, 32), Shape(1, 2048, 32)]
        for shape in shapes:
            yield from ((name, True, shape) for name in PASSES[: 3 if session.args.smoke else 2])
            yield "forward", False, shape
        return
    yield from (("forward", True, shape) for shape in PUBLISHED)
    for name in PASSES[1:]:
        yield from ((name, True, shape) for shape in PUBLISHED)
    for shape in CODESHELL_7B:
        yield from ((name, True, shape) for name in PASSES)
    for shape in DIM_64:
        yield from ((name, True, shape) for name in PASSES)
    yield from (("forward", False, shape) for shape in PUBLISHED)


def cases(session: Session) -> Iterator[Case]:
    peers = find_peers(session)
    for dtype in (torch.bfloat16,) if session.device.type == "cuda" else (torch.float32, torch.bfloat16):
        for name, causal, shape in table(session):
            yield case(session, peers, name, causal, shape, dtype)


def case(session: Session, peers: dict[str, Peer], name: str, causal: bool, shape: Shape, dtype: torch.dtype) -> Case:
    generator = torch.Generator(session.device).manual_seed(0)

    def random(heads: int) -> torch.Tensor:
        size = shape.batch, shape.seq, heads, shape.dim
        return torch.randn(size, generator=generator, device=session.device).to(dtype)

    touched = 2 * shape.batch * shape.seq * (shape.heads + shape.kv_heads) * shape.dim * dtype.itemsize
    slots = session.slots(touched)
    inputs: list[Triple] = [(random(shape.heads), random(shape.kv_heads), random(shape.kv_heads)) for _ in range(slots)]
    grad = random(shape.heads)
    deterministic = name == "deterministic backward"

    def forward(peer: Peer) -> Step:
        return lambda slot: peer.function(*inputs[slot], causal, False)

    def backward(peer: Peer) -> Step:
        leaves = [tuple(x.detach().requires_grad_() for x in triple) for triple in inputs]
        with peer.guard() if deterministic else nullcontext():
            outs = [peer.function(*triple, causal, deterministic) for triple in leaves]  # type: ignore[arg-type]

        def step(slot: int) -> Any:
            with peer.guard() if deterministic else nullcontext():
                return torch.autograd.grad(outs[slot], leaves[slot], grad, retain_graph=True)

        return step

    def serves(who: str, peer: Peer) -> bool:
        if who == "FlexAttention" and shape.seq != FLEX_TOKENS:
            return False
        return name == "forward" or (peer.backward and (peer.deterministic or not deterministic))

    make = forward if name == "forward" else backward
    flops = 4 * shape.batch * shape.heads * shape.seq**2 * shape.dim // (2 if causal else 1)
    return Case(
        f"{shape.batch} x {shape.seq} tokens, {shape.heads}/{shape.kv_heads} heads, d {shape.dim}, "
        f"{'causal' if causal else 'full'}, {NAMES[dtype]}, {name}",
        [
            # Autograd runs the backward pass on a thread of its own, and on a stream that no graph captures.
            Contender(who, lambda peer=peer: make(peer), ours=who == OURS, graph=name == "forward")
            for who, peer in peers.items()
            if serves(who, peer)
        ],
        flops=flops if name == "forward" else round(2.5 * flops),
        floor="gemm",
        slots=slots,
        tolerance=TOLERANCE[dtype],
        turns=True,
    )


def find_peers(session: Session) -> dict[str, Peer]:
    """All contenders by name, ours first."""
    found = {OURS: Peer(lambda q, k, v, causal, same: attention(q, k, v, causal=causal, deterministic=same))}
    if session.device.type == "cpu":
        return found | {"torch SDPA": Peer(sdpa(None), guard=reproducibly)}
    hopper.enabled = True
    lacking = hopper.missing(session.device)
    if lacking is not None:
        session.absent("our kernel", f"{lacking}: the rows of {OURS} are torch's SDPA")
    found["torch SDPA cuDNN"] = Peer(sdpa(SDPBackend.CUDNN_ATTENTION), guard=reproducibly)
    found["torch SDPA flash"] = Peer(sdpa(SDPBackend.FLASH_ATTENTION), guard=reproducibly)
    found["FlexAttention"] = Peer(flex(), deterministic=False)
    for name, modules in {
        "FlashAttention 3": ("flash_attn_interface", "fa3_fwd_interface"),
        "FlashAttention 4": ("flash_attn.cute",),
    }.items():
        there = session.found(name, modules, "flash_attn_func")
        if there is not None:
            found[name] = Peer(flash(there[1]), backward=there[0] != "fa3_fwd_interface")
    return found


def sdpa(backend: SDPBackend | None) -> Function:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, _: bool) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with nullcontext() if backend is None else sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        return out.transpose(1, 2)

    return call


def flex() -> Function:
    import torch._functorch.config as functorch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    functorch.donated_buffer = False  # otherwise the graph could not be kept for the next backward pass
    compiled = harness.compiled(flex_attention)

    @lru_cache
    def causal_mask(seq: int) -> Any:
        return create_block_mask(lambda b, h, query, key: query >= key, None, None, seq, seq, device="cuda")

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, _: bool) -> torch.Tensor:
        mask = causal_mask(q.shape[1]) if causal else None
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out: torch.Tensor = compiled(q, k, v, block_mask=mask, enable_gqa=True)
        return out.transpose(1, 2)

    return call


def flash(function: Callable[..., Any]) -> Function:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, deterministic: bool) -> torch.Tensor:
        result = function(q, k, v, causal=causal, deterministic=deterministic)
        out: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return out

    return call


@contextmanager
def reproducibly() -> Iterator[None]:
    """torch's switch for deterministic operations, under which one that cannot be raises an error. Without the NaN that
    torch then writes into all memory that it allocates: a pass over the gradients that is no part of the work."""
    before, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("attention", args, floors=("gemm",))
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
