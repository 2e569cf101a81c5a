"""The rotary tables under linear and dynamic scaling, alone and in the network against transformers."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import SHAPE, tiny_model, tokens

from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.rotary import RotaryTables


def test_linear_scaling_divides_positions():
    plain = RotaryTables(CodeShellConfig(**SHAPE)).get(48, torch.device("cpu"))[0]
    scaled = RotaryTables(CodeShellConfig(**SHAPE, rope_scaling={"type": "linear", "factor": 2.0}))
    assert torch.allclose(scaled.get(96, torch.device("cpu"))[0][:96:2], plain[:48])


def test_dynamic_scaling_follows_the_sequence_and_comes_back():
    """The formula of codeshell.md 2.2; a short input after a long one is unscaled again (the released code is not)."""
    config = CodeShellConfig(**SHAPE, rope_scaling={"type": "dynamic", "factor": 4.0})
    model = CodeShellForCausalLM(config).eval()
    x = tokens(1, 200)
    before = model(x[:, :90]).logits
    base = 10000.0 * ((4.0 * 200 / 96) - 3.0) ** (16 / 14)
    cos, _ = model.rotary.get(200, torch.device("cpu"))
    inv_freq = 1.0 / base ** (torch.arange(0, 16, 2) / 16)
    assert torch.allclose(cos[:200], torch.outer(torch.arange(200), inv_freq).cos(), atol=1e-4)
    model(x)
    assert torch.equal(model(x[:, :90]).logits, before)


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_scaled_rope_equals_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(rope_scaling={"type": kind, "factor": 2.0})
    model.save_pretrained(tmp_path, layout="starcoder2")
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    x = tokens(1, 150)
    assert torch.allclose(model(x).logits, peer(x).logits, atol=1e-3)
