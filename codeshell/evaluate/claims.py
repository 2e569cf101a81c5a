"""What may be said about a model: sentences made of the statistics, each with its sample and its interval.

A difference that the sample cannot carry is said to be none that can be claimed; it never becomes a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "byte_model": "the order-3 byte model",
    "xz": "xz -9e on all files together",
    "xz_per_file": "xz -9e file by file",
    "untrained": "the untrained model",
}


def make_claims(stats: dict[str, Any]) -> list[str]:
    """Sentences about every part that has run, and one for each that has not."""
    claims: list[str] = []
    for part, sentences in (
        ("bits_per_byte", _compression),
        ("infill", _infill),
        ("functions", _functions),
        ("positions", _positions),
    ):
        if stats[part] is not None:
            claims += sentences(stats[part])
    claims += [f"Not run: {part.replace('_', ' ')} ({reason})." for part, reason in stats["not_run"].items()]
    return claims


def _compression(part: dict[str, Any]) -> list[str]:
    model = part["systems"]["model"]
    claims = [
        f"The model codes {part['bytes']:,} bytes of {part['files']} held-out files in "
        f"{model['bits_per_byte']:.3f} bits per byte{_interval(model['interval'])}."
    ]
    for name, difference in part["differences"].items():
        other = part["systems"][name]
        peer = f"{NAMES[name]} ({other['bits_per_byte']:.3f}{_interval(other['interval'])})"
        if difference["significant"]:
            less = "fewer" if difference["difference"] < 0 else "more"
            claims.append(
                f"It needs {abs(difference['difference']):.3f} bits per byte {less} than {peer}; 95 % interval of the "
                f"difference {_numbers(difference['interval'])}."
            )
        else:
            claims.append(f"Its difference to {peer} cannot be claimed from {part['files']} files.")
    return claims


def _infill(part: dict[str, Any]) -> list[str]:
    claims = []
    for group, words in (("all", "masked lines"), ("non_trivial", "masked lines of more than one word")):
        scores = part["groups"][group]
        exact = scores["exact_match"]
        if not exact["n"]:
            continue
        claims.append(f"The model fills in {_share(exact)} of the {words} exactly.")
        majority = scores["majority_line"]
        if majority is not None:
            claims.append(
                _against(scores["against_majority_line"], f"the most common line of the language ({_share(majority)})")
            )
    return claims


def _functions(part: dict[str, Any]) -> list[str]:
    claims = [
        f"Of the functions that the model writes behind held-out headers {_share(part['systems']['model']['parses'])} "
        "parse; whether they do what they should is not tested."
    ]
    for name, difference in part["differences"].items():
        claims.append(_against(difference, f"{NAMES[name]} ({_share(part['systems'][name]['parses'])})"))
    return claims


def _positions(part: dict[str, Any]) -> list[str]:
    claims = []
    for pair in part["pairs"]:
        for where, words in (("within", "up to"), ("beyond", "from")):
            change = pair[where]
            place = f"{words} position {pair['context_before']}"
            mean, interval = change["difference"]["mean"], change["interval"]
            if change["significant"]:
                moved = "fell" if mean < 0 else "rose"
                claims.append(
                    f"From step {pair['step']} to the end the loss {place} {moved} by {abs(mean):.3f} nats a token, "
                    f"95 % interval of the change {_numbers(interval)}, on {part['sequences']} held-out sequences of "
                    f"{part['context']} tokens."
                )
            else:
                claims.append(
                    f"No change of the loss {place} from step {pair['step']} to the end can be claimed from "
                    f"{part['sequences']} held-out sequences."
                )
    return claims


def _against(difference: dict[str, Any], peer: str) -> str:
    n = difference["n"]
    if not difference["significant"]:
        return f"A difference to {peer} cannot be claimed from {n} tasks."
    better = "better" if difference["difference"] > 0 else "worse"
    return f"That is {better} than {peer}: exact McNemar test, {_p_value(difference['p_value'])}."


def _share(value: dict[str, Any]) -> str:
    if not value["n"]:
        return "0 of 0"
    low, high = value["interval"]
    return (
        f"{value['count']} of {value['n']} ({100 * value['share']:.1f} %, 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %)"
    )


def _p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f", 95 % interval {_numbers(ends)}"


def _numbers(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
