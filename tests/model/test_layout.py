"""How tokens are laid out: documents, padding, labels and caches change nothing for one another; bad arguments."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.tiny_models import SHAPE, tiny_model, tokens

from codeshell.model import CodeShellConfig, KVCache


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
