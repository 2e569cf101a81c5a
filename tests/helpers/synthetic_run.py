"""A small run directory made by hand after docs/run-directory.md: all that the report reads, and hostile text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import DOCUMENTS, document_id, shard_path, write_rows
from codeshell.engine.files import write_json, write_text
from codeshell.recipe import Phase, Recipe, Train, to_toml

HOSTILE = "</script><script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>&amp;\u202e"
"""Closes scripts, opens scripts, loads an image, and turns the writing direction."""

STEPS = 400
SWITCH = 360


def source(topic: int, edits: int = 0) -> str:
    """A module of a few functions; `edits` lines of it are changed."""
    lines = [f'"""Helpers for topic {topic}."""', "", "import os", "import sys", ""]
    for index in range(12):
        lines += [
            f"def step_{index}(values, limit={topic + index}):",
            f'    """Return the values of step {index} below the limit."""',
            f"    chosen = [value for value in values if value < limit + {index}]",
            "    if not chosen:",
            "        return None",
            f"    return sum(chosen) / len(chosen) + {topic % 7}",
            "",
        ]
    for edit in range(edits):
        at = 7 + (edit * 11) % (len(lines) - 8)
        lines[at] = lines[at].replace("values", "items").replace("chosen", "selected") + f"  # revision {edit}"
    return "\n".join(lines) + "\n"


def document(repo: str, path: str, language: str, text: str) -> dict[str, Any]:
    data = text.encode()
    size = len(data)
    return {"id": document_id(data), "repo": repo, "path": path, "language": language, "text": text, "bytes": size}


def dropped(
    row: dict[str, Any],
    stage: str,
    rule: str,
    *,
    value: float | None = None,
    limit: float | None = None,
    kept: Any = None,
) -> dict[str, Any]:
    named = {key: row[key] for key in ("id", "repo", "path", "language", "bytes")}
    kept = kept or {}
    reason = {"stage": stage, "rule": rule, "value": value, "limit": limit}
    return named | reason | {f"kept_{key}": kept.get(key) for key in ("id", "repo", "path")}


def build(run: Path, *, hostile: str = HOSTILE) -> Path:
    """Fill `run` with the files of a finished run and return it; `hostile` is put wherever foreign text can go."""
    _data(run, hostile)
    _train(run)
    _evaluate(run, hostile)
    write_json(
        run / "timings.json",
        {
            "collect": 9.4,
            "filter": 3.1,
            "neardup": 14.8,
            "split": 2.2,
            "tokenizer": 21.0,
            "tokens": 6.5,
            "train": 331.2,
            "evaluate": 88.9,
        },
    )
    write_json(
        run / "run.json",
        {
            "codeshell": "0.1.0",
            "python": "3.11.2",
            "versions": {"torch": "2.13.0", "numpy": "2.4.1", "pyarrow": "26.0.0"},
            "system": "Linux-6.1-x86_64",
            "processor": "Example CPU @ 2.40 GHz",
            "cores": 2,
            "workers": 2,
            "simd": "avx512",
            "cuda_built": False,
            "gpus": [],
            "command": "codeshell run recipes/demo.toml -o runs/demo",
            "started": "2026-11-23 12:00:00",
        },
    )
    phases = (Phase(share=0.9, context=256), Phase(share=0.1, context=1024))
    recipe = Recipe(name="demo", seed=20240323, train=Train(steps=STEPS, batch_tokens=8192, phases=phases))
    write_text(run / "recipe.toml", to_toml(recipe))
    return run


def _data(run: Path, hostile: str) -> None:
    documents: list[dict[str, Any]] = []
    near: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for topic in range(18):
        kept = document(f"package-{topic}", f"package_{topic}/core/helpers.py", "python", source(topic))
        documents.append(kept)
        for copy in range(max(1, 9 - topic)):
            path = f"package_{topic}/vendor_{copy}/helpers.py"
            twin = document(f"package-{topic + 40}", path, "python", source(topic, 1 + 3 * copy))
            documents.append(twin)
            value = round(0.99 - 0.03 * copy - 0.001 * topic, 6)
            if topic < 15:
                near.append(dropped(twin, "neardup", "near_duplicate", value=value, limit=0.7, kept=kept))
            else:
                held_out.append(dropped(twin, "split", "near_duplicate_of_train", value=value, limit=0.7, kept=kept))
    nasty = document(hostile, f"src/{hostile}.py", hostile, f"print('{hostile}')\nsecond = 1\n" * 9)
    twin = document(hostile, f"src/copy{hostile}.py", hostile, f"print('{hostile}')\nsecond = 2\n" * 9)
    documents += [nasty, twin]
    near.append(dropped(twin, "neardup", "near_duplicate", value=0.705, limit=0.7, kept=nasty))
    documents.append(document("wide", "wide/line.py", "python", "x = '" + "y" * 5000 + "'\n"))
    for index in range(2):
        half = documents[index::2]
        write_rows(shard_path(_made(run / "collect"), "documents", index), DOCUMENTS, half)

    gone = [
        dropped(
            {"id": None, "repo": "assets", "path": f"img/logo-{index}.png", "language": None, "bytes": 9000 + index},
            "collect",
            "binary",
        )
        for index in range(7)
    ]
    gone.append(
        dropped(
            {"id": None, "repo": "big", "path": "data/all.json", "language": None, "bytes": 9_000_000},
            "collect",
            "over_large",
            value=9e6,
            limit=1_048_576.0,
        )
    )
    write_rows(shard_path(run / "collect", "dropped", 0), DROPPED, gone)
    filtered = []
    for index in range(11):
        row = document("site", f"static/app.{index}.min.js", "javascript", f"var a={index};" * 300)
        filtered.append(dropped(row, "filter", "max_line_length", value=2100.0 + index, limit=1000.0))
    for index in range(5):
        row = document("copies", f"copy/{index}/__init__.py", "python", source(1))
        filtered.append(dropped(row, "filter", "exact_duplicate", kept=documents[0]))
    row = document(hostile, f"x/{hostile}", hostile, hostile)
    filtered.append(dropped(row, "filter", "alphanumeric_share", value=0.12345, limit=0.25))
    write_rows(shard_path(_made(run / "filter"), "dropped", 0), DROPPED, filtered)
    write_rows(shard_path(_made(run / "neardup"), "dropped", 0), DROPPED, near[::2])
    write_rows(shard_path(run / "neardup", "dropped", 1), DROPPED, near[1::2])
    write_rows(shard_path(_made(run / "curated"), "dropped", 0), DROPPED, held_out)

    languages = {
        "python": (4471, 52_310_000),
        "c": (812, 14_901_000),
        "javascript": (355, 9_120_000),
        "html": (410, 6_050_000),
        "restructuredtext": (240, 2_400_000),
        "markdown": (310, 1_702_000),
        "cython": (96, 1_310_000),
        "json": (77, 402_000),
        "shell": (41, 102_000),
        hostile: (2, 1_200),
    }
    for index in range(20):
        languages[f"language-{index:02}"] = (3 + index, 4000 + 137 * index)
    by_language = {name: {"documents": files, "bytes": size} for name, (files, size) in languages.items()}
    files, size = (sum(entry[key] for entry in by_language.values()) for key in ("documents", "bytes"))
    whole = {"documents": files, "bytes": size}
    write_json(
        run / "collect" / "stats.json",
        whole
        | {"by_language": by_language, "dropped": {"binary": 1207, "over_large": 14, "empty": 391, "vendored": 0}},
    )
    rules = {
        "language_floor": (520, 700_000),
        "max_line_length": (143, 3_802_000),
        "mean_line_length": (31, 640_100),
        "alphanumeric_share": (12, 90_200),
        "generated": (58, 1_204_000),
        "html_visible_text": (301, 4_400_300),
        "exact_duplicate": (402, 2_210_000),
    }
    before = whole
    before = _stage(run / "filter", before, rules, by_language, 0.85)
    before = _stage(
        run / "neardup",
        before,
        {"near_duplicate": (604, 7_120_000)},
        by_language,
        0.75,
        {
            "candidate_pairs": 5210,
            "verified_pairs": 3977,
            "clusters": 371,
            "largest_cluster": 10,
        },
    )
    leak = {
        "before": {
            "valid": {"documents": 3, "share": 0.031, "max_jaccard": 0.93},
            "test": {"documents": 4, "share": 0.027, "max_jaccard": 0.97},
        },
        "after": {
            "valid": {"documents": 0, "share": 0.0, "max_jaccard": 0.66},
            "test": {"documents": 0, "share": 0.0, "max_jaccard": 0.69},
        },
    }
    splits = {
        "train": {"documents": before["documents"] - 247, "bytes": before["bytes"] - 3_440_000, "repos": 61},
        "valid": {"documents": 97, "bytes": 1_380_000, "repos": 4},
        "test": {"documents": 143, "bytes": 1_990_000, "repos": 5},
    }
    dropped_rules = {"near_duplicate_of_train": (7, 70_000)}
    _stage(run / "curated", before, dropped_rules, by_language, 0.74, {"splits": splits, "leak": leak})
    densities = {
        name: {"bytes_per_token": 2.4 + 0.17 * (index % 7), "characters_per_token": 2.39 + 0.17 * (index % 7)}
        for index, name in enumerate([*languages][:10])
    }
    write_json(
        _made(run / "tokenizer") / "stats.json",
        {
            "vocab_size": 4116,
            "bytes_per_token": 3.1,
            "measured_on": "valid",
            "trained_on_bytes": 20_000_000,
            "by_language": densities,
        },
    )
    tokens = {
        name: {"documents": entry["documents"], "bytes": entry["bytes"], "tokens": int(entry["bytes"] / 3.05)}
        for name, entry in splits.items()
    }
    write_json(_made(run / "tokens") / "stats.json", tokens)


def _stage(
    directory: Path,
    before: dict[str, int],
    rules: dict[str, tuple[int, int]],
    by_language: dict[str, Any],
    share: float,
    more: dict[str, Any] | None = None,
) -> dict[str, int]:
    kept = {
        "documents": before["documents"] - sum(files for files, _ in rules.values()),
        "bytes": before["bytes"] - sum(size for _, size in rules.values()),
    }
    stay = {
        name: {"documents": int(entry["documents"] * share), "bytes": int(entry["bytes"] * share)}
        for name, entry in by_language.items()
        if not name.startswith("language-")
    }
    drops = {rule: {"documents": files, "bytes": size} for rule, (files, size) in rules.items()}
    write_json(
        directory / "stats.json", {"in": before, "kept": kept, "dropped": drops, "by_language": stay} | (more or {})
    )
    return kept


def _train(run: Path) -> None:
    lines = []
    for step in range(1, STEPS + 1):
        wobble = math.sin(step * 12.9898) * 0.11 + math.sin(step * 4.1) * 0.05
        context = 256 if step <= SWITCH else 1024
        loss = 2.05 + 6.2 * math.exp(-step / 60) + wobble - (0.09 if step > SWITCH else 0.0)
        warm = min(step / 40, 1.0)
        rate = 2e-3 * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * max(step - 40, 0) / (STEPS - 40))))
        skipped = step == 211
        lines.append(
            {
                "kind": "train",
                "phase": int(step > SWITCH),
                "step": step,
                "loss": loss + (4.0 if skipped else 0.0),
                "lr": rate,
                "grad_norm": 0.6 + abs(wobble) * 4,
                "tokens": step * 8192,
                "tokens_per_second": 11200 + 900 * math.sin(step * 1.7) - (2300 if step > SWITCH else 0),
                "context": context,
                "skipped": "spike" if skipped else None,
                "seconds": 0.7,
                "mfu": None,
            }
        )
        if step % 50 == 0:
            lines.append({"kind": "valid", "step": step, "loss": loss - wobble + 0.12, "bits_per_byte": loss * 0.47})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # A step that was done again after a kill, and a line that the kill cut short.
    text = json.dumps(lines[3] | {"loss": 99.0}) + "\n" + text + '{"kind": "train", "st'
    write_text(_made(run / "train") / "log.jsonl", text)
    write_json(
        run / "train" / "stats.json",
        {
            "steps": STEPS,
            "tokens": STEPS * 8192,
            "parameters": 4_263_168,
            "final_train_loss": 1.9731,
            "final_valid_loss": 2.0817,
            "final_valid_bits_per_byte": 0.98,
            "skipped_updates": 1,
            "flops_per_token": 29_884_416,
            "flops_convention": "6 N + 12 L d T",
            "phases": [
                {"context": 256, "steps": 360, "tokens": 2_949_120},
                {"context": 1024, "steps": 40, "tokens": 327_680},
            ],
        },
    )


def _share(successes: int, n: int) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(successes, 1) / n * (1 - successes / n) / n)
    return {
        "count": successes,
        "n": n,
        "share": successes / n,
        "interval": [max(0.0, successes / n - half), min(1.0, successes / n + half)],
    }


def _evaluate(run: Path, hostile: str) -> None:
    def against(difference: float, significant: bool) -> dict[str, Any]:
        return {"n": 200, "difference": difference, "p_value": 0.01 if significant else 0.4, "significant": significant}

    def row(model: float) -> dict[str, Any]:
        values = {"model": model, "byte_model": model + 1.21, "xz": model + 0.42, "xz_per_file": model + 1.02}
        return {
            "files": 61,
            "bytes": 498_113,
            "systems": {
                name: {"bits_per_byte": value, "interval": None if name == "xz" else [value - 0.08, value + 0.09]}
                for name, value in values.items()
            },
            "differences": {
                name: {
                    "difference": model - value,
                    "interval": [model - value - 0.1, model - value + 0.1],
                    "significant": name != "xz",
                }
                for name, value in values.items()
                if name != "model"
            },
        }

    def scores(solved: int, n: int) -> dict[str, Any]:
        return {
            "exact_match": _share(solved, n),
            "exact_match_first_line": _share(solved + 2, n),
            "majority_line": _share(3, n),
            "copy_previous_line": _share(2, n),
            "against_majority_line": against(0.05, True),
            "against_copy_previous_line": against(0.02, False),
        }

    pair: dict[str, Any] = {"step": SWITCH, "context_before": 256, "context_after": 1024}

    def change(before: float, after: float) -> dict[str, Any]:
        mean = after - before
        return {
            "before": {"mean": before, "se": 0.03},
            "after": {"mean": after, "se": 0.03},
            "significant": True,
            "difference": {"mean": mean, "se": 0.01},
            "interval": [mean - 0.02, mean + 0.02],
        }

    buckets = []
    for index in range(32):
        start = index * 32
        after = 2.0 + 1.2 * math.exp(-start / 120) + 0.02 * math.sin(index)
        before = after + 0.03 + (0.0 if start < 256 else 0.9 * (1 - math.exp(-(start - 256) / 200)))
        buckets.append({"start": start, "end": start + 32} | change(before, after))
    evaluate = _made(run / "evaluate")
    pair |= {"within": change(2.32, 2.29), "beyond": change(2.71, 2.05)}
    write_json(evaluate / "positions.json", {"sequences": 64, "context": 1024, "pairs": [pair | {"buckets": buckets}]})
    functions = {"model": (61, 88), "untrained": (3, 9), "byte_model": (11, 40)}
    write_json(
        evaluate / "stats.json",
        {
            "held_out": {"split": "test", "documents": 143, "bytes": 1_990_000},
            "not_run": {"completion": "fewer than 10 files are long enough"},
            "bits_per_byte": row(2.07)
            | {
                "window": 1024,
                "stride": 512,
                "start": "<|endoftext|>",
                "end_of_text_bits_per_byte": 0.002,
                "by_language": {"python": row(1.96), "c": row(2.31), hostile: row(3.3)},
            },
            "infill": {
                "tasks": 200,
                "files": 96,
                "protocol": "greedy, one answer",
                "groups": {"all": scores(14, 200), "trivial": scores(9, 41), "non_trivial": scores(5, 159)},
                "by_language": {"python": _share(12, 150), hostile: _share(2, 50)},
            },
            "functions": {
                "headers": 100,
                "files": 40,
                "with_docstring": 71,
                "protocol": "temperature 0.2, top-p 0.95",
                "systems": {
                    name: {
                        "parses": _share(parsed, 100),
                        "finished": finished,
                        "finished_and_parses": parsed - 1,
                        "verdicts": {"parsed": parsed, "syntax_error": 100 - parsed},
                    }
                    for name, (parsed, finished) in functions.items()
                },
                "differences": {"untrained": against(0.58, True), "byte_model": against(0.5, True)},
            },
            "positions": {
                "sequences": 64,
                "context": 1024,
                "pairs": [pair],
            },
            "claims": [
                "The model needs 1.21 bits per byte less than an order-3 byte model on the same 61 files.",
                "After the second phase the loss beyond position 256 is 0.66 nats lower (95 % interval 0.64 to 0.68).",
            ],
            "a_new_number": {"nested": [1, 2, {"deep": 0.125}]},
        },
    )
    before = source(3).splitlines(keepends=True)
    infill = [
        {
            "id": "0" * 32,
            "path": "package_3/core/helpers.py",
            "language": "python",
            "line": 9 + index,
            "before": "".join(before[: 8 + index]),
            "target": before[8 + index].rstrip("\n"),
            "after": "\n" + "".join(before[9 + index :]),
            "exact_match": index % 3 == 0,
            "answer": before[8 + index].rstrip("\n") if index % 3 == 0 else "    return values\n",
            "trivial": False,
        }
        for index in range(6)
    ]
    infill.append(
        infill[0] | {"path": hostile, "answer": hostile + "\ud800\x00", "target": hostile, "language": hostile}
    )
    functions_samples = [
        {
            "id": "1" * 32,
            "path": "package_5/api.py",
            "line": 40 + index,
            "header": 'def mean_of(values):\n    """Return the mean."""',
            "body": "\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)",
            "finished": True,
            "verdict": "parsed" if index else "syntax_error",
            "untrained": "\n  )))sel f",
            "byte_model": "\n    self.return(val",
        }
        for index in range(6)
    ]
    (evaluate / "samples.json").write_text(json.dumps({"infill": infill, "functions": functions_samples}))


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
