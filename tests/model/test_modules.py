"""The network against transformers' Starcoder2 (the same architecture), and what a batch may not change."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.tiny_models import SHAPE, tiny_model, tokens

from codeshell.model import CodeShellConfig, CodeShellForCausalLM, KVCache


@pytest.fixture(scope="module")
def starcoder2(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("starcoder2")
    tiny_model().save_pretrained(directory, layout="starcoder2")
    return lambda dtype: transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager"
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.float64, 2e-6)])
def test_logits_loss_and_gradients_equal_starcoder2(starcoder2, dtype, bound):
    """fp64 agrees to 2e-6 only, because both compute the rotary angles in fp32, and Starcoder2 its softmax too."""
    mine, peer, x = tiny_model(dtype), starcoder2(dtype), tokens()
    labels = x.clone()
    labels[:, ::7] = -100
    got, want = mine(x, labels=labels, return_logits=True), peer(x, labels=labels)
    assert (got.logits - want.logits).abs().max() < bound * want.logits.abs().max()
    assert abs(got.loss - want.loss) < bound
    got.loss.backward()
    want.loss.backward()
    pairs = {
        "transformer.wte.weight": peer.model.embed_tokens.weight.grad,
        "transformer.ln_f.bias": peer.model.norm.bias.grad,
    }
    for i, layer in enumerate(peer.model.layers):
        h, attention = f"transformer.h.{i}.", layer.self_attn
        for kind in ("weight", "bias"):
            qkv = [getattr(p, kind).grad for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
            pairs |= {
                f"{h}ln_1.{kind}": getattr(layer.input_layernorm, kind).grad,
                f"{h}ln_2.{kind}": getattr(layer.post_attention_layernorm, kind).grad,
                f"{h}attn.c_attn.{kind}": torch.cat(qkv),
                f"{h}attn.c_proj.{kind}": getattr(attention.o_proj, kind).grad,
                f"{h}mlp.c_fc.{kind}": getattr(layer.mlp.c_fc, kind).grad,
                f"{h}mlp.c_proj.{kind}": getattr(layer.mlp.c_proj, kind).grad,
            }
    for name, gradient in pairs.items():
        error = (mine.get_parameter(name).grad - gradient).abs().max()
        assert error < bound * max(1.0, float(gradient.abs().max())), name


def test_names_shapes_and_number_of_the_released_model():
    with torch.device("meta"):
        model = CodeShellForCausalLM(CodeShellConfig())
    assert model.num_parameters() == 7_688_048_640
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    layer = "transformer.h.41."
    assert {name: shape for name, shape in shapes.items() if name.startswith(layer)} == {
        layer + "ln_1.weight": (4096,),
        layer + "ln_1.bias": (4096,),
        layer + "attn.c_attn.weight": (6144, 4096),
        layer + "attn.c_attn.bias": (6144,),
        layer + "attn.c_proj.weight": (4096, 4096),
        layer + "attn.c_proj.bias": (4096,),
        layer + "ln_2.weight": (4096,),
        layer + "ln_2.bias": (4096,),
        layer + "mlp.c_fc.weight": (16384, 4096),
        layer + "mlp.c_fc.bias": (16384,),
        layer + "mlp.c_proj.weight": (4096, 16384),
        layer + "mlp.c_proj.bias": (4096,),
    }
    rest = {name: shape for name, shape in shapes.items() if ".h." not in name}
    embedding, norm = (70144, 4096), (4096,)
    assert rest == {
        "transformer.wte.weight": embedding,
        "transformer.ln_f.weight": norm,
        "transformer.ln_f.bias": norm,
        "lm_head.weight": embedding,
    }


def test_initialisation():
    model = CodeShellForCausalLM(CodeShellConfig(**(SHAPE | {"n_embd": 256, "n_layer": 8})))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif ".ln_" in name:
            assert (parameter == 1).all()
        else:
            want = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert abs(float(parameter.detach().std()) - want) < 0.05 * want
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    draws = []
    for generator in generators:
        model.reset_parameters(generator)
        draws.append(model.lm_head.weight.clone())
    assert torch.equal(*draws)


@pytest.mark.parametrize("pieces", [[40], [17, 23], [20, 1, 1, 18]])
@pytest.mark.parametrize("padded", [False, True])
def test_cache_gives_the_logits_of_one_pass(pieces, padded):
    model, x = tiny_model(), tokens()
    mask = torch.ones_like(x)
    if padded:
        mask[1, :6] = 0
    cache, parts, start = KVCache(model.config, 2, 40), [], 0
    for size in pieces:
        part = slice(start, start + size)
        first = {"attention_mask": mask[:, part]} if start == 0 else {}
        parts.append(model(x[:, part], cache=cache, **first).logits)
        start += size
    assert cache.lengths.tolist() == mask.sum(1).tolist()
    assert torch.allclose(torch.cat(parts, 1), model(x, attention_mask=mask).logits, atol=1e-4)


def test_gradients_accumulate_to_the_whole_batch():
    model, x = tiny_model(), tokens(4, 20)
    model(x, labels=x, reduction="sum").loss.backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for row in x.split(1):
        model(row, labels=row, reduction="sum").loss.backward()
    assert all(torch.allclose(a, p.grad, rtol=1e-3, atol=1e-3) for a, p in zip(whole, model.parameters(), strict=True))


def test_dropout_acts_in_training_only():
    model, x = tiny_model(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1), tokens()
    assert torch.equal(model(x).logits, tiny_model()(x).logits)
    model.train()
    assert not torch.equal(model(x).logits, model(x).logits)


def test_training_goes_on_after_generation():
    model = tiny_model()
    model.generate(tokens(1, 9), max_new_tokens=3)
    model(tokens(), labels=tokens()).loss.backward()


def test_a_step_repeats_bit_for_bit():
    def step() -> list[torch.Tensor]:
        model = tiny_model()
        offsets = torch.tensor([0, 30, 80], dtype=torch.int32)
        model(tokens(), labels=tokens(), cu_seqlens=offsets).loss.backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))
