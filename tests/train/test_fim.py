"""Fill-in-the-middle: nothing is lost, the rates hold, and only (seed, epoch, document) decide."""

from __future__ import annotations

from math import sqrt

from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.train import fim
from codeshell.train.fim import Plan, encode, rearrange

RATES = {"fim_rate": 0.5, "spm_rate": 0.5}


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), seed=st.integers(0, 2**40), epoch=st.integers(0, 9), doc_id=st.text(max_size=8))
def test_the_pieces_are_the_text(text, seed, epoch, doc_id):
    plan = rearrange(text, seed=seed, epoch=epoch, doc_id=doc_id, fim_rate=1.0, spm_rate=0.5)
    assert plan.prefix + plan.middle + plan.suffix == text
    assert (plan.order == "plain") == (text == "")


def test_rates_are_binomial_and_the_cut_is_uniform():
    count, text = 10_000, "0123456789"
    plans = [rearrange(text, seed=1, epoch=0, doc_id=str(index), **RATES) for index in range(count)]
    rearranged = [plan for plan in plans if plan.order != "plain"]
    spm = sum(plan.order == "spm" for plan in rearranged)
    # Five deviations; the draws are fixed, so this either always holds or never.
    assert abs(len(rearranged) - count / 2) < 5 * sqrt(count / 4)
    assert abs(spm - len(rearranged) / 2) < 5 * sqrt(len(rearranged) / 4)
    # Two sorted uniform places in [0, 10]: each of 121 pairs is equally likely, so both at 0 has 1/121 and
    # the middle is empty in 11/121; both ends of the range must occur.
    empty = sum(plan.middle == "" for plan in rearranged)
    mean, deviation = len(rearranged) / 11, sqrt(len(rearranged) * 1 / 11 * 10 / 11)
    assert abs(empty - mean) < 5 * deviation
    assert any(plan.middle == text for plan in rearranged)
    assert any(plan.prefix == text for plan in rearranged)
    assert any(plan.suffix == text for plan in rearranged)


def test_rates_of_zero_and_one():
    for index in range(200):
        name = {"seed": 0, "epoch": 0, "doc_id": str(index)}
        assert fim.order(**name, fim_rate=0.0, spm_rate=0.5) == "plain"
        assert fim.order(**name, fim_rate=1.0, spm_rate=0.0) == "psm"
        assert fim.order(**name, fim_rate=1.0, spm_rate=1.0) == "spm"


def test_seed_epoch_and_document_each_decide():
    def orders(seed=0, epoch=0, tag=""):
        return [fim.order(seed=seed, epoch=epoch, doc_id=f"{tag}{index}", **RATES) for index in range(100)]

    assert orders() == orders()
    assert len({tuple(orders()), tuple(orders(seed=1)), tuple(orders(epoch=1)), tuple(orders(tag="x"))}) == 4


def test_one_character_has_three_cuts():
    plans = {rearrange("é", seed=0, epoch=0, doc_id=str(i), fim_rate=1.0, spm_rate=0.0) for i in range(200)}
    assert plans == {Plan("psm", "é"), Plan("psm", "", "é"), Plan("psm", "", "", "é")}


def test_ids_of_both_orders(tokenizer):
    t = tokenizer
    p, m, s = (t.encode(text) for text in ("def f(", "x):\n", " return x"))
    psm = encode(Plan("psm", "def f(", "x):\n", " return x"), t)
    assert psm == [t.fim_prefix, *p, t.fim_suffix, *s, t.fim_middle, *m]
    spm = encode(Plan("spm", "def f(", "x):\n", " return x"), t)
    assert spm == [t.fim_prefix, t.fim_suffix, *s, t.fim_middle, *p, *m]
    assert encode(Plan("plain", "def f("), t) == p
    # What the model is asked at inference is what it saw in training, up to the middle.
    assert psm[: -len(m)] == t.fim_prompt("def f(", " return x", "psm")
    assert spm[: -len(m)] == t.fim_prompt("def f(", " return x", "spm")


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab \t\n\r", max_size=40), doc_id=st.text(max_size=4))
def test_a_middle_of_lines_is_whole_lines(text, doc_id):
    plan = rearrange(text, seed=3, epoch=0, doc_id=doc_id, fim_rate=1.0, spm_rate=0.5, fim_lines=1.0)
    assert plan.prefix + plan.middle + plan.suffix == text
    if not text.strip():
        return  # No line to ask: cut anywhere, or plain.
    # As the task asks: the newline before the middle is given, and the one after it.
    assert plan.prefix == "" or plan.prefix.endswith("\n")
    assert plan.suffix == "" or plan.suffix.startswith("\n")
    assert plan.middle.split("\n")[0].strip()


def test_the_lines_of_a_middle_are_counted_and_drawn_as_said():
    """Each filled line is as likely as the others; three of four middles are one line."""
    count, lines = 8_000, ["one", "", "two", "  ", "three"] + ["rest"] * 4
    plans = [
        rearrange("\n".join(lines), seed=1, epoch=0, doc_id=str(n), fim_rate=1.0, spm_rate=0.5, fim_lines=1.0)
        for n in range(count)
    ]
    first = [plan.prefix.count("\n") for plan in plans]
    assert set(first) == {0, 2, 4, 5, 6, 7, 8}
    for number in set(first):
        assert abs(first.count(number) - count / 7) < 5 * sqrt(count / 7 * 6 / 7)
    # The last lines have no room for more, so only the first ones are counted.
    early = [plan.middle.count("\n") + 1 for plan, number in zip(plans, first, strict=True) if number == 0]
    for size, share in ((1, 3 / 4), (2, 3 / 16), (3, 3 / 64)):
        assert abs(early.count(size) - len(early) * share) < 5 * sqrt(len(early) * share)


def test_the_share_of_lines_is_drawn_beside_the_order():
    text = "def f(a):\n    return a\n"
    names = [{"seed": 0, "epoch": 0, "doc_id": str(index)} for index in range(4_000)]
    plain = [rearrange(text, **name, **RATES) for name in names]
    mixed = [rearrange(text, **name, **RATES, fim_lines=0.25) for name in names]
    # The order does not depend on it, and neither do the cuts of the documents that are not drawn.
    assert [plan.order for plan in mixed] == [plan.order for plan in plain]
    changed = sum(a != b for a, b in zip(plain, mixed, strict=True))
    rearranged = sum(plan.order != "plain" for plan in plain)
    # One in a few hundred draws of two places are lines, too.
    assert abs(changed - rearranged / 4) < 5 * sqrt(rearranged * 3 / 16) + rearranged / 100


def test_pieces_are_tokenised_apart(tokenizer):
    """`er` is one token in the text, and two where the cut falls inside it."""
    assert len(tokenizer.encode("er")) == 1
    assert len(encode(Plan("psm", "e", "r"), tokenizer)) == 3 + 2
