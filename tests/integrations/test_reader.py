"""Models of transformers read in pieces into a cache that is cut, copied and extended: the numbers of a whole pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import tiny_transformers
from helpers.tiny_transformers import KINDS, WINDOW, tiny

from codeshell.integrations import ARCHITECTURES
from codeshell.integrations.patching import patch
from codeshell.integrations.reader import TransformersReader, positions
from codeshell.model.reading import go_on

IDS = tiny_transformers.tokens(1, 40, seed=1)[0].tolist()
OTHER = tiny_transformers.tokens(1, 40, seed=2)[0].tolist()


def whole(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits after the last token, in one pass without a cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    return logits


def close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None and torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))


def read(reader: TransformersReader, cache: Any, ids: list[int], sizes: tuple[int, ...]) -> torch.Tensor | None:
    """Read ids in pieces of these sizes, and the rest at once; logits after the last."""
    at = 0
    for size in sizes:
        assert reader.read(cache, ids[at : at + size], go_on, False) is None
        at += size
    return reader.read(cache, ids[at:], go_on, True)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_pieces_cuts_and_copies_give_the_logits_of_a_whole_pass(kind: str, patched: bool) -> None:
    """Sliding windows (shorter than the prompt), alternating ones, capped and divided logits among them."""
    model = tiny(kind)
    expected = {length: whole(model, IDS[:length]) for length in (1, 25, 26, 40)}
    edited = [*IDS[:19], *OTHER[:14]]
    after_edit, after_long_cut = whole(model, edited), whole(model, [*IDS[:3], *OTHER])
    if patched:
        patch(model)
    reader = TransformersReader(model)
    cache = reader.new_cache(64)
    close(reader.read(cache, IDS[:1], go_on, True), expected[1])
    close(read(reader, cache, IDS[1:25], (5, 1, WINDOW + 1)), expected[25])
    # One token, and then the rest.
    close(reader.read(cache, IDS[25:26], go_on, True), expected[26])
    close(read(reader, cache, IDS[26:], (3,)), expected[40])
    # A copy with more room, before the first one is cut.
    copy = reader.copy_cache(cache, 30, 100)
    assert (copy.length, reader.capacity(copy), cache.length) == (30, 100, 40)
    # An edit far before the end: what has left the windows must be there again.
    reader.cut_cache(cache, 19)
    close(read(reader, cache, OTHER[:14], (2,)), after_edit)
    reader.cut_cache(cache, 3)
    close(reader.read(cache, OTHER, go_on, True), after_long_cut)
    # The copy knows nothing of it.
    close(read(reader, copy, IDS[30:], (1, 1)), expected[40])


def test_the_windows_of_these_tests_are_windows() -> None:
    """A model without its window gives other logits, so the test above sees windows."""
    for kind in ("mistral", "qwen2", "starcoder2", "gemma2", "gemma3_text"):
        model, full = tiny(kind), tiny(kind, sliding_window=1000)
        assert (whole(model, IDS) - whole(full, IDS)).abs().max() > 1e-3, kind
    assert (whole(tiny("gemma2"), IDS) - whole(tiny("gemma2", attn_logit_softcapping=50.0), IDS)).abs().max() > 1e-3
    assert set(KINDS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_an_exception_between_layers_leaves_the_cache_as_it_was(kind: str) -> None:
    model = tiny(kind)
    expected = whole(model, IDS)
    reader, calls = TransformersReader(model), []

    class GoneError(Exception):
        pass

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise GoneError

    cache = reader.new_cache(40)
    reader.read(cache, IDS[:21], go_on, False)
    with pytest.raises(GoneError):
        reader.read(cache, OTHER[:9], check, True)
    # Once for each layer, and the second one was not computed.
    assert len(calls) == 2 and cache.length == 21
    close(reader.read(cache, IDS[21:], go_on, True), expected)
    assert len(calls) == 2


def test_what_a_session_is_told() -> None:
    reader = TransformersReader(tiny("qwen3").bfloat16())
    # Two layers, two key/value heads of 16, keys and values, two bytes.
    assert reader.cache_bytes(10) == 10 * 2 * 2 * 16 * 2 * 2
    cache = reader.new_cache(10)
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert sum(tensor.numel() * tensor.itemsize for tensor in tensors) == reader.cache_bytes(10)
    assert (reader.positions, reader.vocabulary, reader.reader()) == (128, 96, reader)
    assert 16 <= reader.piece(0) <= 512
    scores = reader.read(cache, IDS[:4], go_on, True)
    assert scores is not None and scores.shape == (96,) and scores.dtype == torch.float32


LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
}


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 128),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, 128),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 128),
        (LONG, 24),
    ],
)
def test_a_model_whose_angles_depend_on_the_length_is_read_up_to_its_first_length(
    rope: dict[str, Any], expected: int
) -> None:
    torch.manual_seed(0)
    config = tiny_transformers.config("llama", rope_parameters=dict(rope))
    model = tiny_transformers.transformers.LlamaForCausalLM(config).eval()
    assert positions(model.config) == expected
    reader = TransformersReader(model)
    ids = IDS[: min(expected, 40)]
    close(read(reader, reader.new_cache(64), ids, (7, 9)), whole(model, ids))


def test_gemma_3_has_angles_for_each_type_of_layer() -> None:
    config = tiny("gemma3_text").config
    assert positions(config) == 128
    config.rope_parameters["full_attention"] = dict(LONG)
    assert positions(config) == 24
