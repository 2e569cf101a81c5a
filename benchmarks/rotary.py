"""Rotary embedding of queries and keys: codeshell.ops.rotary against eager PyTorch, torch.compile and Liger.

    python benchmarks/rotary.py --json benchmarks/results/rotary-cpu.json --chart rotary.svg

Queries have 32 heads and keys 8, of 128 dimensions, as in CodeShell-7B. Bytes are q and k, each read once and written
once. The tables (fp32, a few percent) are not counted, so 100 % of the floor cannot be reached, by that much. The peers
get the layout that their models give them, (batch, heads, seq, dim) as a transposed view, and tables in the dtype of
the data. Codeshell and Liger work in place in the cases called so; eager and compiled code have no such form and write
new tensors. On a CPU, new tensors of this size are fresh pages each time, which the system zeroes when they are first
written: every contender that makes new tensors pays for that.

The cases of c_attn begin with its product without the bias. The work is to add the bias, split, rotate, and leave q, k
and v contiguous. codeshell.ops.rotary_qkv does this in one pass, whose bytes are counted; the peers need three passes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import harness
import torch
from harness import Case, Contender, Session

from codeshell.ops import devices, rotary, rotary_qkv

HEADS, KV_HEADS, DIM, BASE = 32, 8, 128, 10_000.0
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Relative to the largest value. In bf16, eager code rounds after each of its three operations, and its tables too."""
Pair = tuple[torch.Tensor, torch.Tensor]


def tables(positions: int, device: torch.device) -> Pair:
    """cos and sin, fp32 (positions, DIM / 2)."""
    frequencies = BASE ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float().to(device), angles.sin().float().to(device)


def eager_rotary() -> tuple[str, Callable[..., Pair]]:
    """The function of transformers' models; where transformers is not installed, the same operations."""
    if importlib.util.find_spec("transformers"):
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        return "eager (transformers)", apply_rotary_pos_emb

    def rotate_half(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)

    def apply(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Pair:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

    return "eager (transformers' formula)", apply


def liger_rotary() -> Callable[..., Pair]:
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    return liger_rotary_pos_emb


class Data:
    """Slots of random q and k, their tables, and a copy of slot 0 from which it is restored."""

    def __init__(self, session: Session, batch: int, seq: int, dtype: torch.dtype) -> None:
        device = session.device
        generator = torch.Generator(device).manual_seed(0)
        self.bytes = 2 * batch * seq * (HEADS + KV_HEADS) * DIM * dtype.itemsize
        self.slots = session.slots(self.bytes // 2)  # what is read is also what is written
        shapes = [(batch, seq, heads, DIM) for heads in (HEADS, KV_HEADS)]
        self.pairs: list[Pair] = []
        for _ in range(self.slots):
            q, k = (torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes)
            self.pairs.append((q, k))
        self.original = tuple(x.clone() for x in self.pairs[0])
        self.cos, self.sin = tables(seq, device)
        double = [torch.cat((t, t), dim=-1)[None].to(dtype) for t in (self.cos, self.sin)]
        self.cos2, self.sin2 = double

    def restore(self) -> None:
        for x, original in zip(self.pairs[0], self.original, strict=True):
            x.copy_(original)

    def peer(self, function: Callable[..., Pair]) -> harness.Step:
        """The peer's function on transposed views, with its result in our layout."""

        def step(slot: int) -> Pair:
            q, k = self.pairs[slot]
            q, k = function(q.transpose(1, 2), k.transpose(1, 2), self.cos2, self.sin2)
            return q.transpose(1, 2), k.transpose(1, 2)

        return step

    def ours(self, **settings: Any) -> harness.Step:
        return lambda slot: rotary(*self.pairs[slot], self.cos, self.sin, **settings)


def peers(data: Data, session: Session) -> list[Contender]:
    name, eager = eager_rotary()
    found = [Contender(name, lambda: data.peer(eager))]
    if not session.args.smoke:
        found.append(Contender("torch.compile of it", lambda: data.peer(harness.compiled(eager))))
    if session.device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        # Liger writes in place, on one slot after the other. So each call finds random data, as ours does.
        found.append(Contender("Liger", lambda: data.peer(liger_rotary())))
    return found


def forward_cases(session: Session, batch: int, seq: int, dtype: torch.dtype) -> Iterator[Case]:
    data = Data(session, batch, seq, dtype)
    shape = f"{batch} x {seq} tokens, {HEADS}+{KV_HEADS} heads, d {DIM}, {NAMES[dtype]}"
    common: dict[str, Any] = {"bytes": data.bytes, "slots": data.slots, "prepare": data.restore}
    for inplace in (True, False):
        ours = Contender("codeshell.ops.rotary", lambda inplace=inplace: data.ours(inplace=inplace), ours=True)
        form = "in place" if inplace else "new tensors"
        yield Case(f"{shape}, {form}", [ours, *peers(data, session)], tolerance=TOLERANCE[dtype], **common)


def training_case(session: Session, batch: int, seq: int, dtype: torch.dtype) -> Case:
    """Forward and backward through autograd, which moves twice the bytes."""
    data = Data(session, batch, seq, dtype)
    grads = tuple(torch.randn_like(x) for x in data.original)
    for pair in data.pairs:
        for x in pair:
            x.requires_grad_()

    def trained(forward: harness.Step) -> harness.Step:
        def step(slot: int) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(forward(slot), data.pairs[slot], grads)

        return step

    name, eager = eager_rotary()
    contenders = [
        Contender("codeshell.ops.rotary", lambda: trained(data.ours()), ours=True),
        Contender(name, lambda: trained(data.peer(eager))),
    ]
    if not session.args.smoke:
        contenders.append(Contender("torch.compile of it", lambda: trained(data.peer(harness.compiled(eager)))))
    title = f"{batch} x {seq} tokens, {HEADS}+{KV_HEADS} heads, d {DIM}, {NAMES[dtype]}, forward and backward"
    return Case(title, contenders, bytes=2 * data.bytes, slots=data.slots, tolerance=TOLERANCE[dtype])


def projection_case(session: Session, batch: int, seq: int, dtype: torch.dtype, training: bool) -> Case:
    """From the product of c_attn without its bias to q, k, v. With `training`, also back, to the bias's gradient."""
    device, width = session.device, (HEADS + 2 * KV_HEADS) * DIM
    generator = torch.Generator(device).manual_seed(0)
    moved = 2 * batch * seq * width * dtype.itemsize
    slots = session.slots(moved // 2)
    products = [
        torch.randn(batch, seq, width, generator=generator, device=device).to(dtype).requires_grad_(training)
        for _ in range(slots)
    ]
    bias = torch.randn(width, generator=generator, device=device).to(dtype).requires_grad_(training)
    cos, sin = tables(seq, device)
    cos2, sin2 = (torch.cat((table, table), dim=-1)[None].to(dtype) for table in (cos, sin))
    sizes = [heads * DIM for heads in (HEADS, KV_HEADS, KV_HEADS)]
    name, eager = eager_rotary()

    def one_pass(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rotary_qkv(x, bias, cos, sin, heads=HEADS, kv_heads=KV_HEADS)

    def three_passes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = (part.unflatten(-1, (-1, DIM)) for part in (x + bias).split(sizes, dim=-1))
        q, k = eager(q.transpose(1, 2), k.transpose(1, 2), cos2, sin2)
        return q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous(), v.contiguous()

    def ours_after_two(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = (part.unflatten(-1, (-1, DIM)) for part in (x + bias).split(sizes, dim=-1))
        return *rotary(q, k, cos, sin), v.contiguous()

    def step_of(function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> harness.Step:
        if not training:
            return lambda slot: function(products[slot])
        grads = [torch.randn_like(x) for x in function(products[0])]
        return lambda slot: torch.autograd.grad(function(products[slot]), (products[slot], bias), grads)

    def prepare() -> None:
        torch.manual_seed(0)  # the gradients of every contender

    contenders = [
        Contender("codeshell.ops.rotary_qkv, one pass", lambda: step_of(one_pass), ours=True),
        Contender("add, split, codeshell.ops.rotary", lambda: step_of(ours_after_two), ours=True),
        Contender(f"add, split, {name}", lambda: step_of(three_passes)),
    ]
    if not session.args.smoke:
        contenders.append(Contender("torch.compile of these", lambda: step_of(harness.compiled(three_passes))))
    form = ", forward and backward" if training else ""
    title = f"c_attn bias, split and rotary: {batch} x {seq} tokens, {HEADS}+{KV_HEADS} heads, {NAMES[dtype]}{form}"
    # The backward pass reads three gradients and writes one, which is as many bytes again.
    total = moved * (2 if training else 1)
    return Case(title, contenders, bytes=total, slots=slots, prepare=prepare, tolerance=TOLERANCE[dtype])


def cases(session: Session) -> Iterator[Case]:
    gpu = session.device.type == "cuda"
    batch, seq = (1, 8) if session.args.smoke else (2, 8192) if gpu else (2, 2048)
    for dtype in (torch.bfloat16, torch.float32):
        yield from forward_cases(session, batch, seq, dtype)
    yield training_case(session, batch, seq, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        yield projection_case(session, batch, seq, dtype, training=False)
    yield projection_case(session, batch, seq, torch.bfloat16, training=True)
    if not session.args.smoke:
        yield from forward_cases(session, 32, 1, torch.bfloat16)  # a decoding step of 32 sequences


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("rotary", args)
    if session.device.type == "cpu":
        session.absent("Liger", "its kernels need a GPU")
    elif not importlib.util.find_spec("liger_kernel"):
        session.absent("Liger", "not installed (pip install liger-kernel)")
    if devices.on_gpu(session.device) and (lacking := devices.missing(session.device, devices.ROTARY)):
        session.absent("our kernel", f"{lacking}: the rows of codeshell are PyTorch's")
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
