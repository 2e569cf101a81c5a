"""The model card of a run: `README.md` beside the weights, with data, figures and limits, made from the run's files.

It says nothing that is not in the run: counts of every filter, the settings of training, the losses, every table of the
evaluation with its intervals, and limits that follow from these numbers. What the run does not know (the licences of
the data above all) it says is not known. The same run gives the same card: no time of day, no name of the machine, and
of local inputs only the last part of the path, because a card is published.

Names, languages and texts are of strangers, so all are escaped (codeshell/report/markdown.py).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import codeshell
from codeshell.engine.files import make_directory, write_text
from codeshell.errors import UserError
from codeshell.paragraphs import wrapped
from codeshell.report import evaluation, read, sections
from codeshell.report.format import count, number, plain, share, short_count, size
from codeshell.report.markdown import escape, front_matter, table
from codeshell.report.sections import Statistics, mapping, pair

NAME = "README.md"

DIRECTORIES = ("model", "model-starcoder2")
"""Directories of a run that hold a model."""

LANGUAGES = 30
"""Rows of the table of languages."""

TOKENS_PER_PARAMETER = 20
"""Tokens per parameter at which a training of a given cost is about best (Hoffmann et al. 2022, arXiv 2203.15556)."""

_LICENCES = {
    "{stdlib}": "PSF-2.0: Python's standard library",
    "{site-packages}": "those of the packages; not recorded",
}
UNKNOWN = "not recorded"

_OURS = ("kclgpt", "codeshell", "shell", "starcoder2")
"""Model types of CodeShell's architecture (codeshell/model/config.py, which loads torch)."""

_TRAIN = (
    ("steps", "steps"),
    ("batch_tokens", "tokens per batch"),
    ("optimizer", "optimizer"),
    ("lr", "peak learning rate"),
    ("decay", "decay of the learning rate"),
    ("min_lr_ratio", "final learning rate, of the peak"),
    ("warmup_steps", "steps of warm-up"),
    ("beta1", "beta1"),
    ("beta2", "beta2"),
    ("weight_decay", "weight decay"),
    ("clip", "clip of the gradient norm"),
    ("precision", "precision"),
    ("fim_rate", "documents rearranged for fill-in-the-middle, share"),
    ("fim_lines", "of those with a gap of whole lines, share"),
    ("spm_rate", "of those with the suffix first, share"),
    ("document_attention", "attention between packed documents"),
)
_SHAPE = (
    ("layers", "n_layer", "num_hidden_layers"),
    ("width", "n_embd", "hidden_size"),
    ("heads", "n_head", "num_attention_heads"),
    ("key/value heads", "num_query_groups", "num_key_value_heads"),
    ("width of the MLP", "n_inner", "intermediate_size"),
    ("context, tokens", "n_positions", "max_position_embeddings"),
    ("rows of the embedding", "vocab_size"),
    ("tokens", "n_vocab_used"),
)
"""What a config.json says of the shape, by the names that CodeShell and transformers have for it."""


def write_all(run: Path) -> list[Path]:
    """Write the card into each model directory of a run; gives the files."""
    found = [run / name for name in DIRECTORIES if (run / name / "config.json").is_file()]
    for directory in found:
        # The hub offers the right code to load it.
        library = "transformers" if directory.name == "model-starcoder2" else "codeshell"
        write_text(directory / NAME, render(run, library=library))
    return [directory / NAME for directory in found]


def write(run: Path, output: Path, *, name: str = "", licence: str = "") -> None:
    """Write the card of a run to a file; see `render`."""
    text = render(run, name=name, licence=licence)
    make_directory(output.parent)
    write_text(output, text)


def render(run: Path, *, name: str = "", licence: str = "", library: str = "codeshell") -> str:
    """The card as text.

    Args:
        run: the directory of a run that has trained.
        name: of the model; empty takes the recipe's.
        licence: of the weights, as the hub names it (`apache-2.0`); empty says that none was chosen.
        library: that loads the directory, by the hub's name.

    Raises:
        UserError: the run has not trained, or a file in it is damaged.
    """
    stats = read.statistics(run)
    if stats["train"] is None:
        raise UserError(f"{run}: has not trained, so there is no model to describe; give a run with train/stats.json")
    recipe = _recipe(run)
    title = name or str(recipe.get("name") or run.resolve().name)
    config = read.read_dict(run / "model" / "config.json") or {}
    evaluated = evaluation.evaluation(run, stats["evaluate"])
    header = {
        "language": ["code"],
        "library_name": library,
        "license": licence or "other",
        **({} if licence else {"license_name": "not-chosen"}),
        "pipeline_tag": "text-generation",
        "tags": ["code", "fill-in-the-middle", "codeshell"],
    }
    parts = [
        front_matter(header),
        ["", f"# {escape(title)}", ""],
        wrapped(_lead(stats, recipe)),
        ["", "## Use", "", *_use(config)],
        ["", "## Data", "", *_data(stats, recipe)],
        ["", "## Tokenizer", "", *_tokenizer(stats)],
        ["", "## Model", "", *_model(config, stats)],
        ["", "## Training", "", *_training(stats, recipe)],
        ["", "## Evaluation", "", *_evaluation(evaluated)],
        ["", "## Limits", "", *_limits(stats, recipe, licence)],
        ["", "## How this card was made", "", *_made(run)],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _recipe(run: Path) -> dict[str, Any]:
    """The run's recipe as a tree; empty where it is missing or damaged by hand."""
    path = run / "recipe.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    except tomllib.TOMLDecodeError:
        return {}


def _lead(stats: Statistics, recipe: dict[str, Any]) -> str:
    train = stats["train"] or {}
    languages = list(_languages(stats))
    most = ", ".join(escape(name) for name, _ in languages[:4])
    base = _base(recipe)
    start = f"fine-tuned from {base}" if base else "trained from random weights"
    text = (
        f"A code model of {short_count(train.get('parameters'))} parameters, {start} on "
        f"{short_count(train.get('tokens'))} tokens"
    )
    if most:
        text += f" of {most}" + (" and others" if len(languages) > 4 else "")
    if (number(mapping(recipe.get("train")).get("fim_rate")) or 0) > 0:
        text += ". It continues code and fills in the middle between a prefix and a suffix"
    return text + "."


def _is_ours(config: dict[str, Any]) -> bool:
    """Whether a config.json is of CodeShell's architecture; one that is missing is taken for it."""
    return config.get("model_type", "codeshell") in _OURS


def _base(recipe: dict[str, Any]) -> str:
    """The model that a run was fine-tuned from, and how; empty for a run from random weights."""
    tuned = mapping(recipe.get("finetune"))
    if not tuned.get("base"):
        return ""
    rank = f" (LoRA of rank {count(tuned.get('rank'))}, merged)" if tuned.get("method") == "lora" else ""
    return escape(_source(str(tuned["base"]))) + rank


def _use(config: dict[str, Any]) -> list[str]:
    if not _is_ours(config):
        return wrapped(
            f"A model of the type {escape(config.get('model_type'))} in that type's own format: transformers loads it "
            "as it is, and `codeshell complete` and `codeshell serve` do."
        )
    return [
        "```",
        "codeshell complete model --prefix before.py --suffix after.py",
        "codeshell export model --type q8_0 -o model.gguf        # for llama.cpp",
        "```",
        "",
        *wrapped(
            "The directory `model-starcoder2` of the run has the same weights in the layout of Starcoder2, which "
            "transformers and vLLM load as they are; `codeshell export --format starcoder2` makes it from any model."
        ),
    ]


def _data(stats: Statistics, recipe: dict[str, Any]) -> list[str]:
    collect = stats["collect"] or {}
    inputs = mapping(recipe.get("collect")).get("inputs")
    by_input = sections.objects(collect.get("by_input"))
    rows = []
    for index, text in enumerate(inputs if isinstance(inputs, list) else []):
        counts = by_input[index] if index < len(by_input) else {}
        rows.append([escape(_source(str(text))), _licence(str(text)), count(counts.get("document"))])
    lines = [*table(("Source", "Licence", "Documents"), rows, texts=2), ""] if rows else []
    lines += [*wrapped(_LICENCE_NOTE), ""]
    # What each stage left out, by rule.
    rows = []
    for stage, title, _ in sections.FUNNEL:
        node = stats[stage]
        if node is None:
            continue
        for rule, amount in sorted(mapping(node.get("dropped")).items(), key=_largest):
            files = pair(amount)["documents"] if isinstance(amount, dict) else number(amount) or 0
            bytes_ = size(pair(amount)["bytes"]) if isinstance(amount, dict) else ""
            if files:
                rows.append([f"{title}: {escape(rule)}", count(files), bytes_])
        kept = pair(node.get("kept")) if "kept" in node else pair(node)
        rows.append([f"**{title}: kept**", f"**{count(kept['documents'])}**", f"**{size(kept['bytes'])}**"])
    lines += table(("Stage and rule", "Documents left out", "Size"), rows)
    languages = list(_languages(stats))
    if languages:
        whole = sum(entry["bytes"] for _, entry in languages)
        shown = [
            [escape(name), count(entry["documents"]), size(entry["bytes"]), share(entry["bytes"], whole)]
            for name, entry in languages[:LANGUAGES]
        ]
        lines += ["", *table(("Language", "Documents", "Size", "Share"), shown)]
        if len(languages) > LANGUAGES:
            lines += ["", f"and {len(languages) - LANGUAGES} languages with less."]
    tokens = stats["tokens"] or {}
    parts = [f"{name} {short_count(mapping(tokens.get(name)).get('tokens'))}" for name in ("train", "valid", "test")]
    if tokens:
        by_file = mapping(recipe.get("split")).get("unit") == "file"
        units = "Single files, not whole repositories," if by_file else "Whole repositories"
        lines += ["", f"Tokens by split: {', '.join(parts)}. {units} are held out."]
    return lines


_LICENCE_NOTE = (
    "codeshell does not record the licences of documents. Before these weights or the data are published, look at the "
    "licence of each source: what was trained on may ask for attribution, or forbid the use."
)


def _largest(item: tuple[str, Any]) -> tuple[float, str]:
    name, amount = item
    return -(pair(amount)["documents"] if isinstance(amount, dict) else number(amount) or 0.0), name


def _source(text: str) -> str:
    """An input as it may be published: of a local path the last part, of a URL no user and no query."""
    if "://" in text:
        scheme, _, rest = text.partition("://")
        host, slash, path = rest.partition("?")[0].partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    if text.startswith("{"):
        return text
    return PurePath(text).name or text


def _licence(text: str) -> str:
    return next((licence for name, licence in _LICENCES.items() if text.startswith(name)), UNKNOWN)


def _languages(stats: Statistics) -> Iterator[tuple[str, dict[str, float]]]:
    """Languages of the corpus after the last stage that has run, the largest first."""
    final = next((stage for stage in ("split", "select", "neardup", "filter") if stats[stage] is not None), None)
    found = (
        {name: pair(entry) for name, entry in mapping((stats[final] or {}).get("by_language")).items()} if final else {}
    )
    yield from sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0]))


def _tokenizer(stats: Statistics) -> list[str]:
    node = stats["tokenizer"]
    if node is None:
        return ["Not recorded."]
    made = f"learnt on {size(node.get('trained_on_bytes'))} of the training split" if node.get("trained") else "given"
    text = (
        f"Byte-level BPE of {count(node.get('vocab_size'))} tokens, special ones included, {made}. A token is "
        f"{plain(node.get('bytes_per_token'))} bytes on average, measured on {escape(node.get('measured_on'))}."
    )
    missing = number(node.get("missing_bytes"))
    if missing:
        text += f" {count(missing)} of the 256 bytes have no token and are lost."
    return wrapped(text)


def _model(config: dict[str, Any], stats: Statistics) -> list[str]:
    rows = [["parameters", count((stats["train"] or {}).get("parameters"))]]
    for label, *keys in _SHAPE:
        value = next((config[key] for key in keys if number(config.get(key)) is not None), None)
        rows += [] if value is None else [[label, count(value)]]
    text = (
        "A decoder with grouped-query attention, rotary positions, LayerNorm with biases and a GELU MLP: the "
        "architecture of CodeShell (arXiv 2403.15747)"
    )
    if not _is_ours(config):
        text = f"The architecture is that of the base, {escape(config.get('model_type'))}"
    tied = config.get("tie_word_embeddings", True)
    return [
        *table(("Shape", ""), rows),
        "",
        *wrapped(f"{text}; embedding and head are {'one matrix' if tied else 'two matrices'}."),
    ]


def _training(stats: Statistics, recipe: dict[str, Any]) -> list[str]:
    train, settings = stats["train"] or {}, mapping(recipe.get("train"))
    settings = settings | {"steps": train.get("steps", settings.get("steps"))}
    rows = [[label, _value(settings[key])] for key, label in _TRAIN if settings.get(key) is not None]
    rows.append(["seed", escape(recipe.get("seed", ""))])
    lines = table(("Setting", ""), rows)
    phases = sections.objects(train.get("phases"))
    if phases:
        head = ("Context", "Tokens", "Validation loss, nats per token", "Validation, bits per byte")
        lines += ["", *table(head, [[_value(phase.get(key)) for key in _PHASE] for phase in phases])]
    parts = [
        f"The loss ended at {plain(train.get('final_train_loss'))} nats per token in training",
        f"and at {plain(train.get('final_valid_loss'))} on the validation split "
        f"({plain(train.get('final_valid_bits_per_byte'))} bits per byte);",
        f"{count(train.get('skipped_updates') or 0)} updates were skipped.",
        f"Training took {_flops(train)} FLOP, counted as 6 N + 12 L d T per token.",
    ]
    if train.get("failure"):
        parts.append(f"**The training failed: {escape(train['failure'])}.**")
    return [*lines, "", *wrapped(" ".join(parts))]


_PHASE = ("context", "tokens", "valid_loss", "valid_bits_per_byte")


def _flops(train: dict[str, Any]) -> str:
    each, tokens = number(train.get("flops_per_token")), number(train.get("tokens"))
    return plain(None) if each is None or tokens is None else f"{each * tokens:.3g}"


def _value(value: Any) -> str:
    return plain(value) if number(value) is not None else escape(value) if value is not None else plain(None)


def _evaluation(evaluated: dict[str, Any] | None) -> list[str]:
    if evaluated is None:
        return ["The model was not evaluated."]
    lines = [f"- {line}" if index == 0 else line for claim in evaluated["claims"] for index, line in _claim(claim)]
    for task in evaluated["tasks"]:
        lines += ["", f"### {escape(task['title'])}", "", *wrapped(escape(task["about"], 2000))]
        for shown in task["tables"]:
            # The last column of a page's table may be a bar, which has no head and no text.
            width = len(shown["head"]) - (not shown["head"][-1])
            rows = [[escape(row["name"]), *map(_cell, row["cells"])][:width] for row in shown["rows"]]
            caption = [f"{escape(shown['caption'])}:", ""] if shown["caption"] else []
            lines += ["", *caption, *table([escape(text) for text in shown["head"][:width]], rows)]
    return lines


def _cell(text: str) -> str:
    """A cell of the evaluation's tables; an interval, which is ours, keeps its brackets as they are."""
    return text if re.fullmatch(rf"\[[{evaluation.MINUS}\d.]+, [{evaluation.MINUS}\d.]+\]( %)?", text) else escape(text)


def _claim(claim: str) -> Iterator[tuple[int, str]]:
    for index, line in enumerate(wrapped(escape(claim, 2000), "  ")):
        yield index, line.strip() if index == 0 else line


def _limits(stats: Statistics, recipe: dict[str, Any], licence: str) -> list[str]:
    """What follows from the run's numbers, and what holds for every such model."""
    train = stats["train"] or {}
    limits = []
    parameters, tokens = number(train.get("parameters")), number(train.get("tokens"))
    if parameters and tokens and not _base(recipe):
        each = tokens / parameters
        few = f", where about {TOKENS_PER_PARAMETER} are the rule" if each < TOKENS_PER_PARAMETER else ""
        limits.append(f"It has seen {plain(float(f'{each:.2g}'))} tokens per parameter{few}.")
        if parameters < 1e8:
            limits.append(
                "It is far smaller than the models that people use for completion: what it writes often has the look "
                "of code and not the sense. It is for trying out the pipeline, and not for work."
            )
    languages = list(_languages(stats))
    if languages:
        whole = sum(entry["bytes"] for _, entry in languages) or 1.0
        name, entry = languages[0]
        limits.append(
            f"{share(entry['bytes'], whole, 0)} of its text is {escape(name)}; of a language that the table above does "
            "not have it knows nothing but what languages have in common."
        )
    exact = mapping(mapping(mapping((stats["evaluate"] or {}).get("infill")).get("groups")).get("all"))
    correct = mapping(exact.get("exact_match"))
    value, of = number(correct.get("share")), number(correct.get("n"))
    if value is not None and of:
        limits.append(
            f"It fills in {share(value, 1)} of {count(of)} held-out lines exactly: read all that it proposes."
        )
    context = max((number(phase.get("context")) or 0 for phase in sections.objects(train.get("phases"))), default=0)
    if context:
        limits.append(
            f"It was trained on at most {count(context)} tokens of context; what lies further back it has not learnt "
            "to use."
        )
    scorers = mapping(recipe.get("score")).get("scorers")
    if not (isinstance(scorers, list) and "secrets" in scorers):
        limits.append(
            "The data was not searched for keys, passwords or names of people; it may repeat what it has read."
        )
    limits += [
        *([] if mapping(recipe.get("finetune")).get("instructions") else ["It was not tuned to follow instructions."]),
        "Nothing was done to make its answers safe. Run code that it writes only after reading it, or in a sandbox.",
        "It may repeat training text word for word, with the licence of that text.",
        "Figures are of held-out files of the same sources; on other code they will be worse.",
    ]
    if not licence:
        limits.append("No licence was chosen for the weights.")
    return [line for limit in limits for line in wrapped(limit, "- ")]


def _made(run: Path) -> list[str]:
    facts = read.read_dict(run / "run.json") or {}
    commit = facts.get("commit")
    text = f"`codeshell card` wrote it from the files of the run, with codeshell {codeshell.__version__}"
    if commit:
        text += f" (the run was made at commit {escape(commit)})"
    return wrapped(text + ". `report.html` of the run shows the same numbers with examples.")
