"""Sentences: the numbers in them, and what is not said of a small sample."""

from __future__ import annotations

from typing import Any

from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.measure import Outcome
from codeshell.evaluate.tasks import get_task


def make_claims(**results: Any) -> list[str]:
    ((name, result),) = results.items()
    return get_task(name).claims(result)


def compression(difference: float, interval: list[float], significant: bool) -> dict[str, Any]:
    return {
        "files": 12,
        "bytes": 123456,
        "systems": {
            "model": {"bits_per_byte": 1.5, "interval": [1.4, 1.6]},
            "xz": {"bits_per_byte": 2.0, "interval": None},
        },
        "differences": {"xz": {"difference": difference, "interval": interval, "significant": significant}},
    }


def test_compression_is_ranked_only_if_the_sample_carries_it() -> None:
    first, second = make_claims(bits_per_byte=compression(-0.5, [-0.6, -0.4], True))
    assert first == (
        "The model codes 123,456 bytes of 12 held-out files in 1.500 bits per byte, 95 % interval 1.400 to 1.600."
    )
    assert second == (
        "It needs 0.500 bits per byte fewer than xz -9e on all files together (2.000); "
        "95 % interval of the difference -0.600 to -0.400."
    )
    assert "0.500 bits per byte more" in make_claims(bits_per_byte=compression(0.5, [0.4, 0.6], True))[1]
    weak = make_claims(bits_per_byte=compression(-0.5, [-1.1, 0.1], False))[1]
    assert weak == "A difference from xz -9e on all files together (2.000) cannot be claimed from 12 files."


def scores(hits: list[bool], guesses: list[bool]) -> dict[str, Any]:
    return {
        "exact_match": share(sum(hits), len(hits)),
        "majority_line": share(sum(guesses), len(guesses)),
        "against_majority_line": compare_shares(hits, guesses),
    }


def test_infilling_names_count_share_and_interval() -> None:
    strong, weak = scores([True] * 20 + [False] * 80, [False] * 100), scores([True] * 3 + [False] * 9, [False] * 12)
    claims = make_claims(infill={"groups": {"all": strong, "trivial": strong, "non_trivial": weak}})
    assert claims == [
        "The model fills in 20 of 100 (20.0 %, 95 % interval 13.3 to 28.9 %) of the masked lines exactly.",
        "That is better than the score of the most common line of the language, 0 of 100 (0.0 %, 95 % interval 0.0 to "
        "3.7 %): exact McNemar test, p < 0.001.",
        "The model fills in 3 of 12 (25.0 %, 95 % interval 8.9 to 53.2 %) of the masked lines of more than one word "
        "exactly.",
        "A difference from the most common line of the language cannot be claimed from 12 tasks; its score is 0 of 12 "
        "(0.0 %, 95 % interval 0.0 to 24.2 %).",
    ]
    nothing = scores([], [])
    assert make_claims(infill={"groups": {"all": nothing, "non_trivial": nothing}}) == []


def test_positions_say_fell_rose_or_nothing() -> None:
    def change(mean: float, interval: list[float] | None, significant: bool) -> dict[str, Any]:
        return {"difference": {"mean": mean, "se": 0.1}, "interval": interval, "significant": significant}

    pair = {
        "step": 630,
        "context_before": 256,
        "context_after": 1024,
        "within": change(0.01, [-0.01, 0.03], False),
        "beyond": change(-0.3, [-0.4, -0.2], True),
    }
    within, beyond = make_claims(positions={"sequences": 40, "context": 1024, "pairs": [pair]})
    assert within == (
        "No change of the loss up to position 256 between step 630 and the end can be claimed from 40 held-out "
        "sequences."
    )
    assert beyond == (
        "Between step 630 and the end the loss from position 256 on fell by 0.300 nats per token, 95 % interval of the "
        "change -0.400 to -0.200, on 40 held-out sequences of 1024 tokens."
    )


def test_what_did_not_run_is_said() -> None:
    stats = Outcome([get_task("bpb")], not_run={"bits_per_byte": "no held-out files"}).statistics()
    assert stats["claims"] == ["Not run: bits per byte (no held-out files)."] and stats["bits_per_byte"] is None
