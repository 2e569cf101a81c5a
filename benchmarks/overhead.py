"""What one call of an operation costs on the host, in microseconds: with and without autograd.

    python benchmarks/overhead.py --json benchmarks/results/overhead.json

The tensors are tiny (one token, two heads and one, 8 dimensions), so nearly all of the time is Python, the dispatcher
and the binding. The targets on two cores of a server CPU are at most 8 us with autograd and 3 us without. The other
rows show where the time goes: a torch operation; an empty body called through `torch.library.custom_op` and through
define/impl; the allocation of the outputs, alone and as all that an autograd.Function does (the floors of the two
targets); and the loop that measures. The time is that of the calling thread, which does not wait for a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step
from rotary import tables

from codeshell.ops import rotary
from codeshell.ops.library import apply_directly
from codeshell.optim import AdamW

HEADS, KV_HEADS, DIM = 2, 1, 8
Tensors = tuple[torch.Tensor, torch.Tensor]

LIBRARY = torch.library.Library("codeshell_bench", "DEF")
LIBRARY.define("empty(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)")


def empty(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Tensors:
    """The allocation of the outputs and nothing else: the least that an operation out of place does."""
    return torch.empty_like(q), torch.empty_like(k)


LIBRARY.impl("empty", empty, "CPU")
LIBRARY.impl("empty", empty, "CUDA")
custom_empty = torch.library.custom_op("codeshell_bench::custom_empty", empty, mutates_args=())
custom_empty.register_autograd(lambda context, *grads: (*grads, None, None))


class Empty(torch.autograd.Function):
    """Autograd outside of a define/impl operation, as in codeshell's operations."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Tensors:
        return torch.ops.codeshell_bench.empty.default(q, k, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *grads, None, None


class Bare(torch.autograd.Function):
    """The least that a differentiable operation with two outputs does: no check, no kernel, nothing saved."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
        return torch.empty_like(q), torch.empty_like(k)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return grads


bare = apply_directly(Bare)


def cases(session: Session) -> Iterator[Case]:
    device = session.device
    q, k = (torch.randn(1, 1, heads, DIM, device=device) for heads in (HEADS, KV_HEADS))
    cos, sin = (table[:, : DIM // 2].contiguous() for table in tables(4, device))
    leaves = tuple(x.clone().requires_grad_() for x in (q, k))
    grads = (torch.randn_like(q), torch.randn_like(k))
    operation = torch.ops.codeshell_bench.empty.default

    def without(step: Step) -> Step:
        """The step under no_grad, which is entered for each call; another row says what that costs."""

        def guarded(slot: int) -> Any:
            with torch.no_grad():
                return step(slot)

        return guarded

    yield Case(
        "no tensor requires a gradient",
        [
            Contender("codeshell.ops.rotary", lambda: lambda _: rotary(q, k, cos, sin), ours=True),
            Contender(
                "codeshell.ops.rotary, in place", lambda: lambda _: rotary(q, k, cos, sin, inplace=True), ours=True
            ),
            Contender("define/impl, empty body", lambda: lambda _: operation(q, k, cos, sin), peer=False),
            Contender("torch.library.custom_op, empty body", lambda: lambda _: custom_empty(q, k, cos, sin)),
            Contender("two torch.empty_like", lambda: lambda _: empty(q, k, cos, sin), peer=False),
            Contender("torch.add of two tensors", lambda: lambda _: torch.add(q, q), peer=False),
            Contender("the loop that measures", lambda: lambda _: None, peer=False),
        ],
    )
    yield Case(
        "gradients required, forward",
        [
            Contender("codeshell.ops.rotary", lambda: lambda _: rotary(*leaves, cos, sin), ours=True),
            Contender(
                "codeshell.ops.rotary under no_grad", lambda: without(lambda _: rotary(*leaves, cos, sin)), ours=True
            ),
            Contender(
                "autograd.Function with define/impl, empty body",
                lambda: lambda _: Empty.apply(*leaves, cos, sin),
                peer=False,
            ),
            Contender("autograd.Function of two empty_like", lambda: lambda _: bare(*leaves), peer=False),
            Contender("torch.library.custom_op, empty body", lambda: lambda _: custom_empty(*leaves, cos, sin)),
            Contender("torch.add of two tensors", lambda: lambda _: torch.add(leaves[0], leaves[0]), peer=False),
            Contender("entering no_grad", lambda: without(lambda _: None), peer=False),
        ],
    )

    def trained(function: Any) -> Step:
        return lambda _: torch.autograd.grad(function(*leaves, cos, sin), leaves, grads)

    yield Case(
        "forward and backward",
        [
            Contender("codeshell.ops.rotary", lambda: trained(rotary), ours=True),
            Contender("autograd.Function with define/impl, empty body", lambda: trained(Empty.apply), peer=False),
            Contender("torch.library.custom_op, empty body", lambda: trained(custom_empty)),
        ],
    )
    for count in (1, 100):
        yield Case(
            f"AdamW step, {count} parameters of 8",
            [
                Contender("codeshell.optim.AdamW", lambda count=count: stepping(AdamW, count, device), ours=True),
                Contender(
                    "torch AdamW, fused", lambda count=count: stepping(torch.optim.AdamW, count, device, fused=True)
                ),
                Contender(
                    "torch AdamW, foreach", lambda count=count: stepping(torch.optim.AdamW, count, device, foreach=True)
                ),
            ],
        )


def stepping(make: Any, count: int, device: torch.device, **settings: Any) -> Step:
    parameters = [torch.randn(8, device=device).requires_grad_() for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = make(parameters, lr=1e-3, **settings)
    return lambda _: optimizer.step()


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("overhead", args, floors=(), clock="host")
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
