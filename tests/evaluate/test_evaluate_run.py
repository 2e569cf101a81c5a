"""The stage on a tiny run: deterministic, resumable, honest about what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from helpers.evaluation_fakes import document
from helpers.evaluation_run import HELD_OUT, RECIPE, make_run

from codeshell import evaluate
from codeshell.engine import LocalEngine
from codeshell.engine.files import write_json
from codeshell.errors import UserError
from codeshell.evaluate.models import load_model
from codeshell.evaluate.scoring import losses
from codeshell.evaluate.subject import phase_ends, untrained
from codeshell.evaluate.tasks.functions import Functions
from codeshell.evaluate.tasks.infill import Infill
from codeshell.model.precision import autocast
from codeshell.recipe import Phase, Train
from codeshell.report.run_page import render
from codeshell.train.schedule import stretches


def run(directory: Path, recipe: Any = RECIPE, workers: int = 1) -> dict[str, Any]:
    return evaluate.run(recipe, directory, LocalEngine(workers))


def output(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "evaluate").iterdir()}


def test_every_part_runs_and_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    stats = run(first)
    assert json.dumps(stats, sort_keys=True) == json.dumps(run(second, workers=2), sort_keys=True)
    assert output(first) == output(second)
    assert stats["not_run"] == {}
    assert stats["held_out"]["documents"] == 15

    bits = stats["bits_per_byte"]
    assert 0 < bits["bytes"] <= 3000 and bits["tokens"] == bits["bytes"] and bits["not_roundtrip"] == 0
    assert set(bits["systems"]) == {"model", "byte_model", "xz", "xz_per_file"}
    assert bits["byte_model_trained_on_bytes"] > 0
    # A random model is no better than uniform; the byte model has learnt something.
    assert bits["systems"]["model"]["bits_per_byte"] > 8 > bits["systems"]["byte_model"]["bits_per_byte"]
    assert bits["differences"]["byte_model"]["significant"]

    assert stats["infill"]["tasks"] == 12 and stats["infill"]["groups"]["all"]["exact_match"]["n"] == 12
    assert stats["functions"]["headers"] == 6
    assert set(stats["functions"]["systems"]) == {"model", "untrained", "byte_model"}
    pair = stats["positions"]["pairs"][0]
    assert (pair["step"], pair["context_before"], pair["context_after"]) == (8, 32, 96) and "buckets" not in pair
    assert stats["positions"]["sequences"] == sum(len(item.data) > 96 for item in HELD_OUT) == 9  # of 12 asked for
    assert len(stats["claims"]) >= 8 and all(isinstance(claim, str) for claim in stats["claims"])

    curves = json.loads((first / "evaluate" / "positions.json").read_text())
    assert curves["pairs"][0]["buckets"][-1]["end"] == 96
    samples = json.loads((first / "evaluate" / "samples.json").read_text())
    assert len(samples["infill"]) == 12 and len(samples["functions"]) == 6
    assert samples["functions"][0]["header"].startswith("def held")


def test_a_killed_run_resumes(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(make_run(run_directory.parent / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Functions, "measure", lambda self, subject: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(run_directory)
    assert (run_directory / "evaluate" / "part-infill.json").exists()
    monkeypatch.setattr(Infill, "measure", lambda self, subject: pytest.fail("done before"))
    assert run(run_directory) == whole
    assert output(run_directory) == output(run_directory.parent / "whole")


def test_no_held_out_files_is_said_and_is_no_zero(tmp_path: Path) -> None:
    directory = make_run(tmp_path, held_out=[])
    stats = run(directory)
    assert set(stats["not_run"]) == {"bits_per_byte", "infill", "functions", "positions"}
    assert all("no held-out files" in reason for reason in stats["not_run"].values())
    assert all(stats[part] is None for part in stats["not_run"])
    assert len(stats["claims"]) == 4 and all(claim.startswith("Not run: ") for claim in stats["claims"])
    assert json.loads((directory / "evaluate" / "positions.json").read_text()) is None


def test_parts_without_material_are_left_out(tmp_path: Path) -> None:
    directory = make_run(tmp_path, held_out=[document("a few words\n", language="Text")])
    stats = run(directory)
    assert stats["bits_per_byte"]["files"] == 1
    assert stats["bits_per_byte"]["systems"]["model"]["interval"] is None
    assert set(stats["not_run"]) == {"infill", "functions", "positions"}
    assert "more than 96 tokens" in stats["not_run"]["positions"]


def test_sample_sizes_of_zero_and_one_phase(run_directory: Path) -> None:
    changed = msgspec.structs.replace(
        RECIPE,
        evaluate=msgspec.structs.replace(RECIPE.evaluate, infill_lines=0, functions=0),
        train=msgspec.structs.replace(RECIPE.train, phases=(Phase(share=1.0, context=96),)),
    )
    reasons = run(run_directory, changed)["not_run"]
    assert reasons["infill"] == "evaluate.infill_lines is 0" and reasons["functions"] == "evaluate.functions is 0"
    assert "no phase has a shorter context" in reasons["positions"]


def test_without_training_documents_the_baselines_are_absent(run_directory: Path) -> None:
    (run_directory / "curated" / "train-00000.parquet").unlink()
    stats = run(run_directory)
    assert "byte_model" not in stats["bits_per_byte"]["systems"]
    assert stats["bits_per_byte"]["byte_model_trained_on_bytes"] is None
    assert stats["infill"]["groups"]["all"]["majority_line"] is None
    assert set(stats["functions"]["systems"]) == {"model", "untrained"}


def test_a_pruned_checkpoint_is_a_reason(run_directory: Path) -> None:
    (run_directory / "train" / "checkpoints" / "step-000008" / "model.safetensors").unlink()
    assert "keep_phase_ends" in run(run_directory)["not_run"]["positions"]


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model: not there; run the stages before"):
        run(tmp_path)


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.3, 0.3, 0.4), (0.999, 0.001), (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("steps", [1, 7, 10, 127_000])
def test_phase_ends_are_the_trainers(shares: tuple[float, ...], steps: int) -> None:
    contexts = (256, 512, 1024)[-len(shares) :]
    phases = tuple(Phase(share=share, context=context) for share, context in zip(shares, contexts, strict=True))
    train = Train(steps=steps, phases=phases)
    expected = [(item.last, item.context) for item in stretches(train)[:-1] if item.last >= item.first]
    ends = phase_ends(train, Path("run"))
    assert [(end.step, end.context) for end in ends] == expected
    assert all(end.checkpoint.name == f"step-{end.step:06d}" for end in ends)


def test_the_same_model_shows_no_change_by_position(run_directory: Path) -> None:
    checkpoint = run_directory / "train" / "checkpoints" / "step-000008"
    (checkpoint / "model.safetensors").write_bytes((run_directory / "model" / "model.safetensors").read_bytes())
    pair = run(run_directory)["positions"]["pairs"][0]
    for where in ("within", "beyond"):
        assert pair[where]["difference"] == {"mean": 0.0, "se": 0.0} and not pair[where]["significant"]


def test_losses_by_position_are_the_models(run_directory: Path) -> None:
    model = load_model(run_directory / "model")
    tokens = np.frombuffer(HELD_OUT[2].data, dtype=np.uint8)[:65].astype(np.int64)
    measured = losses(model, np.stack([tokens, tokens[::-1]]))
    # On a processor with AMX the evaluation multiplies in bf16, and a row's last bits depend on the batch.
    with torch.inference_mode(), autocast("auto"):
        logits = model(torch.from_numpy(tokens[None, :-1])).logits[0].double()
    expected = -torch.log_softmax(logits, -1)[torch.arange(64), torch.from_numpy(tokens[1:])]
    assert measured.shape == (2, 64) and measured[0] == pytest.approx(expected.numpy(), rel=1e-5)


def test_the_untrained_twin_is_a_function_of_the_seed(run_directory: Path) -> None:
    model = load_model(run_directory / "model")
    before = torch.random.get_rng_state()
    twin, again, other = untrained(model, 1), untrained(model, 1), untrained(model, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in twin.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(twin.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(twin.lm_head.weight, model.lm_head.weight)


def test_importing_the_package_does_not_import_torch() -> None:
    heavy = "{'torch', 'pyarrow', 'numpy'}"
    code = f"import sys, codeshell.evaluate, codeshell.cli.eval; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_is_not_finite_fails_the_stage(run_directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = run_directory / "model" / "model.safetensors"
    weights = load_file(file)
    weights["transformer.ln_f.bias"][0] = float("nan")
    save_file(weights, file)
    stats = evaluate.run(RECIPE, run_directory, LocalEngine(1))
    assert "bits_per_byte: the loss of the model is NaN or infinity" in stats["failure"]
    assert stats["bits_per_byte"] is None and stats["infill"] is None and "failure" not in stats["not_run"]
    write_json(run_directory / "evaluate" / "stats.json", stats)
    page = render(run_directory)
    assert "Not run: " in page and "NaN or infinity in" in page
