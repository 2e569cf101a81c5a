"""`codeshell ablate` end to end on a small corpus: equal tokens, resuming, further arms, other settings, bad input."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.forked_runs import Runs

from codeshell.documents.shards import read_table
from codeshell.documents.token_shards import TokenCorpus

pytestmark = pytest.mark.timeout(300)

RECIPE = """
name = "small"
seed = 7
[collect]
max_file_bytes = 9_000
[rules]
language_floor = 0
languages = ["python"]
[split]
test = 0.15
[tokenizer]
base_vocab_size = 300
[model]
n_layer = 1
n_embd = 16
n_head = 2
num_query_groups = 1
n_positions = 64
[train]
steps = 8
batch_tokens = 256
phases = [{ share = 1.0, context = 64 }]
warmup_steps = 2
threads = 1
[evaluate]
tasks = ["bits_per_byte", "infill", "simple"]
max_bytes = 6_000
infill_lines = 4
problems = 2
max_new_tokens = 4
[ablate]
seeds = 2
points = 2
tokens = 6_000
[ablate.arms.random]
[ablate.arms.short]
weights = { mean_line_length = -1.0 }
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mixed` is what is selected from, `good` a further held-out set: one of its files is also in `mixed`."""
    root = tmp_path_factory.mktemp("corpus")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("email", "html", "importlib", "json", "multiprocessing", "wsgiref"):
        shutil.copytree(stdlib / name, root / "mixed" / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (root / "good" / "one").mkdir(parents=True)
    for name in ("circle", "matrix", "parser", "ledger"):
        lines = [f"def {name}_{n}({name}, other):\n    return {name}.part_{n} + other * {n}\n" for n in range(20)]
        (root / "good" / "one" / f"{name}.py").write_text("\n".join(lines))
    shutil.copy(root / "mixed" / "json" / "tool.py", root / "good" / "one" / "copied.py")
    (root / "recipe.toml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with Runs(os.environ | {"OMP_NUM_THREADS": "1"}, tmp_path_factory.mktemp("forked")) as runs:
        yield runs


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    words = ["ablate", str(corpus / "recipe.toml"), "-o", str(output), "--input", str(corpus / "mixed")]
    return [*words, "--workers", "1", "--set", f'ablate.held_out={{good=["{corpus / "good"}"]}}', *more]


@pytest.fixture(scope="module")
def finished(corpus: Path, forked: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "ablation"
    status, error = forked.run(arguments(corpus, output))
    assert status == 0, error
    return output


def summary(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "ablation.json").read_text())
    return found


def results(output: Path) -> dict[str, str]:
    return {str(path.relative_to(output)): path.read_text() for path in sorted(output.glob("arms/*/*/result.json"))}


def test_every_arm_has_the_same_tokens_and_others_of_them(finished: Path) -> None:
    found = summary(finished)
    assert found["trainings"] == {"done": 4, "planned": 4}
    pool = set(ids(finished / "shared" / "tokens"))
    chosen = {}
    for arm in ("random", "short"):
        for seed in (8, 9):
            home = finished / "arms" / arm / f"seed-{seed}"
            mine = TokenCorpus([home / "tokens" / "train-00000.tokens"])
            assert 4_500 < mine.n_tokens <= 6_000
            chosen[arm, seed] = set(ids(home / "tokens"))
            assert chosen[arm, seed] <= pool
            stats = json.loads((home / "train" / "stats.json").read_text())
            assert (stats["tokens"], stats["failure"]) == (8 * 256, None)
    # A ranked arm is the same for every seed, a random one is not.
    assert chosen["short", 8] == chosen["short", 9] != chosen["random", 8]
    assert chosen["random", 8] != chosen["random", 9]


def ids(tokens: Path) -> list[str]:
    shards = TokenCorpus(sorted(tokens.glob("train-*.tokens")))
    return [shards.document_id(number) for number in range(len(shards))]


def test_ranks_decide_what_an_arm_has(finished: Path) -> None:
    """The mean length of the lines of the arm `short` is below that of the corpus."""
    shared = finished / "shared"
    lengths: dict[str, float] = {}
    for path in sorted((shared / "collect").glob("scores-*.parquet")):
        table = read_table(path, ["id", "mean_line_length"])
        lengths |= dict(zip(table["id"].to_pylist(), table["mean_line_length"].to_pylist(), strict=True))
    pool = [lengths[name] for name in ids(shared / "tokens")]
    short = [lengths[name] for name in ids(finished / "arms" / "short" / "seed-8" / "tokens")]
    assert max(short) <= sorted(pool)[len(pool) // 2]


def test_nothing_held_out_is_trained_on(finished: Path) -> None:
    held = read_table(finished / "held-out" / "good" / "test-00000.parquet", ["id", "path"])
    assert "copied.py" not in " ".join(held["path"].to_pylist()) and held.num_rows == 4
    assert summary(finished)["held_out"]["good"]["left_out"] == {"near_duplicate_of_the_corpus": 1}
    unfiltered = set(read_table(finished / "shared" / "curated" / "test-00000.parquet", ["id"])["id"].to_pylist())
    assert unfiltered and not (unfiltered | set(held["id"].to_pylist())) & set(ids(finished / "shared" / "tokens"))


def test_all_metrics_of_all_points_are_there(finished: Path) -> None:
    found = summary(finished)
    sets = ("good", "unfiltered")
    expected = {f"{name}/{metric}" for name in sets for metric in ("bits_per_byte", "infill", "infill_first_line")}
    # The programs run only where the machine has isolation; then it is said that they did not.
    assert expected <= set(found["metrics"]) <= expected | {"own/simple"}
    assert ("own/simple" in found["metrics"]) != any(line.startswith("simple") for line in found["not_run"])
    for key in expected:
        for arm in ("random", "short"):
            assert [point["tokens"] for point in found["curves"][key][arm]] == [4 * 256, 8 * 256]
            assert all(set(point["values"]) == {"8", "9"} for point in found["curves"][key][arm])
        assert set(found["differences"][key]) == {"short"}
    bits = found["curves"]["good/bits_per_byte"]["random"]
    assert 0 < bits[1]["mean"] < bits[0]["mean"] < 9


def test_the_seed_decides_all_but_the_questions(finished: Path) -> None:
    """Both arms begin with the same weights for a seed; the held-out bytes are the same for all."""
    found = [json.loads(text) for text in results(finished).values()]
    bytes_of = {json.dumps(point["files"]["good"]["bytes"]) for one in found for point in one["points"]}
    assert len(bytes_of) == 1
    by_place = {(one["arm"], one["seed"]): one for one in found}
    assert by_place["short", 8]["points"][0]["values"] != by_place["short", 9]["points"][0]["values"]


def test_nothing_is_done_again_and_a_new_arm_is_added(corpus: Path, forked: Runs, finished: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".safetensors", ".tokens")
    }
    status, error = forked.run(arguments(corpus, finished))
    assert status == 0 and "training 1 of" not in error
    more = ["--set", "ablate.arms={random={}, short={weights={mean_line_length=-1.0}}, long={weights={lines=1.0}}}"]
    status, error = forked.run(arguments(corpus, finished, *more, "--set", "ablate.seeds=1"))
    assert status == 0, error
    assert [line for line in error.splitlines() if line.startswith("ablate: training")] == [
        "ablate: training 3 of 3: long, seed 8"
    ]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert summary(finished)["trainings"] == {"done": 3, "planned": 3}


def test_a_killed_ablation_gives_the_same_results(corpus: Path, forked: Runs, finished: Path, tmp_path: Path) -> None:
    """Killed at a checkpoint, at a task of an evaluation and at a result, it ends as the one left alone."""
    output = tmp_path / "ablation"
    # The shared stages have a test of their own (tests/test_run.py), and the first seed is done.
    for name in ("shared", "held-out"):
        shutil.copytree(finished / name, output / name)
    for arm in ("random", "short"):
        shutil.copytree(finished / "arms" / arm / "seed-8", output / "arms" / arm / "seed-8", symlinks=True)
    for place, number in (("random/seed-9/train", 2), ("random/seed-9/points", 3), ("short/seed-9", 12)):
        status, _ = forked.run(arguments(corpus, output), kill=(output / "arms" / place, number))
        assert status == -9
        assert results(output).keys() < results(finished).keys()
    status, error = forked.run(arguments(corpus, output))
    assert status == 0, error
    assert results(output) == {name: text for name, text in results(finished).items() if "long" not in name}
    assert summary(output)["trainings"] == {"done": 4, "planned": 4}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--set", "train.lr=0.5"], "made with other settings (train.lr was 0.0003, is 0.5); delete"),
        (["--set", "ablate.tokens=2000"], "made with other settings (ablate.tokens was 6000, is 2000)"),
        (["--set", "ablate.arms.short.weights={lines=1.0}"], "made with other settings (select.weights was"),
        (["--set", "tokenizer.base_vocab_size=400"], "base_vocab_size was 300, is 400; its arms were made of another"),
        (["--set", "seed=8"], "seed was 7, is 8; its arms were made of another corpus"),
        (["--set", "ablate.points=3"], "train.steps 8 is not a multiple of ablate.points 3"),
        (["--workers", "-1"], "--workers -1"),
        (["--input", ""], 'codeshell: error: --input "": empty'),
    ],
)
def test_bad_input_is_one_line_and_leaves_all_as_it_was(
    corpus: Path, forked: Runs, finished: Path, more: list[str], complaint: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "arms").rglob("*") if path.is_file()}
    status, error = forked.run(arguments(corpus, finished, *more))
    assert status == 2
    last = error.splitlines()[-1]
    assert last.startswith("codeshell: error: ") and complaint in last
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "arms").rglob("*") if path.is_file()}


def test_too_large_a_budget_and_an_empty_held_out_set_are_named(
    corpus: Path, forked: Runs, finished: Path, tmp_path: Path
) -> None:
    for name in ("shared", "held-out"):
        shutil.copytree(finished / name, tmp_path / "ablation" / name)
    status, error = forked.run(arguments(corpus, tmp_path / "ablation", "--set", "ablate.tokens=90000000"))
    assert status == 2 and "each arm takes 90,000,000; add inputs" in error.splitlines()[-1]
    (corpus / "same" / "one").mkdir(parents=True, exist_ok=True)
    shutil.copy(corpus / "mixed" / "json" / "tool.py", corpus / "same" / "one")
    same = f'ablate.held_out={{same=["{corpus / "same"}"]}}'
    status, error = forked.run(arguments(corpus, tmp_path / "ablation", "--set", same))
    assert status == 2 and "ablate.held_out.same: of 1 documents, each resembles one" in error.splitlines()[-1]
