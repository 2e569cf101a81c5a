"""What the learned quality score is worth, and how fast it is.

    python benchmarks/quality_learned.py --labels labels.parquet --good GOOD --bad BAD --json results.json

Without --labels only the speeds are measured. The figures are those of `codeshell quality train`: out of fold by
repository, beside simple baselines in the same folds. Speeds are of one thread in CPU time, medians over the rounds:

    trees           documents per second of the shipped model's trees on columns that are ready
    n-grams         MB of text per second of its head (a text counts whole, though only its beginning is read)
    scorer          CPU milliseconds per MB of text of the scorer `quality`, its columns ready
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.boosting.quality_model import SHIPPED, QualityModel
from codeshell.documents import languages
from codeshell.documents.shards import document_id
from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.quality import features, fit
from codeshell.quality.evaluate import evaluate
from codeshell.quality.labels import read_labels
from codeshell.quality.reference import read_reference
from codeshell.scorers import SCORERS
from codeshell.scorers.quality import Quality


def own_sources(most: int) -> pa.Table:
    """Python files of the running interpreter's library: real code that every machine has."""
    import sysconfig

    root = Path(sysconfig.get_paths()["stdlib"])
    rows: list[list[Any]] = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-m]*/*.py")):
        data = path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if text:
            name = path.relative_to(root).as_posix()
            rows.append([document_id(data), "stdlib", name, languages.by_path(name, b""), text, len(data)])
        if len(rows) >= most:
            break
    kinds = (pa.string(), pa.string(), pa.string(), pa.string(), pa.large_string(), pa.int64())
    names = ("id", "repo", "path", "language", "text", "bytes")
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(list(c), kind) for name, kind, c in zip(names, kinds, columns, strict=True)})


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median CPU time of a call."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def speeds(rounds: int, most: int) -> dict[str, float]:
    """The speeds of the shipped model."""
    model = QualityModel.load(SHIPPED)
    table = own_sources(most)
    scorers = features.scorers_of(list(model.about["scorers"]), {})
    columns = features.columns_of(table, scorers)
    for name in model.columns:
        if name not in table.column_names:
            table = table.append_column(columns.schema.field(name), columns.column(name))
    # Enough rows that the columns do not stay in the first caches.
    rows = np.random.default_rng(0).normal(size=(20_000, model.trees.features))
    megabytes = sum(table["bytes"].to_pylist()) / 1e6
    evaluator, head, scorer = model.trees.evaluator(), model.head, Quality()
    result = {"trees_documents_per_second": len(rows) / seconds(lambda: evaluator.predict(rows), rounds)}
    if head is not None:
        result["ngrams_megabytes_per_second"] = megabytes / seconds(lambda: head.predict(table["text"]), rounds)
    result["scorer_milliseconds_per_megabyte"] = 1e3 * seconds(lambda: scorer.score(table), rounds) / megabytes
    result["trees"] = float(len(model.trees.roots))
    return result


def agreement(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a model trained as the shipped one, on these labels."""
    labels = read_labels(args.labels)
    reference = read_reference(args.good, args.bad, labels.documents["id"].to_pylist()) if args.good else None
    settings = fit.Settings()
    options = {}
    if args.language_models:
        options["perplexity"] = {"good": args.language_models, "bad": args.language_models}
    names = [name for name in features.DEFAULT if name in SCORERS]
    table = features.columns_of(labels.documents, features.scorers_of(names, options))
    start = time.process_time()
    data = fit.prepare(labels, table, features.numeric(table), reference, settings)
    _, figures = evaluate(labels, data, settings, args.folds, args.repeats, lambda line: None)
    return {**figures, "cpu_seconds": time.process_time() - start, "reference": reference.counts if reference else {}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", metavar="FILE", help="labels to judge the learned score on")
    parser.add_argument("--good", action="append", default=[], help="good code of other repositories")
    parser.add_argument("--bad", action="append", default=[], help="bad code of other repositories")
    parser.add_argument("--language-models", metavar="DIR")
    parser.add_argument("--folds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, which test the benchmark and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if bool(args.good) != bool(args.bad):
        raise SystemExit("--good and --bad: only one is given; give both or none")
    result: dict[str, Any] = {"benchmark": "quality_learned", "environment": environment(), "smoke": args.smoke}
    result["speeds"] = speeds(1 if args.smoke else args.rounds, 20 if args.smoke else 400)
    for name, value in result["speeds"].items():
        print(f"{name}: {value:,.1f}")
    if args.labels:
        result["agreement"] = agreement(args)
        for name, row in result["agreement"]["models"].items():
            figures = "  ".join(f"{measure} {row[measure]['mean']:.3f}" for measure in ("spearman", "mae", "auc_4"))
            print(f"{name:28s} {figures}")
    result["finished"] = True
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
