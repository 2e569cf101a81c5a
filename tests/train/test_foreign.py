"""Models of transformers in the trainer: the loss of packed documents is that of each document alone, in plain code."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_transformers
from helpers.tiny_bases import base
from torch.nn import functional as F

from codeshell.errors import UserError
from codeshell.recipe import Train
from codeshell.train import foreign, parts
from codeshell.train.foreign import ForeignModel
from codeshell.train.parallel import Group, shard

CUTS = torch.tensor([0, 5, 16, 17, 32, 48, 64], dtype=torch.int32)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(4, 16) inputs and targets, some of which do not count."""
    ids = tiny_transformers.tokens(1, 65, seed=3).flatten()
    targets = ids[1:].clone()
    targets[::7] = -100
    return ids[:-1].view(4, 16), targets.view(4, 16)


def plain_loss(model: torch.nn.Module) -> torch.Tensor:
    """The sum over the documents, each alone, by the unpatched model."""
    inputs, targets = (x.flatten() for x in batch())
    total = torch.zeros(())
    for first, last in zip(CUTS[:-1].tolist(), CUTS[1:].tolist(), strict=True):
        logits = model(inputs[first:last].unsqueeze(0)).logits[0].float()
        total = total + F.cross_entropy(logits, targets[first:last], ignore_index=-100, reduction="sum")
    return total


@pytest.mark.parametrize("kind", tiny_transformers.KINDS)
def test_packed_documents_cost_what_each_costs_alone(kind: str) -> None:
    """Also the windows, Granite's divided logits, Gemma 2's caps, and the gradients of the embedding."""
    plain, model = tiny_transformers.tiny(kind), ForeignModel(tiny_transformers.tiny(kind))
    expected = plain_loss(plain)
    expected.backward()
    inputs, targets = batch()
    loss = model(inputs, targets=targets, cu_seqlens=CUTS, max_seqlen=16).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    wanted, found = plain.get_input_embeddings().weight.grad, model.embedding.weight.grad
    assert (found - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_sequences_without_offsets_see_all_of_themselves() -> None:
    plain, model = tiny_transformers.tiny("llama"), ForeignModel(tiny_transformers.tiny("llama"))
    inputs, targets = batch()
    expected = F.cross_entropy(plain(inputs).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert model(inputs, targets=targets).loss.item() == pytest.approx(expected.item(), rel=2e-5)


@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_recomputed_blocks_give_the_same_bits(kind: str) -> None:
    inputs, targets = batch()
    found = []
    for recompute in ("none", "block"):
        model = ForeignModel(tiny_transformers.tiny(kind)).train()
        train = Train(recompute=recompute)
        shard(model, train, Group.alone(torch.device("cpu")))
        calls = []
        model.blocks[0].self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss = model(inputs, targets=targets, cu_seqlens=CUTS, max_seqlen=16).loss
        loss.backward()
        found.append((loss.item(), [p.grad for p in model.parameters()], len(calls)))
    assert [calls for _, _, calls in found] == [1, 2]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_work_of_a_token_by_hand() -> None:
    """Llama: four matrices of attention, three of the MLP, the head. Mixtral: two of three experts."""
    d, f, vocabulary, context = 64, 48, 96, 32
    attention = d * (64 + 2 * 32) + 64 * d
    llama = 2 * (attention + 3 * d * f) + vocabulary * d
    model = ForeignModel(tiny_transformers.tiny("llama"))
    assert model.work == (2, 64, llama)
    assert parts.flops(model, context) == 6 * llama + 12 * 2 * 64 * context
    mixtral = 2 * (attention + 3 * d + 2 * 3 * d * f) + vocabulary * d
    assert ForeignModel(tiny_transformers.tiny("mixtral")).work == (2, 64, mixtral)


def test_weights_that_are_missing_are_not_drawn(tmp_path, tokenizer) -> None:
    from safetensors.torch import load_file, save_file

    directory = base(tmp_path / "base", tokenizer, "llama")
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors, model\.layers\.1\.mlp\.up_proj\.weight"):
        foreign.load(directory, torch.float32)
