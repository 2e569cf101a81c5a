"""`codeshell quality train`: a learned quality score from labels, with an honest account of what it is worth."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from codeshell.cli import quality_encoder

if TYPE_CHECKING:
    from codeshell.quality.labels import Labels
    from codeshell.quality.reference import Reference

HELP = "train a learned quality score from labels, and judge it with repositories held out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = (
        "LABELS are Parquet or JSON Lines with a text, a score from 0 to 5 and the repository, and perhaps language,\n"
        "path, correctness, readability, security, value (codeshell quality annotate writes such files).\n"
        "MODEL is written, and beside it MODEL.md (the card) and MODEL.json (all figures).\n"
        "example: codeshell quality train labels.parquet --good ~/good --bad ~/bad -o my.model"
    )
    add("labels", nargs="+", metavar="LABELS", help="Parquet or JSONL files of labels")
    add("-o", "--output", required=True, metavar="MODEL", help="file to write")
    add("--text-column", default="text", metavar="NAME", help="column of the text (default: text)")
    add("--score-column", default="score", metavar="NAME", help="column of the score (default: score)")
    add("--group-column", default="repo", metavar="NAME", help="files of one group are never split (default: repo)")
    add("--folds", type=int, default=6, metavar="N", help="folds by repository (default: 6)")
    add("--repeats", type=int, default=3, metavar="N", help="deal the folds so many times (default: 3)")
    add("--scorers", metavar="NAMES", help="whose columns are read, with commas between (default: the package's)")
    add("--language-models", metavar="DIR", help="folder with LANGUAGE.good.lm and LANGUAGE.bad.lm")
    add("--good", action="append", default=[], metavar="INPUT", help="good code of other repositories; may be repeated")
    add("--bad", action="append", default=[], metavar="INPUT", help="bad code of other repositories; may be repeated")
    add("--reference-files", type=int, default=300, metavar="N", help="of these, per language and side (default: 300)")
    add("--trees", type=int, metavar="N", help="trees of an ensemble (default: 250)")
    add("--leaves", type=int, metavar="N", help="leaves of a tree (default: 15)")
    add("--bags", type=int, metavar="N", help="ensembles that are averaged (default: 2)")
    add("--head-share", type=float, metavar="X", help="weight of the n-grams, the trees having 1 (default: 0.5)")
    add("--seed", type=int, default=0, metavar="N", help="another seed is another chance (default: 0)")
    add("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")
    add("--name", metavar="TEXT", help="title of the card")
    add("--about", metavar="TEXT", help="where the labels come from, for the card")
    quality_encoder.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    from codeshell.engine.files import is_utf8, user_path, write_json, write_text
    from codeshell.errors import UserError, reasons, say
    from codeshell.quality import fit
    from codeshell.quality.card import card
    from codeshell.quality.evaluate import evaluate
    from codeshell.quality.folds import folds_by_group
    from codeshell.quality.labels import read_labels

    settings = _settings(args)
    encoder = quality_encoder.settings(args)
    if not args.output or "://" in args.output or not is_utf8(args.output):
        raise UserError(f"-o {args.output!r}: name a file of this machine to write")
    output = user_path(args.output)
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"-o {output}: name a file in a folder that is there")
    columns = {name: getattr(args, name) for name in ("text_column", "score_column", "group_column")}
    labels = read_labels(args.labels, **columns)
    say(f"{len(labels):,} labels of {len(set(labels.groups)):,} repositories")
    if labels.left_out:
        say(f"warning: labels that cannot be used: {reasons(labels.left_out)}")
    # Too few repositories for the folds is said before the work.
    folds_by_group(labels.groups, args.folds)
    reference = _reference(args, labels)
    names, scorers, data = _prepared(args, labels, reference, settings)
    honest, figures = evaluate(labels, data, settings, args.folds, args.repeats, say)
    say("the model of all labels")
    about: dict[str, Any] = {
        "name": args.name or f"Quality model {output.name}",
        "data": args.about or "The labels are those that were given.",
        "scorers": scorers,
        "settings": _shown(settings),
        "reference": reference.counts if reference else None,
        "left_out": labels.left_out,
    }
    model = fit.train(data, labels.names, settings, honest, about)
    model.save(output)
    write_json(output.with_name(f"{output.name}.json"), _json_ready(figures))
    write_text(output.with_name(f"{output.name}.md"), card(model.about, figures))
    found = figures["models"]["model"]
    for name, title in (("spearman", "Spearman"), ("auc_4", "AUC at 4"), ("mae", "mean error")):
        entry, length = found[name], figures["models"]["length only"][name]["mean"]
        print(f"{title}: {entry['mean']:.3f} ({entry['low']:.2f} to {entry['high']:.2f}); length alone {length:.3f}")
    print(f"{len(names)} columns; written to {output}, {output.name}.md and {output.name}.json")
    if encoder is not None:
        # Out of fold, on the scale of the model's own line: the distribution that the scorers will see.
        trees = model.calibrations[0](honest.raw[:, 0])
        for line in quality_encoder.train(args.encoder, encoder, labels, honest.folds, trees, output):
            print(line)
    return 0


def _settings(args: argparse.Namespace) -> Any:
    """`quality.fit.Settings` of the arguments, checked."""
    from dataclasses import replace

    from codeshell.environment import usable_cores
    from codeshell.errors import UserError
    from codeshell.quality.fit import Settings

    for name, low, high in (
        ("folds", 2, 1000),
        ("repeats", 1, 100),
        ("reference_files", 1, 100_000),
        ("trees", 1, 10_000),
        ("leaves", 2, 4096),
        ("bags", 1, 100),
        ("head_share", 0, 100),
        ("threads", 0, 1024),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} {value}: give {low} to {high}")
    if bool(args.good) != bool(args.bad):
        raise UserError("--good and --bad: only one is given; give reference code of both sides, or none")
    settings = Settings(seed=args.seed, threads=args.threads or usable_cores())
    growth = {name: getattr(args, name) for name in ("trees", "leaves") if getattr(args, name) is not None}
    given = {name: getattr(args, name) for name in ("bags", "head_share") if getattr(args, name) is not None}
    return replace(settings, growth=replace(settings.growth, **growth), **given)


def _reference(args: argparse.Namespace, labels: Labels) -> Reference | None:
    from codeshell.errors import say
    from codeshell.quality.reference import read_reference

    if not args.good:
        return None
    found = read_reference(args.good, args.bad, labels.documents["id"].to_pylist(), args.reference_files)
    say(f"{len(found.texts):,} reference files in {len(found.counts)} languages")
    return found


def _prepared(args: argparse.Namespace, labels: Labels, reference: Reference | None, settings: Any) -> Any:
    """Names of the columns, scorers with their versions, and the prepared data."""
    from codeshell.errors import UserError, say
    from codeshell.quality import features, fit
    from codeshell.scorers import SCORERS

    names = [name for name in (args.scorers or "").split(",") if name]
    if not names:
        names = [name for name in features.DEFAULT if name in SCORERS]
    options = {}
    if args.language_models:
        if "perplexity" not in names:
            raise UserError("--language-models: the scorer perplexity is not among the scorers; name it")
        options["perplexity"] = {"good": args.language_models, "bad": args.language_models}
    say(f"columns of the scorers {', '.join(names)}")
    scorers = features.scorers_of(names, options)
    table = features.columns_of(labels.documents, scorers)
    columns = features.numeric(table)
    if not columns:
        raise UserError("the columns of the scorers are the same for all labels; nothing can be learned from them")
    versions = {name: str(scorer.version) for name, scorer in scorers.items()}
    return columns, versions, fit.prepare(labels, table, columns, reference, settings)


def _shown(settings: Any) -> dict[str, Any]:
    """The settings as one flat table; threads change nothing."""
    flat = {**vars(settings.growth), **vars(settings)}
    return {name: value for name, value in flat.items() if name not in ("growth", "threads")}


def _json_ready(value: Any) -> Any:
    """The same without NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _json_ready(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
