"""Speed of scoring text by n-gram models, against the kenlm module; called by `quality_ngram.py`, or alone:

    python benchmarks/quality_ngram_score.py --train FOLDER --text FOLDER [--orders 3 5] [--json FILE]

For each order one model is trained on `--train`. Ours scores `--text` from its bytes: lexer, search and sums. KenLM has
the same model (its ARPA file, loaded into probing tables) and is given the units ready, as words between blanks: what
cuts text into units costs it nothing here. Both run on one thread, in turns; times are CPU time, and the median counts.

Every row has `megabytes_per_second` of source text, `units_per_second`, and all rounds; `agreement` is the largest
relative difference of a document's score.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.ngram import LanguageModel, Settings, score_all, train

ROUNDS = 7
LARGEST_FILE = 300_000
"""Bytes. Generated tables of megabytes are no usual code."""


def read(folder: Path, most: int = 1 << 40) -> list[str]:
    """The texts of a folder's .py files, in the order of their names, up to so many bytes."""
    texts, size = [], 0
    for path in sorted(folder.rglob("*.py")):
        data = path.read_bytes() if path.is_file() else b""
        if 0 < len(data) <= LARGEST_FILE and size + len(data) <= most:
            try:
                texts.append(data.decode())
            except UnicodeDecodeError:
                continue
            size += len(data)
    return texts


def rows(texts: Sequence[str], test: Sequence[str], orders: Sequence[int] = (3, 5)) -> list[dict[str, Any]]:
    """The rows of the module's table. `texts` train, `test` is scored; no document should be in both."""
    found: list[dict[str, Any]] = []
    column = pa.array(list(test), pa.large_string())
    size = sum(len(text.encode()) for text in test)
    for order in orders:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            train(texts, folder / "plain.lm", Settings(order=order), arpa=folder / "model.arpa")
            plain = LanguageModel.load(folder / "plain.lm")
            units = plain.handle.units
            small = Settings(order=order, quantize=True)
            train(texts, folder / "coded.lm", small, units=units)
            coded = LanguageModel.load(folder / "coded.lm")
            steps: dict[str, Callable[[], Any]] = {
                "ours": lambda plain=plain: plain.score(column).log10,
                "ours, quantised": lambda coded=coded: coded.score(column).log10,
                "ours, two models": lambda both=[plain, coded]: score_all(both, column)[0].log10,
            }
            agreement = None
            prepared = _prepared(plain, test)
            peer = _kenlm(folder / "model.arpa")
            if peer is not None:
                steps["kenlm, units ready"] = lambda peer=peer, lines=prepared: [peer.score(line) for line in lines]
                ours, theirs = steps["ours"](), np.array(steps["kenlm, units ready"]())
                agreement = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)))
            times = _in_turns(steps)
            tokens = int(plain.score(column).tokens.sum())
            grams = sum(plain.about["entries"])
            for step, seconds in times.items():
                middle = statistics.median(seconds)
                model = coded if "quantised" in step else plain
                found.append(
                    {
                        "case": f"score, order {order}",
                        "name": step,
                        "megabytes_per_second": round(size / 1e6 / middle, 2),
                        "units_per_second": round(tokens / middle),
                        "rounds_seconds": [round(one, 4) for one in seconds],
                        "megabytes": round(size / 1e6, 2),
                        "units": tokens,
                        "n_grams": grams,
                        "model_bytes": None if "kenlm" in step else model.about["file_bytes"],
                        "bytes_per_n_gram": None if "kenlm" in step else round(model.about["file_bytes"] / grams, 2),
                        "agreement": agreement,
                    }
                )
    return found


def _in_turns(steps: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """CPU seconds of each step in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def _prepared(model: LanguageModel, texts: Sequence[str]) -> list[str]:
    """Each text as the words of its units between blanks."""
    words = model.words()
    lines = []
    for text in texts:
        data = text.encode()
        ids, _ = model.handle.units.encode(data, np.array([0, len(data)], np.int64))
        lines.append(" ".join(words[number] for number in ids.tolist()))
    return lines


def _kenlm(path: Path) -> Any:
    """KenLM's model of an ARPA file; None where the module is not installed, which is said."""
    try:
        import kenlm
    except ImportError:
        print("kenlm is not installed: pip install ufal.kenlm", file=sys.stderr)
        return None
    settings = kenlm.Config()
    settings.show_progress = False
    return kenlm.Model(str(path), settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--megabytes", type=int, default=40, help="of text to train on at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = rows(read(args.train, args.megabytes * 10**6), read(args.text, 12 * 10**6), args.orders)
    for row in found:
        print(
            f"{row['case']:16} {row['name']:20} {row['megabytes_per_second']:7.1f} MB/s "
            f"{row['units_per_second'] / 1e6:6.2f} M units/s  {row['bytes_per_n_gram'] or '':5} "
            f"agreement {row['agreement']}"
        )
    if args.json:
        args.json.write_text(json.dumps({"rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
