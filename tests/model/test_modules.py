"""The network against transformers' Starcoder2 (the same architecture), and what a batch may not change."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.tiny_models import SHAPE, tiny_model, tokens

from codeshell.model import CodeShellConfig, CodeShellForCausalLM, KVCache
from codeshell.model.precision import autocast, resolve
from codeshell.model.rotary import RotaryTables


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


def test_documents_are_isolated_bit_for_bit():
    model, x = tiny_model(), tokens()
    offsets = torch.tensor([0, 13, 13, 47, 80], dtype=torch.int32)
    before = model(x, cu_seqlens=offsets).logits.flatten(0, 1)
    changed = x.clone().flatten()
    changed[13:47] = (changed[13:47] + 1) % SHAPE["vocab_size"]
    after = model(changed.view_as(x), cu_seqlens=offsets, max_seqlen=34).logits.flatten(0, 1)
    assert torch.equal(before[:13], after[:13]) and torch.equal(before[47:], after[47:])
    assert not torch.equal(before[13:47], after[13:47])


def test_a_document_gets_the_logits_it_has_alone():
    model, x = tiny_model(), tokens()
    offsets = [0, 13, 47, 80]
    packed = model(x, cu_seqlens=torch.tensor(offsets, dtype=torch.int32)).logits.flatten(0, 1)
    for start, end in itertools.pairwise(offsets):
        alone = model(x.flatten()[None, start:end]).logits[0]
        assert torch.allclose(packed[start:end], alone, atol=1e-4)


def test_labels_never_cross_into_the_next_document():
    model, x = tiny_model(), tokens(1, 30)
    offsets = torch.tensor([0, 12, 30], dtype=torch.int32)
    targets = torch.cat((x[:, 1:], torch.tensor([[-100]])), dim=1)
    targets[0, 11] = -100
    assert torch.equal(model(x, labels=x, cu_seqlens=offsets).loss, model(x, targets=targets, cu_seqlens=offsets).loss)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, x = tiny_model(), tokens(2, 40)
    mask = torch.ones_like(x)
    pad = slice(0, 9) if side == "left" else slice(31, 40)
    mask[0, pad] = 0
    real = slice(9, 40) if side == "left" else slice(0, 31)
    padded = model(x, attention_mask=mask, labels=x, return_logits=True, reduction="sum")
    alone, other = (model(part, labels=part, return_logits=True, reduction="sum") for part in (x[:1, real], x[1:]))
    assert torch.allclose(padded.logits[0, real], alone.logits[0], atol=1e-4)
    assert torch.allclose(padded.logits[1], other.logits[0], atol=1e-4)
    assert not padded.logits[0, pad].any()
    # The last real token of a right-padded row predicts padding, which a caller marks with -100.
    if side == "left":
        assert torch.allclose(padded.loss, alone.loss + other.loss, rtol=1e-5)


@pytest.mark.parametrize("pad", [None, slice(0, 9), slice(31, 40)])
def test_last_logits_are_those_of_each_rows_last_real_token(pad):
    model, x = tiny_model(), tokens(2, 40)
    mask = torch.ones_like(x)
    if pad is not None:
        mask[0, pad] = 0
    last = model(x, attention_mask=mask, return_logits="last").logits
    whole = model(x, attention_mask=mask).logits
    ends = [39 if pad is None or pad.start == 0 else 30, 39]
    assert last.shape == (2, 1, whole.shape[-1])
    torch.testing.assert_close(last[:, 0], torch.stack([whole[row, end] for row, end in enumerate(ends)]))


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


def test_dropout_acts_in_training_only():
    model, x = tiny_model(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1), tokens()
    assert torch.equal(model(x).logits, tiny_model()(x).logits)
    model.train()
    assert not torch.equal(model(x).logits, model(x).logits)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.zeros(4, dtype=torch.int64)}, "input_ids"),
        ({"input_ids": torch.zeros(1, 4)}, "int64"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, "at least one"),
        ({"input_ids": torch.full((1, 4), 384)}, "ids run from 384"),
        ({"input_ids": torch.zeros(1, 97, dtype=torch.int64)}, "beyond the model's 96"),
        ({"labels": torch.zeros(1, 3, dtype=torch.int64)}, "labels"),
        ({"labels": torch.zeros(1, 4, dtype=torch.int64), "targets": torch.zeros(1, 4, dtype=torch.int64)}, "one of"),
        ({"attention_mask": torch.ones(1, 5)}, "attention_mask"),
        ({"attention_mask": torch.zeros(1, 4)}, "no real token"),
        ({"positions": torch.zeros(1, 5, dtype=torch.int64)}, "positions"),
        ({"positions": torch.full((1, 4), 96)}, "position 96 is beyond"),
        ({"cu_seqlens": torch.tensor([0, 3], dtype=torch.int32)}, "cu_seqlens must rise"),
        ({"cu_seqlens": torch.tensor([0, 4])}, "int32"),
        ({"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32), "attention_mask": torch.ones(1, 4)}, "combined"),
        ({"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32), "max_seqlen": 3}, "max_seqlen"),
        ({"cache": KVCache(CodeShellConfig(**SHAPE), 1, 3)}, "cache holds"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**({"input_ids": torch.zeros(1, 4, dtype=torch.int64)} | change))
