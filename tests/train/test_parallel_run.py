"""Trainings on several ranks against one process: the same bits where sums have the same order, else within a bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import byte_tokenizer, texts, tiny_recipe, write_run
from safetensors.torch import load_file

from codeshell.recipe import to_tree
from codeshell.train import run

BASE: dict[str, Any] = {
    "steps": 6,
    "batch_tokens": 512,
    "micro_batch_tokens": 256,  # two in one process, one each on two ranks: the same sums
    "warmup_steps": 2,
    "clip": 0.5,
    "valid_every": 3,
    "checkpoint_every": 0,
    "phases": [{"share": 0.5, "context": 32}, {"share": 0.5, "context": 128}],
}

EXACT: dict[str, dict[str, Any]] = {
    "plain": {},
    "again": {},
    "recompute": {"recompute": "block"},
    "kept": {"reshard": False},
    "unclipped": {"clip": 0.0},
}
"""On two ranks, each with the bits of the one process. `plain` has dropout, FIM, clipping and two phases."""

QUARTERS = {"micro_batch_tokens": 128}

FOUR: dict[str, dict[str, Any]] = {
    "four": QUARTERS,
    "four again": QUARTERS,
    "replicas": QUARTERS | {"replicate": 2},
    "replicas again": QUARTERS | {"replicate": 2},
}
"""On four ranks."""

BF16 = {"precision": "bf16", "clip": 0.0}


def place(home: Path, name: str, tokens: Path) -> Path:
    """A run's directory with the tokens."""
    shutil.copytree(tokens, home / name)
    return home / name


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokens") / "run"
    write_run(home, byte_tokenizer(), texts(120), texts(24, "v"))
    return home


@pytest.fixture(scope="module")
def trained(ranks, tokens, tmp_path_factory) -> dict[str, Path]:
    """Every training of this file, by name: those of one process here, the others in one launch for each number."""
    home = tmp_path_factory.mktemp("trained")
    found: dict[str, Path] = {}
    alone: dict[str, dict[str, Any]] = {"alone": {}, "alone unclipped": {"clip": 0.0}, "alone bf16": BF16}
    for name, settings in (alone | {"alone many": QUARTERS}).items():
        found[name] = place(home, name, tokens)
        run(tiny_recipe(**BASE | settings), found[name], None)  # type: ignore[arg-type]
    for count, cases in (
        (2, EXACT | {"bf16": BF16, "many": QUARTERS}),
        (4, FOUR),
    ):
        jobs = []
        for name, settings in cases.items():
            found[name] = place(home, name, tokens)
            tree = to_tree(tiny_recipe(**BASE | settings))
            jobs.append({"recipe": tree, "directory": str(found[name]), "eager": True})
        ended = ranks.run(count, "helpers.rank_cases:trainings", jobs=jobs)
        assert [one.code for one in ended] == [0] * count, "\n".join(one.error for one in ended)
        # Every rank knows the same at the end.
        assert all(one.value == ended[0].value for one in ended)
    return found


def log_of(directory: Path) -> list[dict[str, Any]]:
    """The log without the times."""
    lines = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line.keys() - {"seconds", "tokens_per_second"}} for line in lines]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model" / "model.safetensors")


@pytest.mark.parametrize("name", EXACT)
def test_two_ranks_have_the_bits_of_one_process(trained, name):
    """Losses, norms, validation, and every weight."""
    expected = trained["alone unclipped" if name == "unclipped" else "alone"]
    assert log_of(trained[name]) == log_of(expected)
    assert len(log_of(expected)) == 6 + 2 and log_of(expected)[0]["grad_norm"] > 0.5  # or clipping is not tested
    for tensor, other in zip(weights(trained[name]).items(), weights(expected).items(), strict=True):
        assert tensor[0] == other[0] and torch.equal(tensor[1], other[1]), tensor[0]


def test_two_ranks_have_the_bits_of_one_process_in_bf16(trained):
    """Autocast over gathered fp32 weights is the arithmetic of one process."""
    assert log_of(trained["bf16"]) == log_of(trained["alone bf16"])
    for tensor, other in zip(weights(trained["bf16"]).items(), weights(trained["alone bf16"]).items(), strict=True):
        assert torch.equal(tensor[1], other[1]), tensor[0]


@pytest.mark.parametrize("name", ["many", "four", "replicas"])
def test_another_order_of_sums_is_within_its_bound(trained, name):
    """Against one process with the same micro-batches, which draw the same dropout. Sums of fp32 in another order
    differ by a few units in the last place a step, and six steps of Adam, whose update is a ratio, enlarge that. A
    micro-batch or targets that are missing would change the loss in its third digit."""
    for line, other in zip(log_of(trained[name]), log_of(trained["alone many"]), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=2e-6)
        assert line.keys() == other.keys() and line["tokens"] == other["tokens"]
    for tensor, other in zip(weights(trained[name]).items(), weights(trained["alone many"]).items(), strict=True):
        torch.testing.assert_close(tensor[1], other[1], rtol=0.0, atol=2e-4, msg=tensor[0])


def test_the_same_number_of_ranks_gives_the_same_bits(trained):
    for name in ("four", "replicas"):
        assert log_of(trained[name]) == log_of(trained[f"{name} again"])
        for tensor, other in zip(
            weights(trained[name]).values(), weights(trained[f"{name} again"]).values(), strict=True
        ):
            assert torch.equal(tensor, other)


SMALL: dict[str, Any] = {"steps": 3, "warmup_steps": 1, "phases": [{"share": 1.0, "context": 64}], "valid_every": 0}


@pytest.fixture(scope="module")
def options(ranks, tokens, tmp_path_factory) -> dict[str, Path]:
    """Short trainings with the options that change the arithmetic, on two ranks."""
    home = tmp_path_factory.mktemp("options")
    found: dict[str, Path] = {}
    jobs = []
    cases: dict[str, dict[str, Any]] = {
        # Where documents may attend to one another, a block has no offsets, whose check breaks the graph.
        "plain": {"document_attention": "all"},
        "compiled": {"document_attention": "all", "compile": True, "recompute": "block"},
        "bf16": BF16,
        "gathered": BF16 | {"gather": "bf16"},
        "masters": BF16 | {"weights": "bf16-masters"},
    }
    for name, settings in cases.items():
        found[name] = place(home, name, tokens)
        tree = to_tree(tiny_recipe(dropout=0.0, **BASE | SMALL | settings))
        tree["model"] |= {"n_layer": 1}
        jobs.append({"recipe": tree, "directory": str(found[name]), "eager": True})
    ended = ranks.run(2, "helpers.rank_cases:trainings", jobs=jobs)
    assert [one.code for one in ended] == [0, 0], "\n".join(one.error for one in ended)
    return found


def test_compiled_blocks_train_alike(options):
    """torch.compile without its generated code, and recomputed: the arithmetic of the plain run."""
    assert log_of(options["compiled"]) == log_of(options["plain"])
    plain = weights(options["plain"])
    assert all(torch.equal(tensor, plain[name]) for name, tensor in weights(options["compiled"]).items())


@pytest.mark.parametrize(("name", "bound"), [("gathered", 1e-2), ("masters", 1e-2)])
def test_weights_in_bf16_are_another_arithmetic_within_its_bound(options, name, bound):
    """A weight rounded to bf16 is off by 2^-9 of itself; the loss, a mean over hundreds of targets, by less."""
    losses = [[line["loss"] for line in log_of(options[which])] for which in (name, "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=bound) and losses[0] != losses[1]
