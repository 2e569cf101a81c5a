"""The report's two trainings: their numbers at full size, and all that they do at reduced size on two ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.known_peak import PEAK
from helpers.ranks import Ranks
from helpers.tiny_run import MemoryCorpus, texts, write_run
from safetensors.torch import load_file

from codeshell.model import CodeShellForCausalLM
from codeshell.recipe import load
from codeshell.tokenizer import Tokenizer
from codeshell.train.flops import flops_per_token
from codeshell.train.rows import Lanes, lane_count
from codeshell.train.schedule import learning_rate, stretches

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = ("codeshell-7b", "codeshell-small")

MODEL = ("n_layer=2", "n_embd=64", "n_head=4", "num_query_groups=2", "n_inner=256", "n_positions=256")
TRAIN = ("steps=10", "batch_tokens=1024", "micro_batch_tokens=256", "warmup_steps=2", "lr=1e-2", "valid_every=5")
FILES = ("checkpoint_every=4", "tensorboard=true", "threads=1")
SMALLER = [
    *(f"model.{setting}" for setting in MODEL),
    *(f"train.{setting}" for setting in (*TRAIN, *FILES)),
]
"""Two blocks and 10 steps; contexts follow below, a 32nd of the recipes'."""

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo: several ranks are NOT tested"
)


def overrides(name: str) -> list[str]:
    """The settings of a reduced run: the recipe's phases with shorter contexts, the rest as above."""
    phases = [f"{{share={phase.share}, context={phase.context // 32}}}" for phase in load(path(name)).train.phases]
    return [*SMALLER, f"train.phases=[{', '.join(phases)}]"]


def path(name: str) -> Path:
    return RECIPES / f"{name}.toml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """`{recipe: (directory, what the two ranks printed)}`."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}
    with Ranks(folder) as ranks:
        for name in NAMES:
            directory = tmp_path_factory.mktemp(name) / "run"
            write_run(directory, tokenizer, texts(200), texts(12, "v"))
            settings = [part for setting in overrides(name) for part in ("--set", setting)]
            ended = ranks.run(
                2, ["train", str(path(name)), "-o", str(directory), *settings], before="helpers.known_peak:give"
            )
            assert [rank.code for rank in ended] == [0, 0], ended[0].error
            found[name] = directory, [rank.error for rank in ended]
    return found


def lines_of(directory: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (directory / "train" / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.parametrize(("name", "batch"), [("codeshell-7b", 4_194_304), ("codeshell-small", 1_048_576)])
def test_the_batch_is_512_lanes_that_many_worlds_share(name: str, batch: int) -> None:
    train = load(path(name)).train
    assert train.batch_tokens == batch
    lanes = lane_count(train.batch_tokens, [phase.context for phase in train.phases], 10**6)
    assert lanes == 512
    for world in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        assert lanes % world == 0
        # Each rank's part is whole sequences of the longest context.
        assert train.batch_tokens // world % max(phase.context for phase in train.phases) == 0


def test_the_schedules_are_the_reports() -> None:
    large, small = load(path("codeshell-7b")).train, load(path("codeshell-small")).train
    assert [(part.context, part.first, part.last) for part in stretches(large)] == [
        (2048, 1, 114_300),
        (8192, 114_301, 127_000),
    ]
    warm = [learning_rate(large, step) for step in (1, 250, 1000)]
    assert warm == pytest.approx([3e-7, 7.5e-5, 3e-4])
    for step in (1001, 30_000, 114_300, 114_301, 127_000):
        cosine = (1 + math.cos(math.pi * (step - 1000) / 126_000)) / 2
        assert learning_rate(large, step) == pytest.approx(3e-5 + 2.7e-4 * cosine)
    assert large.steps * large.batch_tokens == pytest.approx(5.33e11, rel=1e-3)
    assert small.steps * small.batch_tokens == pytest.approx(2.0e9, rel=1e-3)


@needs_gloo
@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_logged_with_its_rate_speed_and_mfu(trained, name: str) -> None:
    directory, printed = trained[name]
    recipe = load(path(name), overrides(name))
    steps = lines_of(directory, "train")
    assert [line["step"] for line in steps] == list(range(1, 11))
    model = CodeShellForCausalLM.from_pretrained(directory / "model")
    for line in steps:
        assert line["lr"] == pytest.approx(learning_rate(recipe.train, line["step"]))
        assert line["tokens"] == 1024 * line["step"]
        assert line["tokens_per_second"] > 0 and line["grad_norm"] > 0 and line["skipped"] is None
        # Of two devices, each with the peak.
        work = flops_per_token(model.config, line["context"])
        assert line["mfu"] == pytest.approx(work * line["tokens_per_second"] / (2 * PEAK), abs=1e-4)
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    # Rank 0 alone speaks, and says first what a rank needs.
    assert printed[1] == ""
    assert "memory: at most" in printed[0] and "MFLOP per token" in printed[0]


@needs_gloo
def test_the_long_context_comes_at_the_end(trained) -> None:
    directory, _ = trained["codeshell-7b"]
    assert [line["context"] for line in lines_of(directory, "train")] == [64] * 9 + [256]
    valid = lines_of(directory, "valid")
    assert [(line["step"], line["context"]) for line in valid] == [(5, 64), (9, 64), (10, 256)]
    assert all(0 < line["bits_per_byte"] < 8 for line in valid)
    assert [line["context"] for line in lines_of(trained["codeshell-small"][0], "train")] == [64] * 10


@needs_gloo
def test_checkpoints_of_two_ranks_and_the_whole_model(trained) -> None:
    for directory, _ in trained.values():
        root = directory / "train" / "checkpoints"
        assert {"step-000008", "step-000010"} <= {path.name for path in root.iterdir()}
        # Also right after a validation, which leaves gathered weights behind: shards, with their moments.
        for step in (8, 10):
            held = [load_file(path) for path in sorted((root / f"step-{step:06d}").glob("*.safetensors"))]
            weights, moments = held[:2], held[2:]
            for rank in (0, 1):
                for name, weight in weights[rank].items():
                    assert weight.dtype == torch.float32
                    assert moments[rank][f"exp_avg/{name}"].shape == weight.shape
            assert weights[0]["transformer.wte.weight"].shape == (192, 64)
        for layout in ("model", "model-starcoder2"):
            assert (directory / layout / "model.safetensors").exists()
        assert not list(directory.rglob("*.partial"))
        assert json.loads((directory / "train" / "stats.json").read_text())["tokens"] == 10 * 1024


@needs_gloo
def test_tensorboard_has_the_curves(trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained["codeshell-7b"][0] / "train" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/lr", "train/grad_norm", "train/tokens_per_second", "train/mfu"} <= set(tags)
    assert {"valid/loss", "valid/bits_per_byte"} <= set(tags)
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(line["step"], line["loss"]) for line in lines_of(trained["codeshell-7b"][0], "train")]
    assert losses == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]


def test_half_of_the_documents_are_rearranged(tokenizer: Tokenizer) -> None:
    """Fill-in-the-middle is on in both recipes: the batches of the reduced run hold its sentinels."""
    train = load(path("codeshell-7b"), overrides("codeshell-7b")).train
    assert train.fim_rate == 0.5
    lanes = Lanes(
        MemoryCorpus(tokenizer, texts(200)),
        tokenizer,
        batch_tokens=train.batch_tokens,
        contexts=[phase.context for phase in train.phases],
        seed=1,
        fim_rate=train.fim_rate,
        spm_rate=train.spm_rate,
        isolated=True,
    )
    batch = lanes.take(lanes.start(), train.batch_tokens, 64)
    sentinels = int((batch.inputs == tokenizer.specials["<fim_middle>"]).sum())
    assert 0.3 * len(batch.starts) < sentinels < 0.7 * len(batch.starts)
