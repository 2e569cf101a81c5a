"""The page of a run, `report.html`: gather the sections and fill the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codeshell.engine import Engine
from codeshell.engine.files import make_directory, write_text
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.report import card, evaluation, figure, format, quality, read, sections, training
from codeshell.report.charts import bar, hover_data, line_chart
from codeshell.report.page import fill, make_card, show_value


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """The last stage of a run: write `report.html` and the cards of the models from the other files in `directory`. It
    has no statistics."""
    write(directory, directory / "report.html")
    card.write_all(directory)
    return {}


def write(directory: Path, output: Path) -> None:
    """Render the run in `directory` to the file `output`.

    Raises:
        UserError: `directory` holds no run, a file in it is damaged, or `output` cannot be written.
    """
    page = render(directory)
    make_directory(output.parent)
    write_text(output, page)


def render(directory: Path) -> str:
    """The page as text. The same files give the same page.

    Raises:
        UserError: `directory` holds no run, or a file in it is damaged.
    """
    stats = read.statistics(directory)
    environment = read.read_dict(directory / "run.json")
    if environment is None and not any(stats.values()):
        raise UserError(
            f"{directory}: no run is here (no run.json, no stats.json); give the directory of a codeshell run"
        )
    # Each section is None or empty where its stage has not run; the template says so.
    times = sections.timings(read.read_dict(directory / "timings.json"))
    trained = training.training(directory, stats["train"])
    evaluated = evaluation.evaluation(directory, stats["evaluate"])
    duplicates = sections.duplicates(directory, stats)
    judged = quality.quality(directory, stats)
    tokens = sections.tokenizer(stats)
    # All charts once more as numbers, for the values that the script shows under the pointer.
    charts = [chart for section in (judged, trained, evaluated) for chart in (section["charts"] if section else [])]
    recipe_path = directory / "recipe.toml"
    recipe = recipe_path.read_text(encoding="utf-8", errors="replace") if recipe_path.exists() else ""
    context = {
        "what": "codeshell run",
        "directory": "the run's directory",
        "name": _name(recipe, directory),
        "started": (environment or {}).get("started"),
        "lead": _lead(stats),
        "cards": _cards(stats, times),
        "funnel": sections.funnel(directory, stats),
        "collected": sections.pair(stats["collect"])["bytes"],
        "languages": sections.languages(stats),
        "duplicates": duplicates,
        "quality": judged and judged | {"charts": [line_chart(chart) for chart in judged["charts"]]},
        "splits": sections.splits(stats),
        "tokenizer": tokens,
        "training": trained and _training_rows(trained, evaluated),
        "evaluation": evaluated and _drawn(evaluated),
        "samples": evaluation.samples(read.read_any(directory / "evaluate" / "samples.json")),
        "timings": times,
        "environment": _labelled(sections.flatten(environment)) if environment else [],
        "recipe": recipe,
        "chart_data": hover_data(charts),
    }
    return fill("template.html", context)


def _name(recipe: str, directory: Path) -> str:
    """The recipe's name, or the directory's."""
    import tomllib

    # A recipe that was damaged by hand must not cost the page.
    try:
        name = tomllib.loads(recipe).get("name")
    except tomllib.TOMLDecodeError:
        name = None
    return str(name) if name else directory.resolve().name


def _lead(stats: sections.Statistics) -> str:
    """What the run has done so far, in a sentence or two."""
    collect, train = stats["collect"], stats["train"]
    # The corpus is what the last data stage that has run left.
    final = next((stats[stage] for stage in ("split", "select", "neardup", "filter") if stats[stage] is not None), None)
    if collect is None:
        return "Nothing has been collected yet."
    there = sections.pair(collect)
    text = f"{format.count(there['documents'])} documents were read"
    if final is not None:
        kept = sections.pair(final.get("kept"))
        part = format.share(kept["bytes"], there["bytes"], 0)
        text += f"; {format.count(kept['documents'])} are in the corpus ({part} of the bytes)"
    if train is not None:
        text += (
            f". A model of {format.short_count(train.get('parameters'))} parameters was trained on "
            f"{format.short_count(train.get('tokens'))} tokens"
        )
        if train.get("failure"):
            text += f"; the training failed: {format.cut(train['failure'])}"
    return text + "."


def _cards(stats: sections.Statistics, times: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The first screen: what was read, what was kept, how good the model is, how long it took."""
    cards = []
    collect = stats["collect"]
    if collect is not None:
        there = sections.pair(collect)
        # What was read, and what was no document.
        left_out = sum(format.number(files) or 0 for files in sections.mapping(collect.get("dropped")).values())
        languages = len(sections.mapping(collect.get("by_language")))
        lines = [
            f"{format.counted(there['documents'], 'document', 'documents')} in "
            f"{format.counted(languages, 'language', 'languages')}",
            f"{format.counted(left_out, 'file', 'files')} left out (binary, too large, not code …)",
        ]
        cards.append(make_card("Read", format.size(there["bytes"]), lines))
    final = next((stage for stage in ("split", "select", "neardup", "filter") if stats[stage] is not None), None)
    if collect is not None and final is not None:
        # What is left of it, as tokens too, and whether the splits leak.
        kept = sections.pair((stats[final] or {}).get("kept"))
        part = format.share(kept["bytes"], sections.pair(collect)["bytes"])
        lines = [f"{format.counted(kept['documents'], 'document', 'documents')}, {part} of the bytes"]
        tokens = sections.mapping((stats["tokens"] or {}).get("train")).get("tokens")
        if tokens is not None:
            lines.append(f"{format.short_count(tokens)} tokens to train on")
        leak = sections.mapping(sections.mapping((stats["split"] or {}).get("leak")).get("after"))
        # Said only if the leak was measured for every split.
        leaked = [format.number(sections.mapping(entry).get("documents")) for entry in leak.values()]
        if leaked and None not in leaked:
            total = sum(amount or 0 for amount in leaked)
            files = format.counted(total, "held-out file is a near duplicate", "held-out files are near duplicates")
            lines.append(f"{files} of training files")
        cards.append(make_card("Kept", format.size(kept["bytes"]), lines))
    cards += _model_cards(stats)
    if times is not None:
        # The four slowest stages say where the time went.
        slowest = sorted(times["rows"], key=lambda row: (-row["seconds"], row["name"]))[:4]
        graph = [
            {
                "name": row["name"],
                "value": format.duration(row["seconds"]),
                "bar": bar(row["seconds"], times["largest"], "c0"),
                "strong": False,
            }
            for row in slowest
        ]
        card = make_card("Time", format.duration(times["total"]), [])
        cards.append(card | {"bars": graph, "caption": "The slowest stages"})
    return cards


def _model_cards(stats: sections.Statistics) -> list[dict[str, Any]]:
    """The model's card: bits per byte beside other systems, or the loss where the evaluation has not run."""
    bits = evaluation.headline_bits(stats["evaluate"])
    infill = evaluation.headline_infill(stats["evaluate"])
    if bits and bits[0][0] == "this model":
        # The longest bar is the worst system; the model's own is coloured.
        top = max(value for _, value in bits)
        graph = [
            {
                "name": name,
                "value": f"{value:.2f}",
                "bar": bar(value, top, "c0" if index else "c1"),
                "strong": not index,
            }
            for index, (name, value) in enumerate(bits)
        ]
        lines = ["Less is better.", *([infill] if infill else [])]
        card = make_card("Model, on held-out files", f"{bits[0][1]:.2f}", lines, "bits per byte")
        return [card | {"bars": graph, "caption": "Bits per byte"}]
    if stats["train"] is None:
        return []
    # Without an evaluation the training's own loss is what there is: on the validation split if it was measured.
    loss = format.number(stats["train"].get("final_valid_loss")) or format.number(
        stats["train"].get("final_train_loss")
    )
    if stats["train"].get("failure"):
        return [make_card("Model", "failed", [format.cut(stats["train"]["failure"])])]
    value = format.MISSING if loss is None else f"{loss:.3f}"
    return [make_card("Model, not evaluated", value, [infill] if infill else [], "nats per token")]


def _training_rows(trained: dict[str, Any], evaluated: dict[str, Any] | None) -> dict[str, Any]:
    # Counts are shown in full here; the lead has them in three digits.
    whole = ("parameters", "steps", "tokens", "skipped_updates")
    rows = [
        (training.FACTS[key], format.count(value) if key in whole else show_value(value))
        for key, value in trained["facts"]
    ]
    # The columns of the table of phases: every key that any phase has, in the order of appearance.
    keys: list[str] = []
    for phase in trained["phases"]:
        keys += [key for key in phase if key not in keys]
    phases = [{key: phase.get(key) for key in keys} for phase in trained["phases"]]
    return trained | {
        "fact_rows": rows,
        "phases": phases,
        "phase_keys": keys,
        # The learning rate stands below the loss, over the same tokens; what differs from step to step comes after.
        "main": [line_chart(chart) for chart in trained["charts"] if chart.name in ("loss", "lr")],
        "others": [line_chart(chart) for chart in trained["charts"] if chart.name not in ("loss", "lr")],
        "positions": next((f"chart-{chart.name}" for chart in figure.position_charts(evaluated)), None),
        "rest": sections.flatten(trained["rest"]) if trained["rest"] else [],
    }


def _drawn(evaluated: dict[str, Any]) -> dict[str, Any]:
    tasks = [task | {"charts": [line_chart(chart) for chart in task["charts"]]} for task in evaluated["tasks"]]
    return evaluated | {"tasks": tasks}


def _labelled(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(format.words(key.removeprefix("versions.")), value) for key, value in rows]
