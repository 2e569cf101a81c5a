"""The recipe's section `[ablate]`: which selections of one corpus are compared, and on what."""

# Structs copy their defaults, which ruff does not know of a base that is imported.
# ruff: noqa: RUF012

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from codeshell.recipe_keys import Count, Resume, Settings


class Ablate(Settings, frozen=True, kw_only=True):
    """The same model trained on the same number of tokens of several selections (`codeshell ablate`).

    No other command reads the section, so `codeshell run` resumes with any value of it. `codeshell ablate` keeps what
    is done, trains what is new (an arm, a seed), and refuses what would make its arms unlike (the rest).
    """

    arms: Resume[dict[str, dict[str, Any]]] = {}
    """`{name: keys of [select]}`: what each arm drops and in which order it takes the rest, the best first by
    `weights`, or by a hash of the seed. An arm without keys is a random sample."""
    baseline: Resume[str] = "random"
    """The arm that the others are compared with, seed by seed."""
    seeds: Resume[Annotated[int, msgspec.Meta(ge=1, le=1000)]] = 3
    """Trainings of each arm, with the seeds `seed + 1`, `seed + 2`, …: they draw the weights, the order of the
    documents, and the sample where the order is that of a hash."""
    tokens: Resume[Count] = 0
    """Different tokens in each arm's corpus; 0 is as many as training reads, so that it reads each once."""
    points: Resume[Annotated[int, msgspec.Meta(ge=1, le=1000)]] = 5
    """Evaluations of each training, evenly over its steps; the last is at its end."""
    generate_every: Resume[Annotated[int, msgspec.Meta(ge=1, le=1000)]] = 1
    """Tasks that ask the model to write, which cost most, are done at every so many of these points, counted back from
    the last; bits per byte are at all of them."""
    held_out: Resume[dict[str, tuple[str, ...]]] = {}
    """`{name: inputs}`: further held-out sets, read as `collect.inputs` are. What resembles a document of the corpus is
    left out of them. The corpus' own test split is the set "unfiltered"."""
