"""The list of the main job's stages: where each writes, what it reads of the recipe, what it leaves for the next.

`codeshell.pipeline` runs them in this order. What reads a run's directory (`codeshell explain`, the report) takes the
directories from here, so a new stage is one line of `STAGES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One step of the main job."""

    name: str
    module: str
    """Below `codeshell`; it has `run(recipe, directory, engine) -> statistics`. It may have
    `notes(recipe, statistics, directory) -> lines`: at most two lines for the terminal, after that of the stage, that
    say what was left out, why, and what to do; one that begins with "warning:" is about a loss."""
    directories: tuple[str, ...]
    """Below the run's directory, all its own; the first holds `stats.json` and `key.json`."""
    sections: tuple[str, ...]
    """Parts of the recipe that decide its output: whole sections, and single keys as "section.key"."""
    kept: tuple[str, ...] = ()
    """Names of the shards in its first directory that hold the documents it lets through (`kept-NNNNN.parquet`)."""
    drops: bool = False
    """Writes `dropped-NNNNN.parquet` there."""
    checks: bool = False
    """Its module has `check(recipe)`, which raises a `UserError` for settings that it cannot work with."""
    precious: bool = False
    """Costs hours: with other settings its directories are moved aside, not deleted."""
    only_with: tuple[str, ...] = ()
    """Keys of the recipe. Where the values of all of them are empty, the stage is no part of the run."""
    conversations: tuple[str, ...] = ()
    """Further keys of the same kind, for runs that read conversations (`finetune.instructions`)."""
    documents: bool = False
    """Makes the corpus: no part of a run that reads nothing but conversations (`finetune.instructions`)."""
    alone: bool = False
    """Works in this process, and needs the memory that idle workers would hold: they end before it."""
    parts: bool = False
    """Its directory has parts with keys of their own: with other settings it is not cleared, and the stage itself does
    again what they touch."""


SELECTING = (
    *("select.minimum", "select.maximum", "select.lowest", "select.highest", "select.package_rules", "select.own"),
    *("select.budget", "select.library_cap"),
)
"""Keys that drop documents by their scores. The others of the section say how."""

STAGES = (
    # Files become documents, with the measures that the rules read.
    Stage("collect", "data.collect", ("collect",), ("collect",), kept=("documents",), drops=True, documents=True),
    # Languages, rules and exact duplicates.
    Stage("filter", "data.filter", ("filter",), ("rules",), kept=("kept",), drops=True, checks=True, documents=True),
    Stage(
        *("neardup", "data.neardup", ("neardup",), ("near_dedup", "seed")),
        kept=("kept",),
        drops=True,
        checks=True,
        documents=True,
    ),
    # Distinct documents alone are scored, because that is the work. Scores drop nothing; `select` decides by them.
    Stage(
        *("score", "data.score", ("score",), ("score",)),
        checks=True,
        only_with=("score.scorers",),
        parts=True,
        documents=True,
    ),
    Stage(
        *("select", "data.select", ("select",), ("select", "seed")),
        kept=("kept",),
        drops=True,
        checks=True,
        only_with=("score.scorers", *SELECTING),
        documents=True,
    ),
    # The corpus: whole repositories (or files) are held out, and what leaks is dropped.
    Stage(
        *("split", "data.split", ("curated",), ("split", "seed")),
        kept=("train", "valid", "test"),
        drops=True,
        documents=True,
    ),
    # From text to a model. The tokens depend on the tokenizer alone, which is the stage before them.
    Stage(
        *("tokenizer", "tokenizer.train", ("tokenizer",), ("tokenizer", "finetune.base", "seed")),
        checks=True,
        alone=True,
    ),
    Stage(
        *("tokens", "data.tokens", ("tokens",), ("finetune.instructions",)),
        conversations=("finetune.template", "train.phases", "split.valid", "seed"),
        checks=True,
    ),
    Stage(
        *("train", "train", ("train", "model", "model-starcoder2", "adapter"), ("model", "train", "finetune", "seed")),
        precious=True,
        alone=True,
    ),
    # Not in the list: the report, which is written from all of these after the last.
    Stage("evaluate", "evaluate", ("evaluate",), ("evaluate", "seed"), checks=True, parts=True, alone=True),
)
