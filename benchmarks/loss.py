"""Cross-entropy of a linear head over a large vocabulary, forward and backward; and its gradient in place, alone.

    python benchmarks/loss.py --json loss.json --chart loss.svg

The vocabulary is CodeShell's, 70,144 tokens. A step of "linear and cross-entropy" takes hidden states and the weight to
the loss and both gradients, in bf16 on a GPU: 6 * tokens * features * vocabulary FLOPs, three products, of which a
matrix product is the floor. The contenders:

    codeshell.ops.linear_cross_entropy   blocks of tokens, the gradient of the logits in place between the products
    torch linear, cross_entropy          all logits at once, the loss in fp32, as autocast does it
    torch linear_cross_entropy           torch's own blocks, of a torch that has them (2.13)
    Liger fused linear cross-entropy     where it is installed

"Gradient in place" is the step between the products: logits become (softmax - one-hot) * scale. Its bytes are one
reading and one writing of the logits; the second reading that it needs should be of a cache. Ours is compared with the
same in PyTorch's operations, which ran before there was a kernel and runs where there is none.

Each contender's memory beyond the inputs and the gradients is printed, and is in `memory_bytes` of the result.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step
from torch.nn import functional as F

from codeshell.ops import devices, linear_cross_entropy
from codeshell.ops.loss import _by_torch_, softmax_gradient_

VOCABULARY = 70_144
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative to the largest value. In bf16 some sum the weight's gradient in bf16 over their blocks."""
OURS = "codeshell.ops.linear_cross_entropy"
IGNORE = -100
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def eager(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORE)


def liger() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE)
    return lambda hidden, weight, targets: loss(weight, hidden, targets)


def torch_chunked() -> Loss:
    options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined]
    chunked: Any = F.linear_cross_entropy  # type: ignore[attr-defined]
    return lambda hidden, weight, targets: chunked(hidden, weight, targets, ignore_index=IGNORE, options=options)


def losses(session: Session) -> dict[str, Callable[[], Loss]]:
    """Makers of all contenders by name, ours first."""
    found: dict[str, Callable[[], Loss]] = {
        OURS: lambda: linear_cross_entropy,
        "torch linear, cross_entropy": lambda: eager,
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["torch linear_cross_entropy"] = torch_chunked
    else:
        session.absent("torch linear_cross_entropy", f"torch {torch.__version__} does not have it")
    if session.device.type != "cuda":
        session.absent("Liger", "its kernels need a GPU")
    elif not importlib.util.find_spec("liger_kernel"):
        session.absent("Liger", "not installed (pip install liger-kernel)")
    else:
        found["Liger fused linear cross-entropy"] = liger
    return found


def head_case(
    session: Session,
    makers: dict[str, Callable[[], Loss]],
    tokens: int,
    features: int,
    vocabulary: int,
    dtype: torch.dtype,
) -> Case:
    """From hidden states and the weight to the loss and the gradients of both."""
    generator = torch.Generator(session.device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=session.device)

    # Logits of a standard deviation of 2.
    hidden = random(tokens, features).to(dtype).requires_grad_()
    weight = (2 * random(vocabulary, features) / features**0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator, device=session.device)
    targets[::10] = IGNORE

    def stepping(name: str, make: Callable[[], Loss]) -> Step:
        function = make()

        def step(_: int) -> tuple[torch.Tensor, ...]:
            loss = function(hidden, weight, targets)
            return loss.detach(), *torch.autograd.grad(loss, (hidden, weight))

        note_memory(session, f"{title}: {name}", step)
        return step

    title = f"linear and cross-entropy, {tokens} x {features} to {vocabulary:,}, {NAMES[dtype]}, forward and backward"
    return Case(
        title,
        [
            # Autograd runs on a stream of its own, which no graph captures.
            Contender(name, lambda name=name, make=make: stepping(name, make), ours=name == OURS, graph=False)
            for name, make in makers.items()
        ],
        flops=6 * tokens * features * vocabulary,
        floor="gemm",
        tolerance=TOLERANCE[dtype],
    )


def note_memory(session: Session, name: str, step: Step) -> None:
    """The most memory that a step takes, less what was there before it and what it returns."""
    if session.device.type != "cuda":
        return
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = step(0)
    torch.cuda.synchronize()
    returned = sum(x.numel() * x.element_size() for x in outputs)
    extra = torch.cuda.max_memory_allocated() - before - returned
    session.result.setdefault("memory_bytes", {})[name] = extra
    print(f"{name}: {extra / 1e9:.2f} GB beside inputs and gradients", flush=True)


def gradient_case(session: Session, rows: int, vocabulary: int, dtype: torch.dtype) -> Case:
    """Logits to their gradient, in place."""
    generator = torch.Generator(session.device).manual_seed(0)
    moved = rows * vocabulary * dtype.itemsize
    slots = session.slots(moved)
    start = (2 * torch.randn(rows, vocabulary, generator=generator, device=session.device)).to(dtype)
    logits = [start.clone() for _ in range(slots)]
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=session.device)
    scale = torch.full((), 1 / rows, device=session.device)
    row_losses = torch.empty(rows, device=session.device)

    def stepping(function: Callable[..., None]) -> Step:
        # Every call after a slot's first finds gradients in place of logits, which are as many bytes and exponentials.
        def step(slot: int) -> tuple[torch.Tensor, ...]:
            function(logits[slot], targets, IGNORE, scale, row_losses)
            return logits[slot], row_losses

        return step

    return Case(
        f"gradient in place, {rows} x {vocabulary:,} {NAMES[dtype]} logits",
        [
            Contender("codeshell softmax_gradient_", lambda: stepping(softmax_gradient_), ours=True),
            Contender("PyTorch's operations", lambda: stepping(_by_torch_)),
        ],
        bytes=2 * moved,
        floor="update",
        slots=slots,
        prepare=lambda: logits[0].copy_(start),
        tolerance=TOLERANCE[dtype],
    )


def cases(session: Session) -> Iterator[Case]:
    makers = losses(session)
    if session.device.type == "cpu":
        tokens, features, vocabulary = (8, 16, 100) if session.args.smoke else (512, 256, 8192)
        for dtype in (torch.float32, torch.bfloat16):
            yield gradient_case(session, tokens, vocabulary, dtype)
            yield head_case(session, makers, tokens, features, vocabulary, dtype)
        return
    # The kernel by rows: those of a block, of a short one, of a single long row, and in fp32.
    for rows, dtype in ((8192, torch.bfloat16), (1024, torch.bfloat16), (1, torch.bfloat16), (2048, torch.float32)):
        yield gradient_case(session, rows, VOCABULARY, dtype)
    # CodeShell-7B's head, and that of 1.2B parameters; a whole batch of 8,192 tokens and a micro-batch of 2,048.
    for tokens, features in ((8192, 4096), (8192, 2048), (2048, 4096)):
        yield head_case(session, makers, tokens, features, VOCABULARY, torch.bfloat16)


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("loss", args, floors=("copy", "update", "gemm"))
    if devices.on_gpu(session.device) and (lacking := devices.missing(session.device, devices.LOSS)):
        session.absent("our kernel", f"{lacking}: the rows of codeshell are PyTorch's")
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
