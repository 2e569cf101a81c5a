"""Prompts: both orders, other files, and cuts that leave the beginning as it is while somebody types."""

from __future__ import annotations

import itertools

import pytest
from helpers.byte_tokens import Bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.model.infill import CUT_STEP, infill_prompt, order_of, trained_order
from codeshell.recipe import Train

TOKENS = Bytes()
PRE, MID, SUF, FILE = 257, 258, 259, 260


def ids(text: str) -> list[int]:
    return list(text.encode())


def test_both_orders():
    assert infill_prompt(TOKENS, "ab", "cd", 50) == [PRE, *ids("ab"), SUF, *ids("cd"), MID]
    assert infill_prompt(TOKENS, "ab", "cd", 50, "spm") == [PRE, SUF, *ids("cd"), MID, *ids("ab")]
    with pytest.raises(ValueError, match="order: 'mps' is neither"):
        infill_prompt(TOKENS, "ab", "cd", 50, "mps")
    with pytest.raises(ValueError, match="needs at least 4"):
        infill_prompt(TOKENS, "ab", "cd", 3)


def test_the_orders_are_those_of_training():
    from codeshell.train import fim

    class Encoder(Bytes):
        def encode_batch(self, texts):
            return [self.encode(text) for text in texts]

    for order in ("psm", "spm"):
        trained = fim.encode(fim.Plan(order, "prefix", "middle", "suffix"), Encoder())
        asked = infill_prompt(TOKENS, "prefix", "suffix", 100, order)
        assert trained[: len(asked)] == asked and trained[len(asked) :] == ids("middle")


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 200),
    st.one_of(st.none(), st.integers(0, 200)),
    st.integers(4, 150),
    st.sampled_from(["psm", "spm"]),
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("xy", max_size=60)), max_size=3),
    st.sampled_from([1, 16]),
)
def test_a_prompt_fits_and_keeps_what_is_near_the_gap(before, after, budget, order, extra, step):
    prefix = "".join(chr(97 + i % 26) for i in range(before))
    suffix = None if after is None else "".join(chr(65 + i % 26) for i in range(after))
    got = infill_prompt(TOKENS, prefix, suffix, budget, order, extra, step)
    assert 0 < len(got) <= budget
    if suffix is None:
        kept, rest = [i for i in got if i >= 97], ids(prefix)
        assert got == [256] or rest[len(rest) - len(got) :] == got or extra
        return
    assert [got.count(mark) for mark in (PRE, MID, SUF)] == [1, 1, 1]
    begin, middle, end = (got.index(mark) for mark in (PRE, MID, SUF))
    if order == "psm":
        assert begin < end < middle == len(got) - 1
        kept, follows = got[begin + 1 : end], got[end + 1 : middle]
    else:
        assert end == begin + 1 < middle
        kept, follows = got[middle + 1 :], got[end + 1 : middle]
    assert ids(prefix)[before - len(kept) :] == kept and ids(suffix)[: len(follows)] == follows
    # Nothing is cut that had room.
    if before + after + 3 <= budget:
        assert (len(kept), len(follows)) == (before, after)


def test_other_files_get_what_is_left_the_last_first():
    extra = [("a.py", "x" * 30), ("b.py", "y" * 10)]
    whole = [FILE, *ids("a.py\n" + "x" * 30 + "\n"), FILE, *ids("b.py\n" + "y" * 10 + "\n")]
    rest = [PRE, *ids("p"), SUF, *ids("s"), MID]
    assert infill_prompt(TOKENS, "p", "s", 100, extra=extra) == whole + rest
    # 17 tokens for b.py; a.py gets the others, from its beginning.
    cut = infill_prompt(TOKENS, "p", "s", 5 + 17 + 20, extra=extra)
    assert cut == whole[:20] + whole[37:] + rest
    # No room for more than a name: no file.
    assert infill_prompt(TOKENS, "p", "s", 5 + 17 + 5, extra=extra) == whole[37:] + rest
    assert infill_prompt(TOKENS, "p", "s", 5, extra=extra) == rest


def test_a_special_token_in_a_text_is_text():
    prompt = infill_prompt(TOKENS, "<fim_middle>", "<eot>", 100, extra=[("<filename>", "<fim_prefix>")])
    assert [prompt.count(mark) for mark in (FILE, PRE, SUF, MID, 256)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_the_beginning_stays_while_somebody_types(order):
    """The more so the larger the step: without it, each letter moves the beginning of a text that is too long."""
    text = "".join(chr(97 + i % 26) for i in range(1000))
    extra = [("a.py", "q" * 50)]

    def kept(step):
        prompts = [infill_prompt(TOKENS, text[: 600 + n], "S" * 20, 300, order, extra, step) for n in range(100)]
        return sum(a[:200] == b[:200] for a, b in itertools.pairwise(prompts))

    assert kept(1) == 0 and kept(CUT_STEP) >= 97


def test_the_order_of_a_run_is_in_its_recipe(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    assert trained_order(model) == "psm"
    for text, want in (
        ("[train]\nfim_rate = 0.5\nspm_rate = 0.5\n", "spm"),
        ("[train]\nfim_rate = 0.5\nspm_rate = 0.0\n", "psm"),
        ("[train]\nfim_rate = 0.0\nspm_rate = 0.5\n", "psm"),
        ("train = 3\n", "psm"),
        ("not TOML", "psm"),
    ):
        (tmp_path / "recipe.toml").write_text(text)
        assert trained_order(model) == want


@pytest.mark.parametrize(
    ("fim_rate", "spm_rate", "order"), [(0.5, 0.5, "psm"), (0.9, 1.0, "spm"), (0.9, 0.2, "psm"), (0.0, 1.0, "psm")]
)
def test_a_run_is_measured_in_the_order_that_it_was_trained_in_most(fim_rate, spm_rate, order):
    assert order_of(Train(fim_rate=fim_rate, spm_rate=spm_rate)) == order
