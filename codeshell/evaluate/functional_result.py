"""The statistics of judged programs: pass@k, counts by verdict, and how the programs were isolated.

Every way to judge (`codeshell eval TASK`, `codeshell eval judge`, the evaluation of a run) makes its numbers here:

    {
      "problems": int,                  # different problems that were asked
      "answers": int,                   # programs, so samples of all problems
      "pass_at": {"1": {"value", "interval", "problems"}, "10": …},     # `pass_at_k`; {} where nothing was judged
      "unjudged": int,                  # problems of which no program was run; they are in no pass@k
      "verdicts": {verdict: int},       # in the order of `Verdict`, without those that did not occur
      "not_run": {why: int},            # reasons of `not_run`
      "modes": {mode: int},             # programs that were not judged in the usual way: "same-process"
      "toolchains": [str],
      "isolation": {"level": int, "name": str, "covers": [str], "does_not_cover": [str]},
      "paper": str                      # the row of the report's tables (`functional_section.PAPER`), or ""
    }

A program that was not run counts neither way: it is no sample of its problem. Times are not among the statistics, so
that equal answers give equal bytes; the results of `codeshell eval judge` have the CPU seconds of each program.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codeshell.evaluate import pass_at_k
from codeshell.evaluate.verdicts import Judged, Verdict

if TYPE_CHECKING:
    from codeshell.evaluate.sandbox.levels import Proof

__all__ = ["isolation", "not_run", "statistics"]


def statistics(
    ids: Sequence[str], judged: Sequence[Judged], *, proof: Proof | None, seed: int, paper: str = ""
) -> dict[str, Any]:
    """The statistics of some judged programs; see the module's text.

    Args:
        ids: the problem of each program, in any order.
        judged: the verdicts, in the order of `ids`.
        proof: of the level of isolation; None where nothing was run.
        seed: of the bootstrap over the problems.
        paper: the task, for the numbers that the report has for it.
    """
    # (samples, samples that pass) of each problem, in the order in which the problems first occur.
    counts: dict[str, list[int]] = {}
    for problem, one in zip(ids, judged, strict=True):
        tally = counts.setdefault(problem, [0, 0])
        if one.verdict is not Verdict.NOT_RUN:
            tally[0] += 1
            tally[1] += one.passed
    sampled = [(n, c) for n, c in counts.values() if n]
    verdicts = Counter(one.verdict for one in judged)
    reasons = Counter(one.why for one in judged if one.verdict is Verdict.NOT_RUN)
    return {
        "problems": len(counts),
        "answers": len(judged),
        "pass_at": pass_at_k.estimates(sampled, seed=seed, purpose="functional") if sampled else {},
        "unjudged": len(counts) - len(sampled),
        "verdicts": {verdict.value: verdicts[verdict] for verdict in Verdict if verdicts[verdict]},
        "not_run": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "modes": dict(sorted(Counter(one.mode for one in judged if one.mode).items())),
        "toolchains": sorted({one.toolchain for one in judged if one.toolchain}),
        "isolation": isolation(proof),
        "paper": paper,
    }


def isolation(proof: Proof | None) -> dict[str, Any]:
    """What was proven about the isolation, as JSON; level 0 where nothing was run."""
    if proof is None:
        return {"level": 0, "name": "none", "covers": [], "does_not_cover": []}
    return {
        "level": int(proof.level),
        "name": proof.level.name.lower().replace("_", "+"),
        "covers": list(proof.covers),
        "does_not_cover": list(proof.does_not_cover),
    }


def not_run(judged: Sequence[Judged]) -> str:
    """Why none of these programs was run: the most frequent reason."""
    reasons = Counter(one.why for one in judged if one.verdict is Verdict.NOT_RUN)
    return reasons.most_common(1)[0][0] if reasons else "it has no answers"
