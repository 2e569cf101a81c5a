"""The attention and the mask function of `attn_implementation="codeshell"`, called as transformers calls them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_transformers import tiny, tokens, transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.integrations import masks
from codeshell.integrations.masks import Pattern

interface = pytest.importorskip("codeshell.integrations.transformers")
masking = transformers.masking_utils
MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=2, training=False, layer_idx=0)


def tensors(queries=9, keys=9, batch=2, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 4, queries, dim), (batch, 2, keys, dim), (batch, 2, keys, dim)]
    return [torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes]


def reference(q, k, v, seen, scale=None, softcap=None, sinks=None):
    """(batch, queries, heads, dim) in fp64; zeros where a query sees nothing."""
    k, v = (x.double().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q.double() @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    total = scores.exp().sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp().view(1, -1, 1, 1)
    return (scores.exp() / total.clamp_min(1e-300) @ v).transpose(1, 2)


def causal(queries, keys, window=None):
    last = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)
    return (key <= last) & (key > last - (keys if window is None else window))


def test_both_are_registered():
    assert transformers.AttentionInterface()["codeshell"] is interface.attention
    assert transformers.AttentionMaskInterface()["codeshell"] is interface.mask


CONFIG = SimpleNamespace(model_type="llama")


def ask(function, **arguments):
    defaults = {"dtype": torch.float32, "device": torch.device("cpu"), "use_vmap": False, "config": CONFIG}
    return function(**(defaults | arguments))


@st.composite
def situations(draw):
    """The arguments of a mask function, and the (batch, queries) tokens that count."""
    batch, queries = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    past = draw(st.sampled_from([0, 0, 1, 6]))
    keys, window = queries + past, draw(st.sampled_from([None, 1, 3, 9]))
    dropped = draw(st.integers(0, past)) if window is not None else 0  # a sliding cache forgets the oldest
    function = masking.causal_mask_function if window is None else masking.sliding_window_causal_mask_function(window)
    real, padding = torch.ones(batch, queries, dtype=torch.bool), None
    if past == 0 and draw(st.booleans()):
        lengths = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=batch, max_size=batch))
        positions = torch.stack([torch.cat([torch.arange(n) for n in [*row, queries]])[:queries] for row in lengths])
        documents = masking.find_packed_sequence_indices(positions)
        if documents is not None and hasattr(masking, "packed_sequence_compatibility_function"):
            function = masking.packed_sequence_compatibility_function(function, positions, documents)
        elif documents is not None:  # as it was up to transformers 5.17
            function = masking.and_masks(function, masking.packed_sequence_mask_function(documents))
    elif draw(st.booleans()):
        bits = st.lists(st.booleans(), min_size=keys, max_size=keys)
        padding = torch.tensor(draw(st.lists(bits, min_size=batch, max_size=batch)))
        if draw(st.booleans()):  # a run of real tokens in each row, not just any
            edge = st.integers(0, keys)
            edges = torch.tensor(draw(st.lists(st.tuples(edge, edge), min_size=batch, max_size=batch)))
            place = torch.arange(keys)
            padding = (place >= edges.amin(1)[:, None]) & (place < edges.amax(1)[:, None])
        real = padding[:, past:]
    arguments = {"batch_size": batch, "q_length": queries, "kv_length": keys - dropped, "q_offset": past}
    arguments |= {"kv_offset": dropped, "mask_function": function, "attention_mask": padding, "local_size": window}
    return arguments, real


@settings(max_examples=150, deadline=None)
@given(situation=situations())
def test_patterns_mean_the_masks_of_transformers(situation):
    arguments, real = situation
    batch, queries, keys = arguments["batch_size"], arguments["q_length"], arguments["kv_length"]
    want = ask(masking.sdpa_mask, **arguments, allow_is_causal_skip=False)
    got = ask(masks.mask, **arguments, allow_is_causal_skip=True)
    q, k, v = tensors(queries, keys, batch)
    out, _ = interface.attention(MODULE, q, k, v, got)
    assert torch.allclose(out.double()[real], reference(q, k, v, want)[real], atol=1e-5)
    if isinstance(got, Pattern):
        dense = got.dense(batch, queries, keys, torch.device("cpu")).expand(want.shape)
        assert torch.equal(dense.transpose(1, 2)[real], want.transpose(1, 2)[real])
        assert got.rows is None or not out[~real].any()  # the padding's rows are zeros


def plain(**changes):
    arguments = {"batch_size": 2, "q_length": 9, "kv_length": 9, "q_offset": 0, "kv_offset": 0}
    arguments |= {"mask_function": masking.causal_mask_function, "attention_mask": None}
    return ask(masks.mask, **(arguments | changes))


def test_what_becomes_a_pattern():
    """And so runs without a mask; what does not is never wrong, but a dense mask."""
    left, holes = torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 9, dtype=torch.bool)
    left[0, :4], holes[0, 3:5] = False, False
    sliding = masking.sliding_window_causal_mask_function(4)
    assert plain() == Pattern() and plain(attention_mask=left | True) == Pattern(masked=True)
    assert plain(mask_function=sliding) == Pattern(4)
    assert plain(mask_function=masking.sliding_window_causal_mask_function(9)) == Pattern()
    assert plain(q_length=3, q_offset=6) == plain(q_length=1, q_offset=8) == Pattern()
    assert plain(attention_mask=left).cu_seqlens.tolist() == [0, 5, 14]
    assert plain(attention_mask=left, mask_function=sliding).window == 4
    assert plain(attention_mask=holes).cu_seqlens.tolist() == [0, 7, 16]
    assert plain(attention_mask=plain()) == Pattern()  # what `generate` made comes back from the model
    chunked = masking.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.int64))
    for dense in (
        {"attention_mask": holes, "mask_function": sliding},  # a window counts the padding between tokens
        {"attention_mask": left, "q_length": 1, "q_offset": 8},
        {"mask_function": masking.and_masks(masking.causal_mask_function, masking.causal_mask_function)},
        {"mask_function": masking.or_masks(masking.causal_mask_function, masking.causal_mask_function)},
        {"mask_function": chunked, "local_size": 4},
        {"mask_function": lambda b, h, q, k: k <= q, "attention_mask": left},
        {"kv_length": 16, "attention_mask": left},  # a static cache with room
        {"config": SimpleNamespace(model_type="bert"), "attention_mask": left},
    ):
        assert isinstance(plain(**dense, allow_is_causal_skip=False), torch.Tensor), dense
    capped = plain(config=SimpleNamespace(model_type="gemma2", attn_logit_softcapping=3.0))
    assert capped.dtype == torch.float32 and capped.shape == (2, 1, 9, 9)


@pytest.mark.parametrize("kind", ["none", "bool", "added", "pattern", "padded"])
@pytest.mark.parametrize(
    "settings", [{}, {"softcap": 1.5}, {"sinks": True}, {"scale": 0.7}, {"softcap": 2.0, "scale": 0.3}]
)
def test_scores_changed_on_the_way(kind, settings):
    q, k, v = tensors()
    q.requires_grad_()
    seen = causal(9, 9, 4 if kind == "pattern" else None).expand(2, 1, 9, 9).clone()
    sinks = torch.tensor([-1.0, 0.0, 1.0, 2.0]) if "sinks" in settings else None
    mask = {"none": None, "bool": seen, "pattern": Pattern(4)}.get(kind)
    real = torch.ones(2, 9, dtype=torch.bool)
    if kind == "added":
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    if kind == "padded":
        real[0, :4] = False
        mask = plain(attention_mask=real)
        seen &= real[:, None, None]
    arguments = {"scaling": settings.get("scale"), "softcap": settings.get("softcap"), "s_aux": sinks}
    out, _ = interface.attention(MODULE, q, k, v, mask, **arguments)
    want = reference(q, k, v, seen, settings.get("scale"), settings.get("softcap"), sinks)
    assert torch.allclose(out.double()[real], want[real], atol=1e-5) and out.isfinite().all()
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)) * real[:, :, None, None]
    (mine,) = torch.autograd.grad(out, q, upstream)
    (wanted,) = torch.autograd.grad(want, q, upstream.double())
    assert torch.allclose(mine, wanted, atol=1e-5)


def test_weights_are_probabilities():
    q, k, v = tensors()
    out, weights = interface.attention(MODULE, q, k, v, Pattern(3), output_attentions=True)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 9)) and not weights[..., ~causal(9, 9, 3)].any()
    assert torch.allclose(out, interface.attention(MODULE, q, k, v, Pattern(3))[0], atol=1e-6)


@pytest.mark.parametrize("extra", [{}, {"softcap": 1e4}])
def test_without_a_mask(extra):
    """SDPA's meaning: with more keys than queries the first keys are theirs (a static cache), except for one query."""
    q, k, v = tensors(5, 12)
    out, _ = interface.attention(MODULE, q, k, v, None, **extra)
    assert torch.allclose(out.double(), reference(q, k[:, :, :5], v[:, :, :5], causal(5, 5)), atol=1e-5)
    out, _ = interface.attention(MODULE, q[:, :, :1], k, v, None, **extra)
    assert torch.allclose(out.double(), reference(q[:, :, :1], k, v, causal(1, 12)), atol=1e-5)
    q, k, v = tensors(9, 9)
    out, _ = interface.attention(MODULE, q, k, v, None, sliding_window=3, **extra)
    assert torch.allclose(out.double(), reference(q, k, v, causal(9, 9, 3)), atol=1e-5)
    out, _ = interface.attention(MODULE, q, k, v, None, is_causal=False, **extra)
    assert torch.allclose(out.double(), reference(q, k, v, torch.ones(9, 9, dtype=torch.bool)), atol=1e-5)
    encoder = SimpleNamespace(is_causal=False, num_key_value_groups=2)
    assert torch.equal(interface.attention(encoder, q, k, v, None, **extra)[0], out)


def test_one_query_of_a_window_sees_the_latest_keys():
    q, k, v = tensors(1, 12)
    out, _ = interface.attention(MODULE, q, k, v, Pattern(5))
    assert torch.allclose(out.double(), reference(q, k, v, causal(1, 12, 5)), atol=1e-6)


def test_value_heads_of_another_dimension():
    q, k, _ = tensors()
    v = torch.randn(2, 2, 9, 24, generator=torch.Generator().manual_seed(3))
    out, _ = interface.attention(MODULE, q, k, v, Pattern(4))
    assert torch.allclose(out.double(), reference(q, k, v, causal(9, 9, 4)), atol=1e-5)


@pytest.mark.parametrize("pattern", [Pattern(), Pattern(4), "padded"])
def test_dropout(pattern):
    q, k, v = tensors()
    if pattern == "padded":
        real = torch.ones(2, 9, dtype=torch.bool)
        real[0, :4] = False
        pattern = plain(attention_mask=real)
    want = interface.attention(MODULE, q, k, v, pattern)[0]
    torch.manual_seed(0)
    drawn = torch.stack([interface.attention(MODULE, q, k, v, pattern, dropout=0.2)[0] for _ in range(300)])
    assert not torch.equal(drawn[0], drawn[1])
    assert float((drawn.mean(0) - want).abs().mean()) < 0.03


def test_offsets_that_differ_are_refused():
    q, k, v = tensors(batch=1)
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    same = interface.attention(MODULE, q, k, v, None, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets.clone())[0]
    seen = causal(9, 9) & ((torch.arange(9) < 4)[:, None] == (torch.arange(9) < 4))
    assert torch.allclose(same.double(), reference(q, k, v, seen), atol=1e-5)
    with pytest.raises(ValueError, match="cu_seq_lens_q and cu_seq_lens_k differ"):
        interface.attention(MODULE, q, k, v, None, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets + 1)


@pytest.mark.parametrize(("side", "packed"), [("right", True), ("left", True), ("none", False)])
def test_padding_goes_to_the_kernel_as_sequences(side, packed, monkeypatch):
    calls = []

    def recorded(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    original = interface.ops.attention
    monkeypatch.setattr(interface.ops, "attention", recorded)
    mask = torch.ones(3, 21, dtype=torch.int64)
    if side != "none":
        mask[1, :5] = 0
        mask = mask.flip(1) if side == "right" else mask
    tiny("mistral", "codeshell")(tokens(), attention_mask=mask)
    assert len(calls) == 2 and all(call["window"] == 8 for call in calls)
    assert all((call.get("cu_seqlens") is not None) == packed for call in calls)


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated and says what it cannot see
def test_a_trace_computes():
    layer = torch.nn.Module()
    layer.forward = lambda q, k, v: interface.attention(MODULE, q, k, v, None)[0]
    traced = torch.jit.trace(layer, tuple(tensors(seed=0)), check_trace=False)
    q, k, v = tensors(seed=1)
    assert torch.allclose(traced(q, k, v).double(), reference(q, k, v, causal(9, 9)), atol=1e-5)


def test_on_a_gpu_patterns_are_for_the_kernels(monkeypatch):
    """Elsewhere torch's SDPA attends, for which one mask of all layers is better than what each makes of a pattern."""
    config = SimpleNamespace(model_type="llama", hidden_size=512, num_attention_heads=4)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    absent: str | None = "no GPU"
    monkeypatch.setattr(masks.hopper, "missing", lambda device: absent if device.type == "cuda" else "a CPU")
    assert not masks._has_kernels(config, gpu, torch.bfloat16) and masks._has_kernels(config, cpu, torch.bfloat16)
    absent = None
    assert masks._has_kernels(config, gpu, torch.bfloat16) and masks._has_kernels(config, gpu, torch.float16)
    assert not masks._has_kernels(config, gpu, torch.float32)
    odd = vars(config) | {"hidden_size": 320}
    assert not masks._has_kernels(SimpleNamespace(**odd), gpu, torch.bfloat16)
    assert masks._has_kernels(SimpleNamespace(**odd | {"head_dim": 64}), gpu, torch.bfloat16)
    assert not masks._has_kernels(SimpleNamespace(**vars(config) | {"model_type": "bert"}), gpu, torch.bfloat16)
