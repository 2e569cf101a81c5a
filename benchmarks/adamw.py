"""AdamW steps: codeshell.optim.AdamW against torch's (fused, foreach, for-loop), apex and TransformerEngine.

    python benchmarks/adamw.py --json benchmarks/results/adamw-cpu.json --chart adamw.svg

The schemes, with the bytes that a step must move per parameter (every array once):

    fp32                 28   parameters, gradients, both moments in fp32
    bf16, fp32 master    28   bf16 parameters, which are only written; fp32 master and moments
    bf16, stochastic     22   bf16 parameters and gradients rounded stochastically, fp32 moments, no master
    bf16 throughout      14   moments in bf16 too; rounded to nearest as in torch, or stochastically

All schemes have 10^9 parameters on a GPU and 5 * 10^7 on a CPU. torch has no master weights, so its peer does what
training loops do: convert gradients to fp32, run the fused step on the master, convert the result back to bf16. The
case of small tensors has 10,000 tensors of 1 to 4096 elements, and beside them one tensor of as many elements.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step

from codeshell.ops import devices
from codeshell.optim import AdamW

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
FUSED, FOREACH, LOOP = {"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}


@dataclass(frozen=True)
class Scheme:
    name: str
    bytes: int
    dtype: torch.dtype
    ours: dict[str, Any]
    """Arguments of codeshell.optim.AdamW."""
    tolerance: float | None = None
    master: bool = False
    torch_peers: bool = False


SCHEMES = [
    Scheme("fp32", 28, torch.float32, {}, tolerance=1e-5, torch_peers=True),
    Scheme("bf16, fp32 master", 28, torch.bfloat16, {"master_weights": True}, tolerance=1e-2, master=True),
    Scheme("bf16, stochastic", 22, torch.bfloat16, {"stochastic_rounding": True}),
    Scheme("bf16 throughout", 14, torch.bfloat16, {}, tolerance=1e-2, torch_peers=True),
    Scheme("fp16 throughout", 14, torch.float16, {}, torch_peers=True),
    Scheme(
        "bf16 throughout, stochastic",
        14,
        torch.bfloat16,
        {"stochastic_rounding": True, "moment_dtype": torch.bfloat16},
    ),
]
"""`torch_peers` marks the schemes in which torch's AdamW keeps its state."""


def tensors(sizes: list[int], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Parameters with gradients, the same random values each time."""
    generator = torch.Generator(device).manual_seed(0)
    parameters = []
    for size in sizes:
        parameter = torch.randn(size, generator=generator, device=device).to(dtype).requires_grad_()
        parameter.grad = torch.randn(size, generator=generator, device=device).to(dtype)
        parameters.append(parameter)
    return parameters


def stepping(make: Callable[..., torch.optim.Optimizer], parameters: list[torch.Tensor], **settings: Any) -> Step:
    optimizer = make(parameters, **SETTINGS, **settings)

    def step(_: int) -> list[torch.Tensor]:
        optimizer.step()
        return parameters

    return step


def torch_master(parameters: list[torch.Tensor]) -> Step:
    """torch's fused step on fp32 copies, as in a training loop with bf16 weights and nothing but torch."""
    masters = [p.detach().float().requires_grad_() for p in parameters]
    for master in masters:
        master.grad = torch.empty_like(master)
    gradients = [m.grad for m in masters]
    optimizer = torch.optim.AdamW(masters, **SETTINGS, fused=True)

    def step(_: int) -> list[torch.Tensor]:
        with torch.no_grad():
            torch._foreach_copy_(gradients, [p.grad for p in parameters])
            optimizer.step()
            torch._foreach_copy_(parameters, masters)
        return parameters

    return step


def other_packages(scheme: Scheme, make_tensors: Callable[[], list[torch.Tensor]], gpu: bool) -> list[Contender]:
    """The fused Adam of apex and of TransformerEngine, where they are installed and have the scheme."""
    if not gpu or not (scheme.torch_peers or scheme.master):
        return []
    found = []
    master = {"master_weights": True} if scheme.master else {}

    def apex() -> Step:
        from apex.optimizers import FusedAdam

        return stepping(FusedAdam, make_tensors(), adam_w_mode=True, **master)

    def transformer_engine() -> Step:
        from transformer_engine.pytorch.optimizers import FusedAdam

        return stepping(FusedAdam, make_tensors(), adam_w_mode=True, **master)

    for name, module, make in (
        ("apex FusedAdam", "apex", apex),
        ("TransformerEngine FusedAdam", "transformer_engine", transformer_engine),
    ):
        if importlib.util.find_spec(module):
            found.append(Contender(name, make, graph=False))
    return found


def scheme_case(session: Session, scheme: Scheme, total: int, parts: int) -> Case:
    device = session.device
    make_tensors = partial(tensors, [total // parts] * parts, scheme.dtype, device)
    contenders = [
        Contender(
            "codeshell.optim.AdamW", lambda: stepping(AdamW, make_tensors(), **scheme.ours), ours=True, graph=False
        )
    ]
    if scheme.torch_peers:
        for name, how in (("fused", FUSED), ("foreach", FOREACH), ("for-loop", LOOP)):
            make = lambda how=how: stepping(torch.optim.AdamW, make_tensors(), **how)  # noqa: E731
            contenders.append(Contender(f"torch AdamW, {name}", make, graph=False))
    if scheme.master:
        contenders.append(
            Contender("torch AdamW fused on a master, casts", lambda: torch_master(make_tensors()), graph=False)
        )
    contenders += other_packages(scheme, make_tensors, device.type == "cuda")
    title = f"{scheme.name}, {total:,} parameters in {parts} tensors"
    return Case(title, contenders, bytes=scheme.bytes * parts * (total // parts), tolerance=scheme.tolerance)


def small_tensors(session: Session, count: int) -> Case:
    """Many small tensors, against one tensor of as many elements."""
    sizes = torch.randint(1, 4097, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    many = partial(tensors, sizes, torch.float32, session.device)
    one = partial(tensors, [sum(sizes)], torch.float32, session.device)
    contenders = [
        Contender("codeshell.optim.AdamW", lambda: stepping(AdamW, many()), ours=True, graph=False),
        Contender("codeshell.optim.AdamW, one tensor", lambda: stepping(AdamW, one()), peer=False, graph=False),
        Contender("torch AdamW, fused", lambda: stepping(torch.optim.AdamW, many(), **FUSED), graph=False),
        Contender(
            "torch AdamW, fused, one tensor",
            lambda: stepping(torch.optim.AdamW, one(), **FUSED),
            peer=False,
            graph=False,
        ),
        Contender("torch AdamW, foreach", lambda: stepping(torch.optim.AdamW, many(), **FOREACH), graph=False),
    ]
    return Case(
        f"fp32, {count:,} tensors of 1-4096 elements, {sum(sizes):,} parameters", contenders, bytes=28 * sum(sizes)
    )


def clipping(session: Session, total: int, parts: int) -> Iterator[Case]:
    """The global norm of the gradients, alone and as part of a step."""
    make_tensors = partial(tensors, [total // parts] * parts, torch.float32, session.device)
    count = parts * (total // parts)

    def ours_norm() -> Step:
        optimizer = AdamW(make_tensors(), **SETTINGS)
        return lambda _: optimizer.clip_grad_norm(1.0)

    def torch_norm() -> Step:
        gradients = [p.grad for p in make_tensors()]
        return lambda _: torch.nn.utils.get_total_norm(gradients)

    yield Case(
        f"global norm of {total:,} fp32 gradients in {parts} tensors",
        [
            Contender("codeshell AdamW.clip_grad_norm", ours_norm, ours=True, graph=False),
            Contender("torch.nn.utils.get_total_norm", torch_norm, graph=False),
        ],
        bytes=4 * count,
        floor="read",
        tolerance=1e-4,
    )

    def ours() -> Step:
        parameters = make_tensors()
        optimizer = AdamW(parameters, **SETTINGS)

        def step(_: int) -> list[torch.Tensor]:
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
            return parameters

        return step

    def peer() -> Step:
        parameters = make_tensors()
        optimizer = torch.optim.AdamW(parameters, **SETTINGS, **FUSED)

        def step(_: int) -> list[torch.Tensor]:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            return parameters

        return step

    yield Case(
        f"clipping and step, fp32, {total:,} parameters in {parts} tensors",
        [
            Contender("codeshell clip_grad_norm, step", ours, ours=True, graph=False),
            Contender("torch clip_grad_norm_, fused step", peer, graph=False),
        ],
        bytes=32 * count,  # 4 for the norm, 28 for the step that applies the factor
        tolerance=1e-4,
    )


def cases(session: Session) -> Iterator[Case]:
    gpu, smoke = session.device.type == "cuda", session.args.smoke
    total, parts = (4096, 4) if smoke else (1_000_000_000, 40) if gpu else (50_000_000, 20)
    for scheme in SCHEMES:
        yield scheme_case(session, scheme, total, parts)
    yield small_tensors(session, 20 if smoke else 10_000)
    yield from clipping(session, total, parts)


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("adamw", args)
    for name, module in (("apex", "apex"), ("TransformerEngine", "transformer_engine")):
        if session.device.type == "cpu":
            session.absent(name, "its kernels need a GPU")
        elif not importlib.util.find_spec(module):
            session.absent(name, "not installed")
    if devices.on_gpu(session.device) and (lacking := devices.missing(session.device, devices.ADAMW)):
        session.absent("our kernel", f"{lacking}: the rows of codeshell are PyTorch's")
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
