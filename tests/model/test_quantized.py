"""int8 models: near what they were made of, the same in any batch, a quarter of the memory, and refusals."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import tiny_model, tokens
from torch import nn

from codeshell.errors import UserError
from codeshell.model import KVCache
from codeshell.model.loading import WEIGHTS, load
from codeshell.model.quantized import QuantizedEmbedding, QuantizedLinear, quantize
from codeshell.ops.int8 import dequantize


def widened(model):
    """The same function by plain layers: the int8 weights as fp32."""
    twin = tiny_model(tie_word_embeddings=model.config.tie_word_embeddings)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear | QuantizedEmbedding):
                twin.get_submodule(name).weight.copy_(dequantize(module.quantized))
        for name, parameter in model.named_parameters():
            twin.get_parameter(name).copy_(parameter)
    return twin


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_model_of_its_rounded_weights(tied, dtype):
    plain = tiny_model(dtype, tie_word_embeddings=tied)
    parameters, ids = plain.num_parameters(), tokens(2, 30)
    before = plain(ids).logits.float()
    model = quantize(plain)
    assert model is plain and not model.training and model.dtype == torch.float32
    assert model.num_parameters() == parameters
    with torch.no_grad():
        logits, wanted = model(ids).logits, widened(model)(ids).logits
    assert logits.dtype == torch.float32
    # Activations are int16 in one and fp32 in the other; int8 weights are 100 times coarser.
    assert (logits - wanted).abs().max() < 5e-4 * wanted.abs().max()
    assert 0 < (logits - before).abs().max() < 0.05 * before.abs().max()
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear | QuantizedEmbedding)]
    assert len(layers) == 4 * model.config.n_layer + 2
    assert not any(type(m) in (nn.Linear, nn.Embedding) for m in model.modules())
    same = model.lm_head.values.data_ptr() == model.transformer.wte.values.data_ptr()
    assert same == tied


def test_memory_is_a_quarter():
    model = tiny_model(n_embd=256, n_head=4, vocab_size=2048)
    before = sum(p.numel() * 4 for p in model.parameters())
    quantize(model)
    held = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    assert sum(held.values()) < 0.27 * before


def test_loss_and_no_rows():
    model, ids = quantize(tiny_model()), tokens(2, 30)
    out = model(ids, labels=ids, return_logits=True)
    wanted = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert out.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    empty = ids[:0]
    assert model(empty).logits.shape == (0, 30, model.config.vocab_size)
    assert model(empty, labels=empty).loss.item() == 0.0
    assert tiny_model()(empty, labels=empty).loss.item() == 0.0


def test_generation_reads_in_any_pieces():
    """Products do not know how many rows they have: a prompt read in pieces leaves what one pass leaves, to the bit."""
    model, ids = quantize(tiny_model()), tokens(1, 40)
    alone = model.generate(ids, max_new_tokens=12)
    together = model.generate(torch.cat([ids, tokens(3, 40, seed=5)]), max_new_tokens=12)
    assert together[0] == alone[0] and len(alone[0]) == 12
    hidden = torch.randn(9, model.config.n_embd, generator=torch.Generator().manual_seed(0))
    layer = model.transformer.h[0].mlp.c_fc
    assert torch.equal(torch.cat([layer(hidden[:4]), layer(hidden[4:])]), layer(hidden))
    assert torch.equal(layer.rows(hidden), layer(hidden))
    with torch.no_grad():
        assert model(ids, cache=KVCache(model.config, 1, 64)).logits.isfinite().all()


def test_what_is_refused():
    with pytest.raises(UserError, match="Linear is no model of codeshell"):
        quantize(nn.Linear(2, 2))
    with pytest.raises(UserError, match="quantised already"):
        quantize(quantize(tiny_model()))
    with pytest.raises(UserError, match="is on meta, and int8 weights run on CPUs alone"):
        quantize(tiny_model().to("meta"))
    model = tiny_model()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 4] = float("inf")
    with pytest.raises(UserError, match=r"transformer\.h\.1\.mlp\.c_fc holds a NaN or an infinity"):
        quantize(model)
    # Nothing was changed before all was looked at.
    assert not any(isinstance(m, QuantizedLinear | QuantizedEmbedding) for m in model.modules())

    class Adapted(nn.Linear):
        pass

    model = tiny_model()
    model.transformer.h[0].attn.c_proj.__class__ = Adapted
    with pytest.raises(UserError, match=r"attn\.c_proj is a Adapted, not a plain layer"):
        quantize(model)
    model = quantize(tiny_model())
    with pytest.raises(ValueError, match="before it is quantised, not after"):
        model.to(torch.bfloat16)(tokens())


def test_it_is_not_saved(tmp_path):
    with pytest.raises(UserError, match="int8 weights are not saved"):
        quantize(tiny_model()).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_loading(tmp_path):
    model, ids = tiny_model(), tokens()
    model.save_pretrained(tmp_path)
    types = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
    for weights in WEIGHTS:
        loaded = load(tmp_path, weights)
        assert loaded.dtype == types[weights] and not loaded.training
        assert bool(loaded.quantized_weights) == (weights == "int8")
    assert torch.equal(load(tmp_path, "int8")(ids).logits, quantize(model)(ids).logits)
    assert load(tmp_path, auto=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UserError, match="--weights int4: choose one of auto, fp32, bf16, int8"):
        load(tmp_path, "int4")
    with pytest.raises(UserError, match=r"--weights int8: int8 weights run on CPUs alone, .* would be on cuda"):
        load(tmp_path, "int8", device="cuda")
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="holds NaN"):
        model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}: int8: weight .* holds a NaN"):
        load(tmp_path, "int8")
