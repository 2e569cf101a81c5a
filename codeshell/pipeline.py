"""The main job: the stages in their order, what each depends on, and how a run resumes.

A stage's key is a hash of the settings it reads and of the key of the stage before it. A directory with another key
was made by other settings: data stages are then done again; a trained model is never thrown away but moved aside.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeshell.engine.files import lock, make_directory, read_json, write_json, write_text
from codeshell.environment import environment
from codeshell.errors import UserError
from codeshell.recipe import Recipe, to_toml, to_tree

KEY_VERSION = 1
"""Raised when a stage's output changes for the same settings, so that old directories are not mistaken for new."""


@dataclass(frozen=True)
class Stage:
    """One step of the main job."""

    name: str
    module: str
    """Has `run(recipe, directory, engine) -> statistics`."""
    directories: tuple[str, ...]
    """Below the run's directory, all its own; the first holds `stats.json` and `key.json`."""
    sections: tuple[str, ...]
    """Parts of the recipe that decide its output."""
    precious: bool = False
    """Costs hours: with other settings its directories are moved aside, not deleted."""


STAGES = (
    Stage("collect", "codeshell.data.collect", ("collect",), ("collect",)),
    Stage("filter", "codeshell.data.filter", ("filter",), ("rules",)),
    Stage("neardup", "codeshell.data.neardup", ("neardup",), ("near_dedup", "seed")),
    Stage("split", "codeshell.data.split", ("curated",), ("split", "seed")),
    Stage("tokenizer", "codeshell.tokenizer.train", ("tokenizer",), ("tokenizer", "seed")),
    Stage("tokens", "codeshell.data.tokens", ("tokens",), ()),
    Stage("train", "codeshell.train", ("train", "model", "model-starcoder2"), ("model", "train", "seed"), True),
    Stage("evaluate", "codeshell.evaluate", ("evaluate",), ("evaluate", "seed")),
)

HARMLESS = (
    "checkpoint_every",
    "keep_checkpoints",
    "keep_phase_ends",
    "log_every",
    "max_skips",
    "spike_policy",
    "spike_sigma",
    "tensorboard",
    "valid_every",
)
"""Settings of `train` that a run may go on with other values of: what is written when, and what a spike does, so
that a run which its spike policy stopped can be resumed under another one."""


def run(recipe: Recipe, directory: Path, *, workers: int = 0, until: str | None = None) -> None:
    """Do what is not done yet of a run.

    Args:
        recipe: its settings.
        directory: of the run; made if need be.
        workers: processes for the data stages; 0 means every core.
        until: the name of the last stage to do; None does all of them and the report.

    Raises:
        UserError: bad input, a directory in use, a disk that is full or read-only.
    """
    from codeshell.engine import LocalEngine

    names = [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: no such stage; there are {', '.join(names)}")
    last = names.index(until) if until else len(STAGES) - 1
    make_directory(directory)
    with lock(directory):
        engine = LocalEngine(workers)
        _print_settings(recipe, directory)
        write_text(directory / "recipe.toml", to_toml(recipe))
        _write_environment(directory, engine.workers)
        _remove_trash(directory)
        _prepare(recipe, directory)
        timings = read_timings(directory)
        statistics: dict[str, Any] = {}
        worked = False
        for stage in STAGES[: last + 1]:
            done = directory / stage.directories[0] / "stats.json"
            if done.exists():
                statistics[stage.name] = read_json(done)
                say(f"{stage.name}: done before")
                continue
            worked = True
            started = time.monotonic()
            statistics[stage.name] = importlib.import_module(stage.module).run(recipe, directory, engine)
            engine.close()  # idle workers would hold memory that training wants
            write_json(done, statistics[stage.name])
            seconds = time.monotonic() - started
            timings[stage.name] = round(timings.get(stage.name, 0.0) + seconds, 3)
            write_json(directory / "timings.json", timings)
            say(f"{stage.name}: {seconds:.1f} s{summary(stage.name, statistics[stage.name])}")
        write_json(directory / "metrics.json", statistics)
        if until is None:
            _report(recipe, directory, engine, worked)
            _print_timings(timings)


def _report(recipe: Recipe, directory: Path, engine: Any, worked: bool) -> None:
    page = directory / "report.html"
    if worked or not page.exists():
        importlib.import_module("codeshell.report").run(recipe, directory, engine)
    say(f"report: {page}")


def _prepare(recipe: Recipe, directory: Path) -> None:
    """Compare every stage's key with its directory's; clear or move aside what other settings made."""
    tree = json.loads(json.dumps(to_tree(recipe)))  # as key.json is read back: tuples are lists there
    upstream = ""
    stale: str | None = None
    for stage in STAGES:
        settings = stage_settings(tree, stage)
        upstream = stage_key(settings, upstream)
        home = directory / stage.directories[0]
        path = home / "key.json"
        if path.exists() and read_json(path)["key"] == upstream and stale is None:
            continue
        if home.exists():
            old = read_json(path)["settings"] if path.exists() else {}
            stale = stale or ", ".join(_differences(old, settings)) or "made by another version, or by hand"
            _clear(directory, stage, stale)
        make_directory(home)
        write_json(path, {"key": upstream, "settings": settings})


def stage_settings(tree: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The part of a recipe that decides a stage's output, as `{"section.key": value}`."""
    settings: dict[str, Any] = {}
    for section in stage.sections:
        value = tree[section]
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            if not (section == "train" and key in HARMLESS):
                settings[f"{section}.{key}".rstrip(".")] = item
    return settings


def stage_key(settings: dict[str, Any], upstream: str) -> str:
    text = json.dumps([KEY_VERSION, settings, upstream], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]


def read_timings(directory: Path) -> dict[str, float]:
    """Seconds by stage, summed over resumes, of what is in the directory now."""
    path = directory / "timings.json"
    timings: dict[str, float] = read_json(path) if path.exists() else {}
    return timings


def _clear(directory: Path, stage: Stage, reason: str) -> None:
    timings = read_timings(directory)
    if timings.pop(stage.name, None) is not None:  # of what is about to go
        write_json(directory / "timings.json", timings)
    present = [directory / name for name in stage.directories if (directory / name).exists()]
    if stage.precious and any((directory / "train" / "checkpoints").glob("step-*")):
        number = 1
        while any((directory / f"{name}.old-{number}").exists() for name in stage.directories):
            number += 1
        for path in present:
            path.rename(path.with_name(f"{path.name}.old-{number}"))
        say(f"{stage.name}: other settings ({reason}); the old model is kept in {directory / f'model.old-{number}'}")
        return
    for path in present:
        # By rename first: a kill while deleting must not leave half a stage under its own name.
        path.rename(directory / f".trash-{path.name}")
    _remove_trash(directory)
    say(f"{stage.name}: other settings ({reason}); doing it again")


def _remove_trash(directory: Path) -> None:
    for path in directory.glob(".trash-*"):
        shutil.rmtree(path)


def _write_environment(directory: Path, workers: int) -> None:
    """`run.json`, with the time of the first start kept over resumes."""
    path = directory / "run.json"
    facts = environment(workers)
    if path.exists():
        facts["resumed"], facts["started"] = facts["started"], read_json(path)["started"]
    write_json(path, facts)


def summary(name: str, stats: dict[str, Any]) -> str:
    """One stage's result in a few words, for the line that says it is done."""
    if name == "collect":
        return f" — {stats['documents']:,} documents, {stats['bytes'] / 1e6:.1f} MB"
    if name in ("filter", "neardup", "split"):
        kept, there = stats["kept"], stats["in"]
        return f" — {kept['documents']:,} of {there['documents']:,} documents stay, {kept['bytes'] / 1e6:.1f} MB"
    if name == "tokenizer":
        return f" — {stats['vocab_size']:,} tokens"
    if name == "tokens":
        return f" — {stats['train']['tokens']:,} tokens to train on"
    if name == "train":
        loss = stats["final_train_loss"]
        return f" — {stats['tokens']:,} tokens, loss {'not finite' if loss is None else f'{loss:.3f}'}"
    return ""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_settings(recipe: Recipe, directory: Path) -> None:
    """The settings that differ from the defaults, a line a section."""
    say(f"run {directory}: all settings in {directory / 'recipe.toml'}; those that are not defaults:")
    defaults = to_tree(Recipe())
    for section, value in to_tree(recipe).items():
        if isinstance(value, dict):
            changed = [f"{key}={item}" for key, item in value.items() if defaults[section][key] != item]
        else:
            changed = [str(value)] if defaults[section] != value else []
        if changed:
            say(f"  {section}: {', '.join(changed)}")


def _print_timings(timings: dict[str, float]) -> None:
    total = sum(timings.values())
    say(f"time by stage, {total:.0f} s in all:")
    for stage in STAGES:
        if stage.name in timings:
            seconds = timings[stage.name]
            say(f"  {stage.name:<10} {seconds:8.1f} s {seconds / max(total, 1e-9):6.1%}")
