"""Which precision `auto` is, and what bf16 autocast changes."""

from __future__ import annotations

import torch
from helpers.tiny_models import tiny_model, tokens

from codeshell.model.precision import autocast, resolve


def test_bf16_autocast_stays_close_and_gradients_are_fp32():
    model, x = tiny_model(), tokens()
    exact = model(x, labels=x).loss
    with autocast("bf16"):
        loss = model(x, labels=x).loss
    loss.backward()
    assert loss.dtype == torch.float32 and loss != exact and abs(loss - exact) < 0.05 * exact
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_auto_precision_depends_on_the_processor_alone(monkeypatch):
    for amx, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert resolve("auto", "cpu") == wanted
    assert resolve("bf16", "cpu") == "bf16"
