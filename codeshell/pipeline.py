"""The main job: the stages in their order, what each depends on, and how a run resumes.

A stage's `key.json` records the settings that decide its output and a hash of them and of the key of the stage before
it. A directory of other settings is done again; a trained model is never thrown away but moved aside. Which settings
count is marked at each key of the recipe (`codeshell.recipe_keys.Change`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from codeshell.engine.files import lock, make_directory, read_json, remove_quietly, write_json, write_text
from codeshell.engine.stages import STAGES, Stage
from codeshell.environment import environment
from codeshell.errors import UserError, reasons, say
from codeshell.recipe import Recipe, changed, describe, flatten, marks, to_toml, to_tree
from codeshell.recipe_keys import Change
from codeshell.registry import Registry
from codeshell.train.launch import refuse_several

Result = TypeVar("Result")

KEY_VERSION = 1
"""Raised when a stage's output changes for the same settings, so that old directories are not mistaken for new."""


CODE = {
    "score.scorers": "codeshell.scorers:SCORERS",
    "rules.own": "codeshell.data.rules:OWN",
    "select.own": "codeshell.data.rules:OWN",
    "evaluate.tasks": "codeshell.evaluate:CODE",
}
"""Keys of the recipe that name code, each with its registry. The registries are imported only for a recipe that names
some: they may need Arrow."""


def run(recipe: Recipe, directory: Path, *, workers: int = 0, until: str | None = None, refresh: bool = False) -> None:
    """Do what is not done yet of a run.

    Args:
        recipe: its settings.
        directory: the run's directory; it is made if it is not there.
        workers: processes for the data stages; 0 means every core.
        until: the name of the last stage to do; None does all of them and the report.
        refresh: do every stage again if what was read has changed since, or may have.

    Raises:
        UserError: bad input, a directory in use, a disk that is full or read-only.
    """
    from codeshell.engine import LocalEngine
    from codeshell.engine.arrow import leave_out_pandas

    refuse_several("codeshell run")
    stages = stages_of(recipe)
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: no such stage; there are {', '.join(names)}")
    last = names.index(until) if until else len(stages) - 1
    # In its own input, a run would leave its files among the user's.
    if any(os.path.realpath(text) == os.path.realpath(directory) for text in recipe.collect.inputs if text):
        raise UserError(f"{directory}: both an input and the output; choose another output directory with -o")
    _check_base(recipe, directory)
    make_directory(directory)
    with lock(directory):
        # The first stage's module imports Arrow, and Arrow would import pandas.
        leave_out_pandas()
        # Before a file of the run is touched.
        _check(recipe, directory)
        with LocalEngine(workers) as engine:
            _print_settings(recipe, directory)
            _write_recipe(recipe, directory)
            _write_environment(directory, engine.workers)
            _remove_trash(directory)
            _prepare(recipe, directory, _outdated(recipe, directory) if refresh else None)
            timings = read_timings(directory)
            statistics: dict[str, Any] = {}
            worked = False
            # A stage is done when its statistics are there; they are written last.
            for stage in stages[: last + 1]:
                done = directory / stage.directories[0] / "stats.json"
                if done.exists():
                    statistics[stage.name] = read_json(done)
                    since = _since(recipe, directory) if stage is STAGES[0] else ""
                    say(f"{stage.name}: done before" + (f"; {since}" if since else ""))
                    _stop_if_failed(recipe, directory, engine, stage, statistics)
                    continue
                worked = True
                started = time.monotonic()
                if stage.alone:
                    engine.close()
                statistics[stage.name] = _module(stage).run(recipe, directory, engine)
                write_json(done, statistics[stage.name])
                seconds = time.monotonic() - started
                timings[stage.name] = round(timings.get(stage.name, 0.0) + seconds, 3)
                write_json(directory / "timings.json", timings)
                say(f"{stage.name}: {seconds:.1f} s{summary(stage.name, statistics[stage.name])}")
                for line in _notes(stage, recipe, statistics[stage.name], directory):
                    say(line)
                _stop_if_failed(recipe, directory, engine, stage, statistics)
            write_json(directory / "metrics.json", statistics)
            if until is None:
                _report(recipe, directory, engine, worked)
                _print_timings(timings)
            if failure := statistics.get("evaluate", {}).get("failure"):
                raise UserError(f"evaluate: {failure}; delete train/ and evaluate/ of {directory}, and run again")


def _check_base(recipe: Recipe, directory: Path) -> None:
    """Refuse a base that is the run itself, or one of its own directories, which a stage clears or moves aside."""
    if not recipe.finetune.base:
        return
    base, run = (Path(os.path.realpath(path)) for path in (recipe.finetune.base, directory))
    own = {name for stage in STAGES for name in stage.directories}
    if base == run or (base.is_relative_to(run) and base.relative_to(run).parts[0] in own):
        raise UserError(
            f"{directory}: the base {recipe.finetune.base} lies in it, and a run replaces its own model; choose "
            "another output directory with -o"
        )


def _notes(stage: Stage, recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """What a stage left out and why, in a line or two for the terminal: its module's own words, or the counts."""
    own = getattr(_module(stage), "notes", None)
    if own is not None:
        lines: list[str] = own(recipe, statistics, directory)
        return lines
    counts = reasons(statistics.get("dropped", {}))
    if not counts:
        return []
    where = directory / stage.directories[0] / "dropped-*.parquet"
    listed = f"; each is in {where}, and `codeshell explain PATH --run {directory}` says why" if stage.drops else ""
    return [f"{stage.name}: dropped {counts}{listed}"]


def _stop_if_failed(recipe: Recipe, directory: Path, engine: Any, stage: Stage, statistics: dict[str, Any]) -> None:
    """After a training without a usable model: write metrics and report, which say so, and raise a `UserError`."""
    if stage.name == "train" and statistics["train"].get("failure"):
        write_json(directory / "metrics.json", statistics)
        _report(recipe, directory, engine, worked=True)
        raise UserError(failed_training(directory, statistics["train"]))


def failed_training(directory: Path, stats: dict[str, Any]) -> str:
    """The message of a training that ended without a usable model."""
    return (
        f"train: {stats['failure']}; {_skipped(stats) or 'no update was skipped'}; {directory / 'model'} was not "
        f"written, the weights are in {directory / 'train' / 'checkpoints'}; "
        "`codeshell run` with a lower train.lr trains again"
    )


def _skipped(stats: dict[str, Any]) -> str:
    """How many updates a training skipped and why, in a few words; empty if there is none."""
    if not stats["skipped_updates"]:
        return ""
    # Checkpoints of an earlier version counted without reasons.
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in stats.get("skipped_by_reason", {}).items())
    return f"{stats['skipped_updates']:,} of {stats['steps']:,} updates were skipped ({reasons or 'see log.jsonl'})"


def _since(recipe: Recipe, directory: Path, *, strict: bool = False) -> str:
    """What has changed since the first stage read the inputs, in words (`codeshell.data.collect.since`)."""
    return str(_module(STAGES[0]).since(recipe, directory, strict=strict))


def _outdated(recipe: Recipe, directory: Path) -> str | None:
    """Why `--refresh` does everything again, in words; None if nothing has changed since."""
    first = STAGES[0]
    if not (directory / first.directories[0] / "key.json").exists():
        return None
    # An input that is not there is an error now, while everything that was made of it still is.
    since = _since(recipe, directory, strict=True)
    # A stage that is not done begins again: a part of it may be about files that have changed.
    if not (directory / first.directories[0] / "stats.json").exists():
        return "--refresh: it was not done"
    if since:
        return f"--refresh: {since.partition('; `--refresh`')[0]}"
    say("--refresh: the inputs are as they were read; nothing is read again")
    return None


def _module(stage: Stage) -> ModuleType:
    return importlib.import_module(f"codeshell.{stage.module}")


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages that a run of this recipe has, in order."""
    # An empty list of scorers, say, is no stage at all.
    flat = flatten(to_tree(recipe))
    present = [stage for stage in STAGES if not stage.only_with or any(flat[key] for key in stage.only_with)]
    # Conversations alone are no corpus. Otherwise a run without inputs is an error of its first stage.
    conversations = bool(recipe.finetune.instructions) and not recipe.collect.inputs
    return [stage for stage in present if not (stage.documents and conversations)]


def _report(recipe: Recipe, directory: Path, engine: Any, worked: bool) -> None:
    """Write the page if a stage has worked, the settings have changed, or there is no page."""
    page = directory / "report.html"
    # The page shows the settings, of which a run may resume with some that no stage depends on.
    written = page.stat().st_mtime_ns if page.exists() else 0
    if worked or written < (directory / "recipe.toml").stat().st_mtime_ns:
        importlib.import_module("codeshell.report").run(recipe, directory, engine)
    say(f"report: {page}")


def train(recipe: Recipe, directory: Path, group: Any = None) -> None:
    """The training stage alone, on a run that has its tokens; the run takes the result for its own.

    Args:
        recipe: its settings; `model`, `train` and `seed` are used.
        directory: the run's directory, with `tokenizer/` and `tokens/`. Tokens that no run made have no `key.json`.
        group: the ranks that train together (`codeshell.train.parallel.Group`), each of which calls this; None is one
            process. Rank 0 alone holds the directory and writes here.

    Raises:
        UserError: what the training stage raises; also for checkpoints of other settings, which are not moved aside
            here.
    """
    from codeshell.engine import LocalEngine

    stage = next(stage for stage in STAGES if stage.name == "train")
    home = directory / "train"

    def lead(action: Callable[[], Result]) -> Result:
        result: Result = action() if group is None else group.lead(action)
        return result

    with contextlib.ExitStack() as held:
        begun = lead(lambda: (held.enter_context(lock(directory)), _begin_training(recipe, directory, stage))[1])
        if begun["done"]:
            return
        key = begun["key"]
        statistics = _module(stage).run(recipe, directory, LocalEngine(1), **({"group": group} if group else {}))

        def end() -> None:
            if key is not None:
                write_json(home / "key.json", key)
            write_json(home / "stats.json", statistics)
            if statistics["failure"]:
                raise UserError(failed_training(directory, statistics))
            say(f"train: the model is in {directory / 'model'}{summary('train', statistics)}")

        lead(end)


def _begin_training(recipe: Recipe, directory: Path, stage: Stage) -> dict[str, Any]:
    """`done`: whether the run was trained before, with these settings; `key`: what is to be recorded, or None."""
    home = make_directory(directory / "train")
    settings = stage_settings(recipe, stage)
    # The key that `codeshell run` will compare, so that it takes this training for its own and continues after it.
    key: dict[str, Any] | None = None
    if (directory / "tokens" / "key.json").exists():
        upstream = read_json(directory / "tokens" / "key.json")["key"]
        recorded = _recorded(home)
        if recorded is not None and made_by(recorded, settings, upstream):
            key = recorded
            if (home / "stats.json").exists():
                if (done := read_json(home / "stats.json")).get("failure"):
                    raise UserError(failed_training(directory, done))
                say(f"train: done before, the model is in {directory / 'model'}")
                return {"done": True, "key": key}
        else:
            key = {"key": stage_key(settings, upstream), "settings": settings}
    # Where there are checkpoints, the key is written after training has accepted them: until then they may be those of
    # other settings, which `codeshell run` must move aside.
    if key is not None and not any((home / "checkpoints").glob("step-*")):
        write_json(home / "key.json", key)
    return {"done": False, "key": key}


def _check(recipe: Recipe, directory: Path) -> None:
    """Raise a `UserError` for settings that cannot be, before anything is redone for their sake.

    These are keys that are marked `Refuse` and differ from what a finished stage was made with, and what a stage itself
    finds wrong with new settings: a misspelt threshold must not cost the corpus that it was meant for.
    """
    for stage in stages_of(recipe):
        home = directory / stage.directories[0]
        recorded, now = _recorded(home), stage_settings(recipe, stage)
        keys = changed(recorded["settings"], now) if recorded is not None else list(now)
        if keys and stage.checks:
            _module(stage).check(recipe)
        refused = [key for key in keys if marks().get(key) is Change.REFUSE]
        if refused and recorded is not None and (home / "stats.json").exists():
            raise UserError(
                f"{directory}: {describe(refused, recorded['settings'], now)}; nothing of this run would remain with "
                "that, so give the same again, or choose another output directory"
            )


def _prepare(recipe: Recipe, directory: Path, stale: str | None = None) -> None:
    """Compare every stage's settings with those that its directory records; clear or move aside what others made.

    Args:
        stale: why everything must be done again, whatever the settings; None if the settings decide.
    """
    # The key of the stage before; `stale` becomes the reason why everything from some stage on must be done again.
    upstream = ""
    # The reason where a stage has the same settings, but follows another one than before.
    other = "made by another version, or by hand"
    taking_part = stages_of(recipe)
    for stage in STAGES:
        settings = stage_settings(recipe, stage)
        home = directory / stage.directories[0]
        recorded = _recorded(home)
        if stage not in taking_part:
            # It leaves no trace in the keys of the others, so a run without it has the keys that it always had.
            if home.exists():
                other = f"{_in_words(stage)} is empty"
                _clear(directory, stage, f"other settings ({other})", "removed")
            continue
        # Nothing before it is redone, and it was made by these settings: it stays.
        if stale is None and recorded is not None and made_by(recorded, settings, upstream):
            # The recorded key stays, even where an earlier version made it of more settings than count today: the
            # keys of the stages after it were made from it.
            upstream = recorded["key"]
            continue
        # From here on all stages are stale, and the reason of the first is the reason of all.
        follows = recorded is not None and recorded["key"] == stage_key(recorded["settings"], upstream)
        upstream = stage_key(settings, upstream)
        if stale is None and stage.parts and recorded is not None and follows:
            # What it reads is the same: its parts know themselves which of them are to be done again.
            stale = f"other settings ({_differences(recorded['settings'], settings)})"
            say(f"{stage.name}: {stale}; doing again what they touch")
            remove_quietly(home / "stats.json")
        elif home.exists():
            if stale is None:
                was = recorded["settings"] if recorded is not None else {}
                stale = _differences(was, settings) if was else ""
                stale = f"other settings ({stale or other})"
            _clear(directory, stage, stale)
        elif stage.only_with:
            other = f"{_in_words(stage)} is new"
        make_directory(home)
        write_json(home / "key.json", {"key": upstream, "settings": settings})


def _differences(was: dict[str, Any], now: dict[str, Any]) -> str:
    """What has changed, in words. Code that is named newly, or no more, is told by the list that names it."""
    keys = changed(was, now)
    told = [key for key in keys if not key.startswith("code of ") or (key in was and key in now)]
    return describe(told or keys, was, now)


def _in_words(stage: Stage) -> str:
    """The setting that makes a stage take part, for messages."""
    return stage.only_with[0] if len(stage.only_with) == 1 else f"what {stage.name} needs"


def _recorded(home: Path) -> dict[str, Any] | None:
    """What `key.json` of a stage's directory holds, None if it is not there or not whole."""
    path = home / "key.json"
    value = read_json(path) if path.exists() else None
    return value if isinstance(value, dict) and {"key", "settings"} <= value.keys() else None


def made_by(recorded: dict[str, Any], settings: dict[str, Any], upstream: str) -> bool:
    """Whether a stage with this `key.json` was made by these settings from the stage with the key `upstream`."""
    return bool(recorded["key"] == stage_key(recorded["settings"], upstream)) and not changed(
        recorded["settings"], settings
    )


def stage_settings(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """The settings that decide a stage's output, as `{"section.key": value}`."""
    mark = marks()
    parts = stage.sections + (stage.conversations if recipe.finetune.instructions else ())
    settings = {
        key: value
        for key, value in flatten(to_tree(recipe)).items()
        if (key in parts or key.partition(".")[0] in parts) and mark[key] is not Change.RESUME
    }
    # Conversations are read by the stage itself, and another text under the same name is another setting.
    if stage.conversations:
        for place in recipe.finetune.instructions:
            settings[f"contents of {place}"] = _contents(Path(place))
    # Code that the recipe names is a setting like the name: another version of it gives another output.
    for key in CODE:
        for place in settings.get(key, ()):
            text = _registry(key).fingerprint(place)
            # The package's tasks have none: they change with the package, and what a run of it has done stays done.
            if text or key != "evaluate.tasks":
                settings[f"code of {place}"] = text
    return settings


def _contents(path: Path) -> str:
    """A hash of a file; of what is no file on this machine, nothing but the name is known."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _registry(key: str) -> Registry[Any]:
    """The registry that the names in a key of `CODE` are looked up in."""
    module, _, attribute = CODE[key].partition(":")
    found: Registry[Any] = getattr(importlib.import_module(module), attribute)
    return found


def stage_key(settings: dict[str, Any], upstream: str) -> str:
    """The hash of a stage's settings and of the key of the stage before it ("" for the first)."""
    # Sorted, so that the order of the keys in the recipe does not matter.
    text = json.dumps([KEY_VERSION, settings, upstream], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_timings(directory: Path) -> dict[str, float]:
    """Seconds by stage, summed over resumes, for what is in the directory now."""
    path = directory / "timings.json"
    timings: dict[str, float] = read_json(path) if path.exists() else {}
    return timings


def _clear(directory: Path, stage: Stage, reason: str, then: str = "doing it again") -> None:
    """Remove what a stage left, or move it aside if it is precious and training had begun; say so with the reason."""
    # The seconds belong to what is about to go.
    timings = read_timings(directory)
    if timings.pop(stage.name, None) is not None:
        write_json(directory / "timings.json", timings)
    present = [directory / name for name in stage.directories if (directory / name).exists()]
    # A stage that has not begun has its key and nothing else, which is not worth a line.
    begun = any(entry.name != "key.json" for path in present for entry in path.iterdir())
    if stage.precious and any((directory / "train" / "checkpoints").glob("step-*")):
        # One number for all its directories, the first that none of them has.
        number = 1
        while any((directory / f"{name}.old-{number}").exists() for name in stage.directories):
            number += 1
        for path in present:
            path.rename(path.with_name(f"{path.name}.old-{number}"))
        # A training that was stopped or failed has left no model, and its checkpoints are what is kept.
        name = "model" if directory / "model" in present else "train"
        say(f"{stage.name}: {reason}; the old {name} is kept in {directory / f'{name}.old-{number}'}")
        return
    for path in present:
        # By rename first: a kill while deleting must not leave half a stage under its own name.
        path.rename(directory / f".trash-{path.name}")
    _remove_trash(directory)
    if begun:
        say(f"{stage.name}: {reason}; {then}")


def _remove_trash(directory: Path) -> None:
    """Delete what was renamed for deletion, also by a run that was killed while it deleted."""
    for path in directory.glob(".trash-*"):
        shutil.rmtree(path)


def _write_recipe(recipe: Recipe, directory: Path) -> None:
    """Write `recipe.toml` unless it says the same already: its time is that of the last change."""
    path, text = directory / "recipe.toml", to_toml(recipe)
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)


def _write_environment(directory: Path, workers: int) -> None:
    """`run.json`, with the time of the first start kept over resumes."""
    path = directory / "run.json"
    # For the record only: nothing of it enters a key, so another machine can continue a run.
    # The whole command: the folders of a run are its owner's.
    facts = environment(workers) | {"command": " ".join(sys.argv)}
    if path.exists():
        facts["resumed"], facts["started"] = facts["started"], read_json(path)["started"]
    write_json(path, facts)


def summary(name: str, stats: dict[str, Any]) -> str:
    """One stage's result in a few words, for the line that says it is done."""
    if name == "score":
        return f" — {sum(map(len, stats['columns'].values()))} columns for {stats['documents']:,} documents"
    if name == "collect":
        return f" — {stats['documents']:,} documents, {stats['bytes'] / 1e6:.1f} MB"
    if name in ("filter", "neardup", "select", "split"):
        kept, there = stats["kept"], stats["in"]
        return f" — {kept['documents']:,} of {there['documents']:,} documents stay, {kept['bytes'] / 1e6:.1f} MB"
    if name == "tokenizer":
        return f" — {stats['vocab_size']:,} tokens"
    if name == "tokens":
        return f" — {stats['train']['tokens']:,} tokens to train on"
    if name == "train":
        loss = stats["final_train_loss"]
        text = f" — {stats['tokens']:,} tokens, loss {'not finite' if loss is None else f'{loss:.3f}'}"
        # That is the mean of accepted losses, so where some were not accepted, the validation says more.
        if skipped := _skipped(stats):
            valid = stats["final_valid_loss"]
            text += ("" if valid is None else f", validation loss {valid:.3f}") + f"; {skipped}"
        return text
    if name == "evaluate" and stats["not_run"]:
        reasons = "; ".join(f"{task} ({reason})" for task, reason in stats["not_run"].items())
        return f" — not run: {reasons}"
    return ""


def _print_settings(recipe: Recipe, directory: Path) -> None:
    """Print the settings that differ from the defaults, one line per section."""
    say(f"run {directory}: all settings in {directory / 'recipe.toml'}; those that are not defaults:")
    defaults = to_tree(Recipe())
    for section, value in to_tree(recipe).items():
        if isinstance(value, dict):
            differing = [f"{key}={item}" for key, item in value.items() if defaults[section][key] != item]
        else:
            differing = [str(value)] if defaults[section] != value else []
        if differing:
            say(f"  {section}: {', '.join(differing)}")


def _print_timings(timings: dict[str, float]) -> None:
    """Print the seconds of each stage and its share of the whole."""
    total = sum(timings.values())
    say(f"time by stage, {total:.0f} s in all:")
    for stage in STAGES:
        if stage.name in timings:
            seconds = timings[stage.name]
            say(f"  {stage.name:<10} {seconds:8.1f} s {seconds / max(total, 1e-9):6.1%}")
