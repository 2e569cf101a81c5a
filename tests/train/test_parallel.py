"""Ranks: what they agree on, how they end, what is refused. How a launcher's variables are read."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import byte_tokenizer, texts, tiny_recipe, write_run
from safetensors.torch import load_file

from codeshell import pipeline
from codeshell.errors import UserError, hush
from codeshell.recipe import Recipe, to_toml
from codeshell.train import launch
from codeshell.train.launch import Place, Timeouts, first_host, place
from codeshell.train.parallel import Group
from codeshell.train.train_run import _check_device

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],login1",
    "SLURM_JOB_ID": "123456",
}


def test_the_place_of_a_process():
    assert place({}) == Place() == (0, 1, 0, "", 0)
    assert place(TORCHRUN) == (3, 8, 1, "a", 29500)
    assert place(SRUN) == (5, 16, 1, "gpu07", 20_000 + 123456 % 40_000)
    # torchrun that srun has started: one launcher for each machine.
    assert place(SRUN | TORCHRUN) == place(TORCHRUN)
    assert place(SRUN | {"MASTER_ADDR": "b", "MASTER_PORT": "1234"})[3:] == ("b", 1234)
    # The script of a batch job, and what some clusters set for everybody.
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "WORLD_SIZE": "8"}) == Place()


@pytest.mark.parametrize(
    ("nodes", "host"), [("a", "a"), ("a,b", "a"), ("n[1-4]", "n1"), ("n[03,5]-ib,x", "n03-ib"), ("", "")]
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": "8"}, "rank 8 of 8"),
        ({"RANK": "x"}, "RANK=x: no number"),
        ({"MASTER_PORT": ""}, "MASTER_ADDR or MASTER_PORT is missing"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR or MASTER_PORT is missing"),
    ],
)
def test_variables_that_do_not_fit(changed, words):
    with pytest.raises(UserError, match=words):
        place(TORCHRUN | changed)


def test_timeouts():
    assert Timeouts.read({}) == (600, 120)
    assert Timeouts.read({"CODESHELL_TIMEOUT": "3"}) == (15, 3)
    for bad in ("0", "soon", "-1", "inf", "nan"):
        with pytest.raises(UserError, match="CODESHELL_TIMEOUT"):
            Timeouts.read({"CODESHELL_TIMEOUT": bad})


def test_the_whole_job_is_one_process(monkeypatch, tmp_path):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "place", lambda: place(TORCHRUN))
    with pytest.raises(UserError, match=r"codeshell run is one process.*--until tokens.*torchrun"):
        pipeline.run(Recipe(), tmp_path)
    hush(False)
    assert not list(tmp_path.iterdir())


def test_alone_nothing_is_sent():
    group = Group.alone(torch.device("cpu"))
    value = object()
    assert group.leader and group.mesh is None and group.cpu is None and group.hosts
    assert group.gather(value) == [value] and group.sum([1.5]) == [1.5]
    assert list(group.share(7)) == list(range(7))
    assert group.agree(lambda: 3) == group.lead(lambda: 3) == 3
    group.same({"a": 1})
    group.barrier()
    group.mark("step 1")
    group.close()
    with pytest.raises(UserError, match=r"train.replicate: 2 replicas on 1 ranks"):
        group.arrange(2)


def test_what_a_group_says(ranks):
    ended = ranks.run(2, "helpers.rank_cases:facts")
    assert [one.code for one in ended] == [0, 0], ended[0].error + ended[1].error
    zero, one = (told.value for told in ended)
    assert (zero["rank"], one["rank"], zero["leader"], one["leader"]) == (0, 1, True, False)
    same = ("world", "sum", "rows", "gather", "lead", "errors")
    assert all(zero[key] == one[key] for key in same)
    assert zero["sum"] == [0.1 + 0.1, 1.0] and zero["rows"] == [[0.0], [1.5]]
    assert zero["gather"] == [{"from": 0, "text": "é"}, {"from": 1, "text": "éé"}]
    assert zero["share"] + one["share"] == list(range(6)) and zero["lead"] == ["done by", 0]
    lanes, replicas, disk, seed = zero["errors"]
    assert lanes.startswith("2 ranks do not divide the 7 lanes") and lanes.endswith("start 1 or 7 of them")
    assert "3 replicas on 2 ranks" in replicas and "divisor of 2" in replicas
    assert disk.startswith("rank 1 on ") and disk.endswith("the disk is full; free some space")
    assert "rank 1 on" in seed and "has seed 1, rank 0 on" in seed


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    home = tmp_path_factory.mktemp("tokens") / "run"
    write_run(home, byte_tokenizer(), texts(60), texts(12, "v"))
    (home / "tokens" / "key.json").write_text('{"key": "abc"}')
    return home


@pytest.fixture
def started(ranks, tokens, tmp_path):
    """`started(count, before="", environment={}, recipe={}, **arguments)`: `codeshell train` on several ranks."""

    def start(count, *, recipe=None, timeout=100, directory=None, **more):
        directory = directory or tmp_path / "run"
        if not directory.exists():
            shutil.copytree(tokens, directory)
        file = tmp_path / "tiny.toml"
        file.write_text(to_toml(tiny_recipe(**{"steps": 8, "checkpoint_every": 2} | (recipe or {}))))
        command = ["train", str(file), "-o", str(directory)]
        return directory, ranks.run(count, command, timeout=timeout, **more)

    return start


def one_line(ended, rank=0):
    """The last line of a rank, which is its error; the other ranks have printed none."""
    for number, one in enumerate(ended):
        assert ("error" in one.error) == (number == rank), one.error
    return ended[rank].error.splitlines()[-1]


ACCIDENT = "helpers.rank_cases:accident"


def test_a_rank_that_is_killed_ends_all(started):
    """SIGKILL in the middle of step 5; rank 0 says which rank and where. The same command resumes."""
    directory, ended = started(2, before=ACCIDENT, kind="kill", rank=1, step=5)
    assert [one.code for one in ended] == [2, -9], ended[0].error
    line = one_line(ended)
    assert "train: rank 1 (process " in line and "ended without a word while rank 0 was in step 5" in line
    assert "run the same command again to resume" in line
    assert "Error" in (directory / "train" / "errors" / "rank-0.txt").read_text()
    _, again = started(2, directory=directory)
    assert [one.code for one in again] == [0, 0], again[0].error
    # Step 4 was being saved while training continued.
    assert "resuming from" in again[0].error and re.search("step [24] of 8", again[0].error)
    assert not (directory / "train" / "errors").exists()


def test_rank_0_that_is_killed_ends_all(started):
    """The store goes with it; another rank speaks."""
    _, ended = started(2, before=ACCIDENT, kind="kill", rank=0, step=3)
    assert [one.code for one in ended] == [-9, 2], ended[1].error
    assert "rank 0" in one_line(ended, 1) and "ended without a word" in one_line(ended, 1)


def test_a_fault_in_one_rank_ends_all(started):
    directory, ended = started(2, before=ACCIDENT, kind="fault", rank=1, step=3)
    assert [one.code for one in ended] == [2, 1], ended[0].error
    line = ended[0].error.splitlines()[-1]
    assert "rank 1 on" in line and "ZeroDivisionError: a fault of ours; see train/errors/rank-1.txt" in line
    assert "in happens" in (directory / "train" / "errors" / "rank-1.txt").read_text()
    assert "ZeroDivisionError" in ended[1].error  # with its traceback


def test_bad_input_in_one_rank_is_one_line_of_rank_0(started, tmp_path):
    shown = tmp_path / "error.json"
    _, ended = started(
        2, before=ACCIDENT, environment={"TORCHELASTIC_ERROR_FILE": str(shown)}, kind="disk", rank=1, step=3
    )
    assert [one.code for one in ended] == [2, 2]
    assert "rank 1 on" in one_line(ended) and "the disk is full" in one_line(ended)
    assert "the disk is full" in json.loads(shown.read_text())["message"]["message"]  # what torchrun prints


def test_a_loss_that_is_not_finite_in_one_rank_is_skipped_by_all(started):
    """Or the ranks' weights would differ from there on, and rank 0 would know of nothing."""
    directory, ended = started(2, before=ACCIDENT, kind="nan", rank=1, step=3)
    assert [one.code for one in ended] == [0, 0], ended[0].error
    lines = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["skipped"] for line in lines if line["kind"] == "train"}
    assert skipped == {step: "non-finite loss" if step == 3 else None for step in range(1, 9)}


def test_a_rank_that_hangs_ends_all(started):
    """Nobody sees it from outside: its own watch does, and every rank ends within the time of a step."""
    _, ended = started(
        2, before=ACCIDENT, environment={"CODESHELL_TIMEOUT": "4"}, timeout=60, kind="hang", rank=1, step=3
    )
    assert [one.code for one in ended] == [2, 2]
    line = ended[0].error.splitlines()[-1]
    # Both wait in step 3; whoever is first says so.
    assert "has been in step 3 for" in line and "CODESHELL_TIMEOUT" in line


def test_sigterm_on_one_rank_stops_all_and_the_resumed_run_has_the_same_bits(started, tmp_path):
    directory, ended = started(2, before=ACCIDENT, kind="term", rank=1, step=3)
    assert [one.code for one in ended] == [143, 143], ended[0].error
    assert "SIGTERM; stopped after step 3 of 8, saved in" in ended[0].error and not ended[1].error
    _, again = started(2, directory=directory)
    assert [one.code for one in again] == [0, 0] and "step 3 of 8" in again[0].error
    whole, unbroken = started(2, directory=tmp_path / "whole")
    assert [one.code for one in unbroken] == [0, 0]
    model = Path("model") / "model.safetensors"
    resumed = load_file(directory / model)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in load_file(whole / model).items())
    statistics = [json.loads((run / "train" / "stats.json").read_text()) for run in (directory, whole)]
    assert statistics[0] == statistics[1]
    # Done: nothing is trained again.
    _, done = started(2, directory=whole)
    assert [one.code for one in done] == [0, 0] and "done before" in done[0].error


@pytest.mark.parametrize(
    ("count", "recipe", "words"),
    [
        (3, {}, "3 ranks do not divide the 2 lanes"),
        (2, {"replicate": 4}, "train.replicate: 4 replicas on 2 ranks"),
        (2, {"batch_tokens": 65536}, "no more than one batch"),
    ],
)
def test_what_is_refused(started, count, recipe, words):
    _, ended = started(count, recipe=recipe)
    assert [one.code for one in ended] == [2] * count
    assert words in one_line(ended)


def test_ranks_with_other_settings_are_refused(started):
    _, ended = started(2, before="helpers.rank_cases:other_recipe", rank=1, setting="train.lr=0.5")
    assert [one.code for one in ended] == [2, 2]
    line = one_line(ended)
    assert "rank 1 on" in line and "has train.lr 0.5, rank 0 on" in line and "has 0.003" in line


def test_a_gpu_that_torch_has_no_code_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla K80")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "compute_90"])
    for capability, served in {(3, 7): False, (8, 0): True, (8, 9): True, (9, 0): True, (12, 0): True}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if served:
            _check_device(torch.device("cuda", 0))
        else:
            with pytest.raises(UserError, match=r"Tesla K80 is sm_37, and torch .* sm_80, sm_90, compute_90"):
                _check_device(torch.device("cuda", 0))
    assert "RANK" not in os.environ
