"""The pass written out for generation against the model's own forward, and where it steps aside."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import tiny_model, tokens
from torch import nn

from codeshell.model import reading
from codeshell.model.reading import CodeShellReader, Decoder
from codeshell.ops import products

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.15}
"""The most that logits of the tiny model may differ, which are of the order of 5: sums in other orders, and
roundings to bf16 in between."""


def nothing() -> None:
    """Nobody cancels."""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 2, 4])
@torch.inference_mode()
def test_pieces_of_any_size_give_the_logits_of_forward(dtype, groups):
    model = tiny_model(dtype, num_query_groups=groups, tie_word_embeddings=groups == 2)
    ids = tokens(1, 60)
    decoder = Decoder(model.network())
    whole = model(ids).logits[0]
    for sizes in ([60], [1] * 60, [7, 1, 1, 30, 21], [59, 1]):
        cache, end = decoder.new_cache(1, 64), 0
        for size in sizes:
            part = ids[0, end : end + size].tolist()
            end += size
            scores = decoder.read(cache, 0, part, nothing, True)
            assert (scores - whole[end - 1]).abs().max() < TOLERANCE[dtype]
        assert cache.lengths == [60]
    assert decoder.read(decoder.new_cache(1, 8), 0, [1, 2], nothing, False) is None


@torch.inference_mode()
def test_rows_of_several_lengths_step_together():
    model = tiny_model()
    decoder = Decoder(model.network())
    rows = [tokens(1, n, seed=n)[0].tolist() for n in (20, 7, 33, 7)]
    cache = decoder.new_cache(5, 40)
    for row, ids in enumerate(rows):
        decoder.read(cache, row, ids[:-1], nothing, False)
    scores = decoder.step(cache, [ids[-1] for ids in rows])
    for ids, got in zip(rows, scores, strict=True):
        assert (got - model(torch.tensor([ids])).logits[0, -1]).abs().max() < 2e-5
    # The last row moves into the place of one that has ended; what was longer there is not seen.
    cache.move(3, 2)
    scores = decoder.step(cache, [1, 2, 3])
    for ids, token, got in zip((rows[0], rows[1], rows[3]), (1, 2, 3), scores, strict=True):
        assert (got - model(torch.tensor([[*ids, token]])).logits[0, -1]).abs().max() < 2e-5


@torch.inference_mode()
def test_a_pass_that_is_cancelled_leaves_the_cache_as_it_was():
    model, ids = tiny_model(), tokens(1, 30)[0].tolist()
    decoder = Decoder(model.network())
    cache = decoder.new_cache(1, 40)
    decoder.read(cache, 0, ids[:10], nothing, False)
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.read(cache, 0, ids[20:], check, True)
    assert cache.lengths == [10]
    got = decoder.read(cache, 0, ids[10:], nothing, True)
    assert (got - model(torch.tensor([ids])).logits[0, -1]).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_few_tokens_go_by_the_product_of_few_rows_and_many_do_not(dtype, monkeypatch):
    monkeypatch.setattr(products._C, "simd_level", lambda: "avx512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    model = tiny_model(dtype)
    seen, multiply = [], products.few_rows
    monkeypatch.setattr(reading, "few_rows", lambda x, *rest: (seen.append(len(x)), multiply(x, *rest))[1])
    decoder = Decoder(model.network())
    linears, most = 4 * model.config.n_layer, products.MOST_FEW_ROWS[dtype]
    for count in (1, 4, most):
        seen.clear()
        decoder.read(decoder.new_cache(1, 80), 0, tokens(1, count)[0].tolist(), nothing, True)
        assert seen == [count] * linears + [1]
    seen.clear()
    decoder.read(decoder.new_cache(1, 80), 0, tokens(1, most + 1)[0].tolist(), nothing, True)
    assert seen == [1]  # the head, which reads the last token alone


@pytest.mark.parametrize(("level", "supported"), [("avx2", True), ("avx2", False), ("avx512", False)])
def test_any_rows_in_bf16_are_ours_where_torch_emulates_it(level, supported, monkeypatch):
    monkeypatch.setattr(products._C, "simd_level", lambda: level)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert products.most_few_rows(torch.bfloat16) == products.ANY_ROWS
    assert products.most_few_rows(torch.float32) == products.MOST_FEW_ROWS[torch.float32]


@torch.inference_mode()
def test_weights_that_few_rows_do_not_serve_are_torchs(monkeypatch):
    monkeypatch.setattr(reading, "few_rows", None)  # a call would fail
    monkeypatch.setattr(reading, "serves_few_rows", lambda *_: False)
    model, ids = tiny_model(), tokens(1, 5)
    decoder = Decoder(model.network())
    got = decoder.read(decoder.new_cache(1, 8), 0, ids[0].tolist(), nothing, True)
    assert (got - model(ids).logits[0, -1]).abs().max() < 2e-5


class Doubled(nn.Linear):
    """A linear layer whose forward is not the formula."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def replaced(model: nn.Module, name: str) -> None:
    parent = model.get_submodule(name.rpartition(".")[0])
    old = model.get_submodule(name)
    new = Doubled(old.in_features, old.out_features)
    new.load_state_dict(old.state_dict())
    setattr(parent, name.rpartition(".")[2], new)


@pytest.mark.parametrize("part", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
@torch.inference_mode()
def test_linears_that_were_replaced_are_called(part):
    model, ids = tiny_model(), tokens(1, 30)
    before = model(ids).logits[0, -1]
    replaced(model, f"transformer.h.1.{part}")
    decoder = Decoder(model.network())
    got = decoder.read(decoder.new_cache(1, 40), 0, ids[0].tolist(), nothing, True)
    want = model(ids).logits[0, -1]
    assert (got - want).abs().max() < 2e-5 < (before - want).abs().max()


def _hook(name):
    def change(model):
        model.get_submodule(name).register_forward_hook(lambda *_: None)

    return change


def _norm_without_bias(model):
    model.transformer.ln_f = nn.LayerNorm(64, bias=False)


def _forward(model):
    block = model.transformer.h[0]
    block.forward = lambda x, sequences: type(block).forward(block, x, sequences)


@pytest.mark.parametrize(
    "change",
    [
        *(
            _hook(name)
            for name in ("", "transformer", "transformer.h.1", "transformer.h.0.attn", "transformer.h.1.mlp")
        ),
        _hook("transformer.h.0.ln_1"),
        _norm_without_bias,
        _forward,
        lambda model: model.train(),
        lambda model: model.half(),
        lambda model: setattr(model.transformer, "drop", nn.Identity()),
    ],
)
def test_a_model_that_is_not_as_built_is_read_by_its_own_forward(change):
    model = tiny_model()
    assert model.network() is not None
    change(model)
    assert model.network() is None
    if model.training or model.dtype == torch.float16:
        return
    reader, ids = CodeShellReader(model), tokens(1, 30)[0].tolist()
    cache = reader.new_cache(40)
    reader.read(cache, ids[:20], nothing, False)
    got = reader.read(cache, ids[20:], nothing, True)
    with torch.inference_mode():
        assert (got - model(torch.tensor([ids])).logits[0, -1]).abs().max() < 2e-5


def test_a_hook_for_all_modules_is_seen():
    model = tiny_model()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert model.network() is None
    finally:
        handle.remove()
    assert model.network() is not None


def test_autocast_and_simulated_gpus_have_the_forward(monkeypatch):
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.network() is None
    from codeshell.ops import devices

    monkeypatch.setattr(devices, "simulated", devices.Facts("H200", (9, 0), 132))
    assert model.network() is None


def test_pieces_are_as_long_as_a_block_may_take():
    assert tiny_model().reader().piece(0) == 512
    wide = tiny_model(n_embd=512, n_head=4)
    # 4.2 million weights of a block, twice as many operations for a token.
    assert wide.reader().piece(0) == 1_200_000_000 // (2 * 512 * (2 * 512 + 2 * 256 + 2 * 2048))


def test_a_stretched_rotary_embedding_is_not_cached_piecewise():
    """Keys of "dynamic" scaling depend on the length of the pass, as soon as it is beyond the trained positions."""
    scaled = tiny_model(rope_scaling={"type": "dynamic", "factor": 2.0})
    assert (scaled.reader().positions, scaled.config.max_length) == (96, 192)
    assert tiny_model(rope_scaling={"type": "linear", "factor": 2.0}).reader().positions == 192
