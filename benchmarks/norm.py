"""The fused neighbours of a block's products: residual and LayerNorm, bias and GELU, forward and backward, against
eager PyTorch, torch.compile and Liger.

    python benchmarks/norm.py --json norm.json --chart norm.svg

Rows are tokens. `residual_layer_norm` adds a branch to the stream, which is fp32 under autocast, and norms the sum for
the next product, in bf16; its backward pass takes the gradients of both and gives those of stream, branch, weight and
bias. `bias_gelu` adds the bias that the product before it left out, and its backward pass sums the bias's gradient.

Bytes are each array once: a backward pass reads what it was given and what the forward pass kept, and writes the
gradients. Weights, statistics and partial sums are not counted. A backward case times the backward pass alone, after a
forward pass that is kept. Eager code is what ran before: two operations of torch under autocast's dtypes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step
from torch.nn import functional as F

from codeshell import ops

EPS = 1e-5
TOLERANCE = 3e-2
"""Relative to the largest value: bf16 results, and sums over tokens in other orders."""
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
Function = Callable[..., Any]
"""From the inputs of a case to its outputs."""


@dataclass(frozen=True)
class Work:
    """A function's inputs by slot, the gradients of its outputs, and the bytes of its passes."""

    name: str
    inputs: Sequence[Sequence[torch.Tensor]]
    grads: Sequence[torch.Tensor]
    forward_bytes: int
    backward_bytes: int


def add_and_norm(x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    """Eager, as the block did it: the stream in its dtype, the norm in fp32, its result rounded for the product."""
    stream = x + branch
    return stream, F.layer_norm(stream, stream.shape[-1:], weight, bias, EPS).to(branch.dtype)


def bias_and_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.gelu(x + bias.to(x.dtype), approximate="tanh")


def ours_norm(x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    # Under autocast the normed stream has the dtype of the next product.
    with torch.autocast(x.device.type, branch.dtype, enabled=branch.dtype != torch.float32):
        return ops.residual_layer_norm(x, branch, weight, bias, EPS)


def liger_norm() -> Function:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    def call(x: torch.Tensor, branch: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
        stream = x + branch
        return stream, LigerLayerNormFunction.apply(stream, weight, bias, EPS).to(branch.dtype)

    return call


def norm_work(session: Session, rows: int, width: int, stream: torch.dtype, dtype: torch.dtype) -> Work:
    device, generator = session.device, torch.Generator(session.device).manual_seed(0)

    def random(like: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(like)

    wide, narrow = rows * width * stream.itemsize, rows * width * dtype.itemsize
    weight, bias = random(torch.float32, width), random(torch.float32, width)
    slots = session.slots(2 * wide + 2 * narrow)
    return Work(
        f"residual + LayerNorm, {rows} x {width}, stream {NAMES[stream]}, branch {NAMES[dtype]}",
        [(random(stream, rows, width), random(dtype, rows, width), weight, bias) for _ in range(slots)],
        (random(stream, rows, width), random(dtype, rows, width)),
        # Forward: stream and branch in, stream and normed out. Backward: the sum, both gradients in; one gradient out,
        # in the dtype of each of the two that were added.
        forward_bytes=2 * wide + 2 * narrow,
        backward_bytes=2 * wide + narrow + wide + narrow,
    )


def gelu_work(session: Session, rows: int, width: int, dtype: torch.dtype) -> Work:
    device, generator = session.device, torch.Generator(session.device).manual_seed(0)
    moved = rows * width * dtype.itemsize
    bias = torch.randn(width, generator=generator, device=device)

    def random() -> torch.Tensor:
        return torch.randn(rows, width, generator=generator, device=device).to(dtype)

    return Work(
        f"bias + GELU, {rows} x {width}, {NAMES[dtype]}",
        [(random(), bias) for _ in range(session.slots(2 * moved))],
        (random(),),
        forward_bytes=2 * moved,
        backward_bytes=3 * moved,
    )


def case(work: Work, contenders: dict[str, Callable[[], Function]], backward: bool) -> Case:
    """The forward pass, or the backward pass alone."""

    def forward_step(make: Callable[[], Function]) -> Step:
        function = make()
        with torch.no_grad():
            function(*work.inputs[0])  # compilations and first launches

        def step(slot: int) -> Any:
            with torch.no_grad():
                return function(*work.inputs[slot])

        return step

    def backward_step(make: Callable[[], Function]) -> Step:
        function = make()
        leaves = [tuple(x.detach().requires_grad_() for x in inputs) for inputs in work.inputs]
        outputs = [function(*inputs) for inputs in leaves]

        def step(slot: int) -> Any:
            return torch.autograd.grad(outputs[slot], leaves[slot], work.grads, retain_graph=True)

        return step

    make = backward_step if backward else forward_step
    return Case(
        f"{work.name}, {'backward' if backward else 'forward'}",
        [
            # Autograd runs the backward pass on a thread of its own, and on a stream that no graph captures.
            Contender(name, lambda how=how: make(how), ours=name.startswith("codeshell"), graph=not backward)
            for name, how in contenders.items()
        ],
        bytes=work.backward_bytes if backward else work.forward_bytes,
        slots=len(work.inputs),
        tolerance=TOLERANCE,
    )


def contenders(session: Session) -> tuple[dict[str, Callable[[], Function]], dict[str, Callable[[], Function]]]:
    """Of the norm and of GELU: makers by name, ours first."""
    norms: dict[str, Callable[[], Function]] = {
        "codeshell.ops.residual_layer_norm": lambda: ours_norm,
        "eager add, layer_norm": lambda: add_and_norm,
    }
    gelus: dict[str, Callable[[], Function]] = {
        "codeshell.ops.bias_gelu": lambda: ops.bias_gelu,
        "eager add, gelu": lambda: bias_and_gelu,
    }
    if not session.args.smoke:
        norms["torch.compile of these"] = lambda: kept(add_and_norm)
        gelus["torch.compile of these"] = lambda: kept(bias_and_gelu)
    if session.device.type != "cuda":
        session.absent("Liger", "its kernels need a GPU")
    elif not importlib.util.find_spec("liger_kernel"):
        session.absent("Liger", "not installed (pip install liger-kernel)")
    else:
        norms["add, Liger LayerNorm"] = liger_norm
    return norms, gelus


def kept(function: Function) -> Function:
    """Compiled, with its graph kept for the next backward pass."""
    import torch._functorch.config as functorch

    functorch.donated_buffer = False
    return harness.compiled(function)


def cases(session: Session) -> Iterator[Case]:
    norms, gelus = contenders(session)
    fp32, bf16 = torch.float32, torch.bfloat16
    if session.device.type == "cuda":
        # CodeShell-7B and that of 1.2B parameters, under autocast, and with a stream in bf16.
        shapes, streams, narrow = ((16_384, 4096), (16_384, 2048)), (fp32, bf16), bf16
    else:
        shapes = ((8, 64),) if session.args.smoke else ((4096, 256),)
        streams, narrow = (fp32,), bf16
    for rows, width in shapes:
        for stream in streams:
            work = norm_work(session, rows, width, stream, narrow)
            for backward in (False, True):
                yield case(work, norms, backward)
        work = gelu_work(session, rows, 4 * width, narrow)
        for backward in (False, True):
            yield case(work, gelus, backward)


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("norm", args)
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
