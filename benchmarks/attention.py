"""Attention with grouped heads: codeshell.ops.attention against torch's scaled_dot_product_attention.

    python benchmarks/attention.py --json attention.json --chart attention.svg

32 query heads and 8 key/value heads of 128 dimensions, causal, forward, and forward and backward. FLOPs are those of
the scores that a causal mask leaves (4 * batch * heads * seq^2 * dim / 2, backward 2.5 times that); the floor is a
matrix product. torch gets (batch, heads, seq, dim) as a transposed view and `enable_gqa`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import harness
import torch
from harness import Case, Contender, Session, Step
from torch.nn import functional as F

from codeshell.ops import attention

HEADS, KV_HEADS, DIM = 32, 8, 128
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
Function = Callable[..., torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def cases(session: Session) -> Iterator[Case]:
    device, smoke = session.device, session.args.smoke
    shapes = [(1, 16)] if smoke else [(2, 2048), (2, 8192)] if device.type == "cuda" else [(1, 512), (1, 2048)]
    for dtype in (torch.bfloat16,) if device.type == "cuda" else (torch.float32, torch.bfloat16):
        for batch, seq in shapes:
            yield from shape_cases(session, batch, seq, dtype)


def shape_cases(session: Session, batch: int, seq: int, dtype: torch.dtype) -> Iterator[Case]:
    generator = torch.Generator(session.device).manual_seed(0)

    def random(heads: int) -> torch.Tensor:
        return torch.randn(batch, seq, heads, DIM, generator=generator, device=session.device).to(dtype)

    touched = 2 * batch * seq * (HEADS + KV_HEADS) * DIM * dtype.itemsize
    slots = session.slots(touched)
    inputs: list[Triple] = [(random(HEADS), random(KV_HEADS), random(KV_HEADS)) for _ in range(slots)]
    grad = random(HEADS)
    flops = 2 * batch * HEADS * seq * seq * DIM
    shape = f"{batch} x {seq} tokens, {HEADS}/{KV_HEADS} heads, d {DIM}, causal, {NAMES[dtype]}"
    functions = {"codeshell.ops.attention": attention, "torch SDPA": sdpa}

    def contenders(make_step: Callable[[Function], Step]) -> list[Contender]:
        return [
            Contender(name, lambda function=function: make_step(function), ours=name.startswith("codeshell"))
            for name, function in functions.items()
        ]

    def forward(function: Function) -> Step:
        return lambda slot: function(*inputs[slot])

    def trained(function: Function) -> Step:
        leaves = [tuple(x.clone().requires_grad_() for x in triple) for triple in inputs]
        return lambda slot: torch.autograd.grad(function(*leaves[slot]), leaves[slot], grad)

    common = {"floor": "gemm", "slots": slots, "tolerance": TOLERANCE[dtype]}
    yield Case(f"{shape}, forward", contenders(forward), flops=flops, **common)
    yield Case(f"{shape}, forward and backward", contenders(trained), flops=round(3.5 * flops), **common)


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("attention", args, floors=("gemm",))
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
