"""Training steps of a whole model on one GPU, with the MFU: codeshell-small (1.2 B parameters) at 2,048 tokens.

    python benchmarks/train_gpu.py --json train-gpu.json

A step is forward, loss, backward, gradient clipping, AdamW and zero_grad of one micro-batch, in bf16 autocast over fp32
weights, as `codeshell train` does it by default. The peer is transformers' Starcoder2 of the same shape and the same
initial weights, with torch's SDPA and fused AdamW; the losses of the first steps are compared before anything is timed.

FLOPs are those of codeshell/train/flops.py: 6 for each weight of a product and 12 L d T for full attention, for each
token. The MFU is their rate over the device's dense bf16 peak, and is printed and in `mfu` of the result by the row's
name; a device without an entry in the table of peaks has none. The floor is a matrix product in the same run.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import harness
import torch
from harness import Case, Contender, Session, Step
from torch import nn

from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.precision import autocast
from codeshell.optim import AdamW, parameter_groups
from codeshell.train.flops import CONVENTION, flops_per_token, peak_flops

SMALL: dict[str, int] = {"vocab_size": 70_144, "n_layer": 24, "n_embd": 2048, "n_head": 16, "num_query_groups": 4}
"""The shape of recipes/codeshell-small.toml."""
TINY: dict[str, int] = {"vocab_size": 128, "n_layer": 2, "n_embd": 32, "n_head": 4, "num_query_groups": 2}
SETTINGS: dict[str, Any] = {"lr": 3e-4, "betas": (0.9, 0.95)}
OURS = "codeshell, bf16 autocast"


def our_model(shape: dict[str, int], context: int, device: torch.device) -> CodeShellForCausalLM:
    """A model with initial weights that are drawn on the device, the same each time."""
    config = CodeShellConfig(**shape, n_positions=context, bos_token_id=0, eos_token_id=0)
    with torch.device(device):
        model = CodeShellForCausalLM(config)
    model.reset_parameters(torch.Generator(device).manual_seed(0))
    return model.train()


def ours(shape: dict[str, int], data: torch.Tensor) -> Step:
    model = our_model(shape, data.shape[1], data.device)
    optimizer = AdamW(parameter_groups(model, 0.1), **SETTINGS)

    def step(_: int) -> torch.Tensor:
        with autocast("bf16", data.device):
            loss = model(data, labels=data).loss
        loss.backward()
        optimizer.clip_grad_norm(1.0)
        return finish(optimizer, loss)

    return step


def starcoder2(shape: dict[str, int], data: torch.Tensor) -> Step:
    """transformers' model with the weights of ours."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    from codeshell.model.checkpoints import _to_starcoder2

    source = our_model(shape, data.shape[1], data.device)
    config = Starcoder2Config(**source.config.to_starcoder2_dict())
    with torch.device(data.device):
        model = Starcoder2ForCausalLM._from_config(config, attn_implementation="sdpa")
    weights = dict(_to_starcoder2({n: p.detach() for n, p in source.named_parameters()}, source.config))
    model.load_state_dict(weights, strict=False)
    del source, weights
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), **SETTINGS, fused=True)

    def step(_: int) -> torch.Tensor:
        with autocast("bf16", data.device):
            loss = model(input_ids=data, labels=data, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return finish(optimizer, loss)

    return step


def finish(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def cases(session: Session) -> Iterator[Case]:
    smoke = session.device.type == "cpu"
    shape, batch, context = (TINY, 2, 16) if smoke else (SMALL, 8, 2048)
    generator = torch.Generator(session.device).manual_seed(1)
    data = torch.randint(0, shape["vocab_size"], (batch, context), generator=generator, device=session.device)
    makers: dict[str, Callable[[], Step]] = {OURS: lambda: ours(shape, data)}
    if importlib.util.find_spec("transformers"):
        makers["transformers Starcoder2, bf16 autocast, sdpa"] = lambda: starcoder2(shape, data)
    else:
        session.absent("transformers", "not installed (pip install transformers)")
    config = CodeShellConfig(**shape, n_positions=context, bos_token_id=0, eos_token_id=0)
    yield Case(
        f"a step of {batch} x {context} tokens, {shape['n_layer']} layers of width {shape['n_embd']}",
        [Contender(name, make, ours=name == OURS, graph=False) for name, make in makers.items()],
        flops=batch * context * flops_per_token(config, context),
        floor="gemm",
        tolerance=2e-2,
    )


def add_mfu(session: Session) -> None:
    """The MFU of each row, where the device's peak is known."""
    name = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else session.device.type
    peak = peak_flops(name, "bf16")
    session.result |= {"mfu": {}, "mfu_convention": CONVENTION, "peak_teraflops": peak and peak / 1e12}
    for row in session.rows:
        if row["teraflops"] is None:
            continue
        if peak is None:
            print(f"{row['name']}: no MFU, because the peak of {name} is not known")
            continue
        session.result["mfu"][row["name"]] = round(row["teraflops"] * 1e12 / peak, 4)
        print(f"{row['name']}: MFU {100 * row['teraflops'] * 1e12 / peak:.1f} % ({CONVENTION})")


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    session = Session("train_gpu", args, floors=("gemm",))
    session.run(cases(session))
    add_mfu(session)
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
