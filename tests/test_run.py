"""The main job end to end on a small corpus: results, resuming after SIGKILL in every stage, changed settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.forked_runs import Runs

from codeshell.pipeline import stages_of
from codeshell.recipe import Recipe, flatten, load, to_tree

SECONDS = 280
"""For a command, which takes 5 alone on a machine: others may use it too."""
pytestmark = pytest.mark.timeout(300)

STAGES = stages_of(Recipe())
"""The stages of the recipe below, which names no scorers."""

RECIPE = """
name = "small"
seed = 7
[collect]
shard_bytes = 150_000
[rules]
language_floor = 0
[split]
valid = 0.1
test = 0.15
[tokenizer]
base_vocab_size = 400
[model]
n_layer = 2
n_embd = 32
n_head = 4
num_query_groups = 2
n_positions = 128
[train]
steps = 10
batch_tokens = 512
phases = [{ share = 0.7, context = 64 }, { share = 0.3, context = 128 }]
lr = 1e-3
warmup_steps = 2
valid_every = 5
valid_tokens = 2_000
checkpoint_every = 3
threads = 1
[evaluate]
max_bytes = 4_000
infill_lines = 6
functions = 4
max_new_tokens = 8
position_sequences = 4
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight packages of the standard library, one file twice and one nearly twice."""
    root = tmp_path_factory.mktemp("corpus")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("json", "logging", "html", "urllib", "wsgiref", "concurrent", "dbm", "curses"):
        shutil.copytree(stdlib / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    decoder = (root / "json" / "decoder.py").read_text()
    (root / "wsgiref" / "exact_copy.py").write_text(decoder)
    (root / "wsgiref" / "near_copy.py").write_text(decoder + "\n\nEXTRA = 1\n")
    (root / "html" / "binary.py").write_bytes(b"\0\1\2")
    return root


def command(run: Path, corpus: Path | str, *more: str) -> list[str]:
    recipe = run.parent / "recipe.toml"
    recipe.write_text(RECIPE)
    parts = [sys.executable, "-m", "codeshell", "run", str(recipe), "-o", str(run), "--input", str(corpus)]
    return [*parts, "--workers", "1", *more]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def complete(run: Path, corpus: Path | str, *more: str) -> str:
    result = subprocess.run(
        command(run, corpus, *more), capture_output=True, text=True, env=environment(), timeout=SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    complete(run, corpus)
    return run


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Commands that need not import torch again."""
    with Runs(environment(), tmp_path_factory.mktemp("forked")) as runs:
        yield runs


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {stage.name for stage in STAGES}
    for name in ("report.html", "timings.json", "run.json", "recipe.toml"):
        assert (finished / name).stat().st_size > 0
    for name in ("tokenizer/tokenizer.json", "model/model.safetensors", "model-starcoder2/model.safetensors"):
        assert (finished / name).stat().st_size > 0
    assert metrics["train"]["steps"] == 10
    assert metrics["filter"]["dropped"]["exact_duplicate"]["documents"] >= 1
    assert metrics["neardup"]["dropped"]["near_duplicate"]["documents"] >= 1
    assert metrics["collect"]["dropped"]["binary"] >= 1


def test_every_document_is_accounted_for(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    there = metrics["collect"]["documents"]
    for stage in ("filter", "neardup", "split"):
        stats = metrics[stage]
        assert stats["in"]["documents"] == there
        dropped = sum(entry["documents"] for entry in stats["dropped"].values())
        assert stats["in"]["documents"] == stats["kept"]["documents"] + dropped
        there = stats["kept"]["documents"]
    assert there == sum(entry["documents"] for entry in metrics["tokens"].values() if "documents" in entry)


def test_a_second_run_does_nothing_again(finished: Path, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".parquet", ".tokens")}
    page = (finished / "report.html").stat().st_mtime_ns
    log = complete(finished, corpus)
    assert all(f"{stage.name}: done before" in log for stage in STAGES)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert page == (finished / "report.html").stat().st_mtime_ns


def test_sigkill_in_every_stage_changes_nothing(finished: Path, corpus: Path, tmp_path: Path, forked: Runs) -> None:
    """One run, killed inside each stage at its first and at its third file, gives the metrics of the one left alone."""
    run = tmp_path / "run"
    killed: dict[str, int] = {stage.name: 0 for stage in STAGES}
    for stage in STAGES:
        for number in (1, 3):
            arguments = command(run, corpus, "--until", stage.name)[3:]
            status, told = forked.run(arguments, kill=(run / stage.directories[0], number))
            assert status in (0, -signal.SIGKILL), told
            killed[stage.name] += status == -signal.SIGKILL
    assert all(killed.values()), killed
    status, told = forked.run(command(run, corpus)[3:])
    assert status == 0, told
    assert (run / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    for name in ("tokenizer/tokenizer.json", "model/model.safetensors", "model-starcoder2/model.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_workers_change_nothing(finished: Path, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    complete(run, corpus, "--workers", "2", "--until", "tokens")
    assert not (run / "report.html").exists()
    done = json.loads((run / "metrics.json").read_text())
    whole = json.loads((finished / "metrics.json").read_text())
    assert done == {name: whole[name] for name in done}
    for path in sorted(run.rglob("*.parquet")) + sorted(run.rglob("*.tokens")):
        assert path.read_bytes() == (finished / path.relative_to(run)).read_bytes(), path


def test_changed_settings_redo_what_depends_on_them(finished: Path, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    scores = next(iter((run / "collect").glob("scores-*.parquet"))).stat().st_mtime_ns
    log = complete(run, corpus, "--set", "near_dedup.threshold=0.9", "--until", "split")
    assert "collect: done before" in log
    assert "filter: done before" in log
    assert "near_dedup.threshold was 0.7, is 0.9" in log
    assert next(iter((run / "collect").glob("scores-*.parquet"))).stat().st_mtime_ns == scores
    # The trained model cost hours on a real corpus: it is moved aside, not deleted.
    assert (run / "model.old-1" / "model.safetensors").exists()
    assert not (run / "model").exists()


FOR_THE_MACHINE = (
    *("--set", "train.micro_batch_tokens=256"),
    *("--set", "train.threads=2"),
    *("--set", "train.valid_tokens=1_000"),
    *("--set", "train.log_every=2"),
)
"""Settings that a run resumes with: the machine's, and what is measured and written on the way."""


def as_an_older_version_left_it(run: Path) -> None:
    """Write every `key.json` as the version before the marks did: some of those settings were part of the keys."""
    settings = flatten(to_tree(load(run / "recipe.toml")))
    older = ("train.micro_batch_tokens", "train.threads", "train.valid_tokens")
    upstream = ""
    for stage in STAGES:
        path = run / stage.directories[0] / "key.json"
        recorded = json.loads(path.read_text())["settings"]
        if stage.name == "train":
            recorded |= {key: settings[key] for key in older}
        text = json.dumps([1, recorded, upstream], sort_keys=True)
        upstream = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps({"key": upstream, "settings": recorded}))


@pytest.mark.parametrize("older", [False, True], ids=["this version", "older version"])
def test_a_finished_run_stays_done_with_settings_for_the_machine(
    finished: Path, corpus: Path, tmp_path: Path, older: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    if older:
        as_an_older_version_left_it(run)
    keys = {path: path.read_bytes() for path in run.rglob("key.json")}
    model = (run / "model" / "model.safetensors").read_bytes()
    log = complete(run, f"{corpus}/", *FOR_THE_MACHINE)
    assert all(f"{stage.name}: done before" in log for stage in STAGES)
    assert not list(run.glob("*.old-*"))
    assert (run / "model" / "model.safetensors").read_bytes() == model
    assert {path: path.read_bytes() for path in run.rglob("key.json")} == keys
    assert "micro_batch_tokens = 256" in (run / "report.html").read_text(), "the page shows the settings of today"


@pytest.mark.parametrize("older", [False, True], ids=["this version", "older version"])
@pytest.mark.parametrize("alone", [False, True], ids=["run", "train"])
def test_a_half_finished_run_resumes_with_settings_for_the_machine(
    finished: Path, corpus: Path, tmp_path: Path, forked: Runs, older: bool, alone: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("model", "model-starcoder2", "evaluate", "train/checkpoints/step-000010"):
        shutil.rmtree(run / name)
    (run / "train" / "stats.json").unlink()
    (run / "evaluate").mkdir()
    shutil.copy(finished / "evaluate" / "key.json", run / "evaluate")
    if older:
        as_an_older_version_left_it(run)
    arguments = command(run, corpus, "--until", "train", *FOR_THE_MACHINE)[3:]
    if alone:
        arguments = ["train", str(run.parent / "recipe.toml"), "-o", str(run), *FOR_THE_MACHINE]
    status, told = forked.run(arguments)
    assert status == 0, told
    assert "step-000009, step 9 of 10" in told
    assert not list(run.glob("*.old-*"))
    assert (run / "model" / "model.safetensors").exists()
    # The evaluation is done again, and once is enough for this test.
    until = ("--until", "train") if older or alone else ()
    status, log = forked.run(command(run, corpus, *until)[3:])
    assert status == 0, log
    assert all(f"{stage.name}: done before" in log for stage in STAGES if stage.name != "evaluate")


def test_other_inputs_are_refused_once_they_were_collected(finished: Path, tmp_path: Path) -> None:
    """A forgotten `--input` would delete the run and do it again on the recipe's own inputs."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    process = subprocess.run(
        command(run, tmp_path), capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith(f"codeshell: error: {run}: collect.inputs was ") and "choose another output" in last
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path != run / "run.lock"} | {
        run / "run.lock": before[run / "run.lock"]
    }


def test_an_empty_corpus_is_one_clear_line(corpus: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        command(tmp_path / "run", corpus, "--set", "rules.language_floor=1000000000"),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("codeshell: error: ")
    assert "language_floor" in last
    assert not (tmp_path / "run" / "metrics.json").exists()
