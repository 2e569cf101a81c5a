"""Generation: what a row gets does not depend on its batch, and what must not be produced is not."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model, tokens

from codeshell.model.generation import NotFiniteError, complete, complete_batch, generate, infill_prompt, sample


def greedy_without_cache(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def padded(prompts):
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(rows), torch.tensor(mask)


def test_greedy_equals_recomputing_everything():
    model, prompts = tiny_model(), [tokens(1, n, seed=n)[0].tolist() for n in (20, 7, 13)]
    ids, mask = padded(prompts)
    got = model.generate(ids, attention_mask=mask, max_new_tokens=15)
    assert got == [greedy_without_cache(model, prompt, 15) for prompt in prompts]


def test_sampling_depends_on_seed_and_prompt_only():
    model, prompts = tiny_model(), [tokens(1, n, seed=n)[0].tolist() for n in (20, 7, 13)]
    ids, mask = padded(prompts)
    settings = {"max_new_tokens": 12, "temperature": 0.8, "top_k": 50, "top_p": 0.9}
    together = generate(model, ids, attention_mask=mask, seed=[5, 6, 7], **settings)
    alone = [
        generate(model, torch.tensor([p]), seed=[s], **settings)[0] for p, s in zip(prompts, (5, 6, 7), strict=True)
    ]
    assert together == alone
    assert generate(model, ids, attention_mask=mask, seed=[8, 6, 7], **settings)[0] != together[0]
    copies = generate(model, torch.tensor([prompts[0]] * 3), seed=1, **settings)
    assert len({tuple(row) for row in copies}) == 3


def test_a_row_ends_at_a_stop_id_and_leaves_the_others_alone():
    model, x = tiny_model(), tokens(3, 10)
    free = model.generate(x, max_new_tokens=20)
    stop = free[1][4]
    got = model.generate(x, max_new_tokens=20, stop_ids=[stop])
    for row, whole in zip(got, free, strict=True):
        assert row == (whole[: whole.index(stop)] if stop in whole else whole)
    short = model.generate(x, max_new_tokens=20, stop=lambda row, ids: row == 2 and len(ids) == 3)
    assert short == [free[0], free[1], free[2][:3]]


def test_padding_ids_of_the_vocabulary_are_never_produced():
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wte.weight[300:] *= 50
    model.config.n_vocab_used = 300
    ids = model.generate(tokens(2, 8) % 300, max_new_tokens=30, temperature=2.0)
    assert all(token < 300 for row in ids for token in row)
    model.config.n_vocab_used = None
    assert any(token >= 300 for row in model.generate(tokens(2, 8) % 300, max_new_tokens=30) for token in row)


def test_ends_with_the_positions():
    model = tiny_model()
    assert [len(row) for row in model.generate(tokens(2, 90), max_new_tokens=50)] == [6, 6]
    with pytest.raises(ValueError, match="leaves no room in 96"):
        model.generate(tokens(1, 96), max_new_tokens=1)
    assert model.generate(tokens(2, 5), max_new_tokens=0) == [[], []]


def test_training_mode_is_given_back():
    model = tiny_model(resid_pdrop=0.5).train()
    assert model.generate(tokens(1, 9), max_new_tokens=9) == tiny_model().generate(tokens(1, 9), max_new_tokens=9)
    assert model.training


@pytest.mark.parametrize(
    "setting", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": -1}, {"seed": [1]}]
)
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        tiny_model().generate(tokens(2, 5), **({"max_new_tokens": 3} | setting))


def test_sample_follows_the_distribution():
    scores = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    draws = [(i + 0.5) / 1000 for i in range(1000)]

    def counts(top_k, top_p, temperature=1.0):
        return Counter(sample(scores.expand(1000, -1), temperature, top_k, top_p, draws))

    assert counts(0, 1.0) == {0: 100, 1: 500, 2: 150, 3: 250}
    assert counts(2, 1.0) == {1: 667, 3: 333}
    assert counts(0, 0.75) == {1: 667, 3: 333}
    assert set(counts(0, 0.76)) == {1, 2, 3}
    sharp = counts(0, 1.0, temperature=0.5)
    assert abs(sharp[1] / 1000 - 0.25 / (0.01 + 0.25 + 0.0225 + 0.0625)) < 2e-3
    assert sample(scores, 0.0, 0, 1.0, [0.99]) == [1]
    assert sample(scores, 1.0, 0, 1.0, [math.nextafter(1.0, 0.0)]) == [0]


SPECIALS = {"<|endoftext|>": 257, "<fim_prefix>": 258, "<fim_middle>": 259, "<fim_suffix>": 260}


class Bytes:
    """A tokenizer of bytes, two of them merged, with the special tokens that completion uses."""

    specials = SPECIALS
    eot, fim_prefix, fim_middle, fim_suffix, vocab_size = 257, 258, 259, 260, 261

    def encode(self, text):
        return list(text.encode())

    def decode_bytes(self, ids):
        return b"".join(b"ab" if i == 256 else bytes([i]) for i in ids if i < 257)


class Script:
    """Stands for a model: plays a list of ids, whatever the prompt."""

    def __init__(self, ids):
        self.ids, self.model = ids, tiny_model()
        self.config, self.device, self.dtype, self.training = self.model.config, self.model.device, torch.float32, False
        self.prompts = []

    def eval(self):
        return self

    def train(self, mode):
        return self

    def __call__(self, ids, attention_mask=None, **settings):
        out = self.model(ids, attention_mask=attention_mask, **settings)
        if attention_mask is not None:
            self.prompts = [row[mask.bool()].tolist() for row, mask in zip(ids, attention_mask, strict=True)]
            self.step = 0
        out.logits = out.logits.zero_()
        out.logits[..., self.ids[self.step]] = 1.0
        self.step += 1
        return out


def test_infill_prompt_is_psm():
    assert infill_prompt(Bytes(), "ab", "c", 90) == [258, 97, 98, 260, 99, 259]
    assert infill_prompt(Bytes(), "ab", "", 90) == [258, 97, 98, 260, 259]
    assert infill_prompt(Bytes(), "ab", None, 90) == [97, 98]
    assert infill_prompt(Bytes(), "", None, 90) == [257]


def test_infill_prompt_keeps_what_is_near_the_gap():
    def texts(prefix, suffix, budget):
        ids = infill_prompt(Bytes(), prefix, suffix, budget)
        assert len(ids) <= budget
        middle = ids.index(260)
        return bytes(ids[1:middle]).decode(), bytes(ids[middle + 1 : -1]).decode()

    assert texts("abcdefgh", "12345678", 11) == ("cdefgh", "12")
    assert texts("ab", "12345678", 11) == ("ab", "123456")
    assert texts("abcdefgh", "1", 11) == ("bcdefgh", "1")
    assert infill_prompt(Bytes(), "abcdefgh", None, 3) == [102, 103, 104]
    with pytest.raises(ValueError, match="at least 4"):
        infill_prompt(Bytes(), "a", "b", 3)


@pytest.mark.parametrize(
    ("ids", "stop", "want"),
    [
        ([120, 256, 99, 121], ["bc"], "xa"),  # the stop string begins inside the merged token "ab" and ends after it
        ([120, 256, 121, 257], ["nothing"], "xaby"),
        ([120, 257, 121], [], "x"),
        ([120, 10, 121], ["\n"], "x"),
        ([120, 121, 122, 113], ["q", "yz"], "x"),
        ([120, 0xE2, 0x82, 0xAC, 257], [], "x€"),
        ([120, 0xE2, 257], [], "x\ufffd"),
        ([120, 121, 122, 113, 113, 113], ["zqq"], "xy"),
    ],
)
def test_stop_strings_cut_exactly(ids, stop, want):
    assert complete(Script([*ids, *[113] * 9]), Bytes(), "def", "end", max_new_tokens=len(ids), stop=stop) == want


def test_completion_in_a_batch_and_alone():
    model, requests = tiny_model(), [("def f(", ")"), ("x", None), ("a" * 200, "b" * 200)]
    together = complete_batch(model, Bytes(), requests, max_new_tokens=12)
    assert together == [complete(model, Bytes(), *request, max_new_tokens=12) for request in requests]
    assert complete_batch(model, Bytes(), []) == []
    with pytest.raises(ValueError, match="leaves no room for a prompt"):
        complete(model, Bytes(), "a", max_new_tokens=95)


def test_completion_sends_the_prompt():
    script = Script([257] * 3)
    complete_batch(script, Bytes(), [("ab", "c"), ("z", None)], max_new_tokens=2)
    assert script.prompts == [[258, 97, 98, 260, 99, 259], [122]]


BAD = [math.nan, math.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_never_sampled(bad, temperature):
    scores = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    for top_k, top_p in ((0, 1.0), (2, 1.0), (0, 0.5)):
        broken = scores.clone()
        broken[1, 7] = bad
        with pytest.raises(NotFiniteError, match=r"not finite .* at row 1"):
            sample(broken, temperature, top_k, top_p, [0.5] * 3)
    # A ban is legal, and a row of bans is not.
    banned = scores.clone()
    banned[:, :19] = -math.inf
    assert sample(banned, temperature, 0, 1.0, [0.5] * 3) == [19] * 3
    banned[2] = -math.inf
    with pytest.raises(NotFiniteError, match="at row 2"):
        sample(banned, temperature, 0, 1.0, [0.5] * 3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_weight_is_named(temperature):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] = math.nan
    with pytest.raises(ValueError, match=r"row 0, new token 1; the weight transformer\.h\.1\.mlp\.c_fc\.bias"):
        model.generate(tokens(2, 5), max_new_tokens=3, temperature=temperature)
    with pytest.raises(NotFiniteError, match="new token 1"):
        complete(model, Bytes(), "def", "end", temperature=temperature)


def test_the_step_and_the_row_are_those_of_the_prompts():
    """The second row ends first; what breaks later is told by the row of the batch, not of the cache."""
    script = Script([5, 6, 7])
    play = script.__class__.__call__

    def broken(self, ids, **settings):
        out = play(self, ids, **settings)
        if self.step == 3:
            out.logits[-1] = math.nan
        return out

    script.__class__ = type("Broken", (Script,), {"__call__": broken})
    script.step = 0
    with pytest.raises(
        NotFiniteError, match=r"row 2, new token 3; its weights are finite, so a product .* float32"
    ) as e:
        generate(script, tokens(3, 5), max_new_tokens=5, stop=lambda row, ids: row == 1)
    assert e.value.row == 2


def test_finite_weights_that_overflow_half_precision():
    model = tiny_model()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(6e4)
        model.transformer.wte.weight.mul_(1e3)
    assert model.generate(tokens(1, 5), max_new_tokens=2)
    with pytest.raises(NotFiniteError, match="overflows float16; try another dtype"):
        model.to(torch.float16).generate(tokens(1, 5), max_new_tokens=2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [math.nan, math.inf, -1, "1", True, None, 1e-300, torch.tensor(0.5)]),
        ("top_p", [math.nan, math.inf, 0, 1.1, -0.5, "0.9", True, None]),
        ("top_k", [-1, 1.0, math.nan, "5", True, None]),
        ("max_new_tokens", [-1, 2.0, math.nan, "5", True, None]),
        ("seed", [1.5, "1", True, None, [1], [1, 2, 3], [1, None]]),
        ("stop_ids", ["5", 5.0, [1.5], [None], -1, None]),
        ("n_vocab_used", [0, -1, 385, 2.0, True, "5"]),
        ("stop", ["x", ["x"], 5]),
        ("attention_mask", [[[1] * 5] * 2, torch.ones(2), torch.ones(2, 4), torch.zeros(2, 5)]),
        ("attention_mask", [torch.full((2, 5), -1.0), torch.full((2, 5), 2), torch.full((2, 5), math.nan)]),
    ],
)
def test_every_setting_is_checked(name, values):
    model = tiny_model()
    for value in values:
        with pytest.raises((TypeError, ValueError), match=name):
            model.generate(tokens(2, 5), **({"max_new_tokens": 3, "temperature": 0.5} | {name: value}))


def test_numbers_of_numpy_are_numbers():
    model, settings = tiny_model(), {"max_new_tokens": np.int64(4), "top_k": np.int32(9), "seed": np.int64(3)}
    got = model.generate(tokens(2, 5), temperature=np.float32(0.5), top_p=np.float64(0.9), **settings)
    assert got == model.generate(tokens(2, 5), temperature=0.5, top_p=0.9, max_new_tokens=4, top_k=9, seed=3)
    seeds = ([5, 6], np.array([5, 6]), torch.tensor([5, 6]))
    first, *others = [model.generate(tokens(2, 5), max_new_tokens=4, temperature=1.0, seed=seed) for seed in seeds]
    assert others == [first] * 2
    assert model.generate(tokens(1, 5), max_new_tokens=9, stop_ids=first[0][0]) == model.generate(
        tokens(1, 5), max_new_tokens=9, stop_ids=[first[0][0]]
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2]], "must be a tensor"),
        (torch.tensor([1, 2]), "int64 of shape"),
        (torch.tensor([[1.0]]), "int64 of shape"),
        (torch.tensor([[1]], dtype=torch.int32), "int64 of shape"),
        (torch.tensor([[384]]), "vocabulary is 0 to 383"),
        (torch.tensor([[-1]]), "vocabulary is 0 to 383"),
        (torch.zeros(2, 0, dtype=torch.int64), "without a token"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), "on meta, but the model is on cpu"),
    ],
)
def test_prompts_that_are_none(ids, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tiny_model().generate(ids, max_new_tokens=2)


def test_nothing_gives_nothing():
    model = tiny_model()
    for empty in (torch.zeros(0, 5, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.int64)):
        assert model.generate(empty, max_new_tokens=3) == []
        assert model.generate(empty, max_new_tokens=3, attention_mask=empty, seed=[]) == []
        assert model(empty).logits.shape == (*empty.shape, 384)
        assert model(empty, return_logits="last").logits.shape == (0, 1, 384)
        loss = model(empty, labels=empty).loss
        loss.backward()
        assert loss == 0 and not model.transformer.wte.weight.grad.any()
    assert model.generate(tokens(2, 96), max_new_tokens=0) == [[], []]
    assert complete_batch(model, Bytes(), []) == [] and complete(model, Bytes(), "a", max_new_tokens=0) == ""


def test_a_single_string_is_one_stop_string():
    ids, tokenizer = [120, 121, 122, 113, 257, *[113] * 9], Bytes()
    for stop in ("zq", ["zq"], ("zq",), {"zq"}, iter(["zq"])):
        assert complete(Script(ids), tokenizer, "def", max_new_tokens=5, stop=stop) == "xy"
    for none in (None, (), []):
        assert complete(Script(ids), tokenizer, "def", max_new_tokens=5, stop=none) == "xyzq"
    for bad in ("", [""], ["z", ""], "\ud800", b"z", [b"z"], 5, [None]):
        with pytest.raises((TypeError, ValueError), match="stop"):
            complete(Script(ids), tokenizer, "def", max_new_tokens=5, stop=bad)


def test_requests_are_pairs_of_texts():
    for bad in (["ab"], [("a",)], [("a", "b", "c")], [None], [(b"a", None)], [("a", 5)]):
        with pytest.raises(TypeError, match=r"requests|prefix and suffix"):
            complete_batch(tiny_model(), Bytes(), bad)
