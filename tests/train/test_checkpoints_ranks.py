"""Checkpoints of several processes: the same bits on any number of them, whole or absent, one verdict for all."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
from helpers import checkpoint_ranks as cases
from safetensors.torch import load_file

from codeshell.model import CodeShellForCausalLM

MODULE = "helpers.checkpoint_ranks"


def values(ended) -> list:
    assert all(one.code == 0 for one in ended), "".join(one.error for one in ended)
    return [one.value for one in ended]


@pytest.fixture(scope="module")
def saved(ranks, tmp_path_factory):
    """A directory with two checkpoints of each scheme by each number of ranks, and those of one process that never
    stopped."""
    home = tmp_path_factory.mktemp("saved")
    values(ranks.run(1, f"{MODULE}:reference", home=str(home)))
    for source, (world, _) in cases.WORLDS.items():
        values(ranks.run(world, f"{MODULE}:save_all", home=str(home), source=source))
    return home


def test_the_reference_has_all_that_is_to_be_compared(saved):
    """Weights, moments, steps and masters, in 32 and 16 bits."""
    tensors = load_file(saved / "masters" / "reference" / "step-000003" / "optimizer.safetensors")
    assert {name.partition("/")[0] for name in tensors} == {"step", "exp_avg", "exp_avg_sq", "master_param"}
    tensors = load_file(saved / "bf16-moments" / "reference" / "step-000003" / "optimizer.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("target", cases.WORLDS)
def test_any_number_of_ranks_loads_the_bits_that_any_other_has_saved(ranks, saved, target):
    """And the next update gives the bits of one process that never stopped."""
    for answer in values(ranks.run(cases.WORLDS[target][0], f"{MODULE}:load_all", home=str(saved), target=target)):
        for scheme, source in itertools.product(cases.SCHEMES, cases.WORLDS):
            # Not what the training put into the state after `begin`.
            expected = {"wrong": [], "recent": [1.0], "world": cases.WORLDS[source][0]}
            assert answer[f"{scheme} {source}"] == expected, (scheme, source)


def test_the_ranks_write_each_row_once(saved):
    home = saved
    sizes = {}
    for source, (world, _) in cases.WORLDS.items():
        path = home / "fp32" / source / "step-000002"
        files = json.loads((path / "state.json").read_text())["files"]
        assert {path.name for path in path.iterdir()} == {*files, "state.json"} and len(files) == 2 * world + 1
        sizes[source] = sum(data_bytes(path / name) for name in files if name.endswith(".safetensors"))
    assert len(set(sizes.values())) == 1
    # Replicas share the writing: no rank has nothing to do.
    replicas = [data_bytes(path) for path in (home / "fp32" / "2x2" / "step-000002").glob("optimizer.part-*")]
    assert min(replicas) > max(replicas) / 4


def data_bytes(path: Path) -> int:
    """Bytes of tensors in a safetensors file."""
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def test_the_checkpoint_of_several_ranks_is_a_model_directory(saved):
    home = saved
    one, four = (CodeShellForCausalLM.from_pretrained(home / "fp32" / source / "step-000002") for source in ("1", "4"))
    for (name, a), (_, b) in zip(one.named_parameters(), four.named_parameters(), strict=True):
        assert a.equal(b), name


def damaged(home: Path) -> dict[str, str]:
    """Copies of a directory of checkpoints of two ranks, each with another damage to the newer one; and its words."""
    old = home / "fp32" / "2" / "step-000001"
    expected = {"whole": ""}
    for name in sorted(path.name for path in old.iterdir()):
        expected |= {f"missing {name}": "No such file", f"cut {name}": "bytes of", f"flipped {name}": "has changed"}
        # Equal files of two steps are no damage.
        if name != "config.json":
            expected[f"old {name}"] = "of step 1" if name == "state.json" else "has changed"
    expected |= {"cut state.json": "state.json: ", "flipped state.json": "state.json"}
    for case in expected:
        shutil.copytree(home / "fp32" / "2", home / "damaged" / case)
        harm, _, name = case.partition(" ")
        path = home / "damaged" / case / "step-000002" / name
        data = path.read_bytes() if name else b""
        if harm == "missing":
            path.unlink()
        elif harm == "cut":
            path.write_bytes(data[:-7])
        elif harm == "flipped":
            path.write_bytes(data[:-20] + bytes([data[-20] ^ 4]) + data[-19:])
        elif harm == "old":
            path.write_bytes((old / name).read_bytes())
    return expected


def test_all_ranks_find_the_same_damage_and_take_the_previous_checkpoint(ranks, saved):
    home = saved
    expected = damaged(home)
    roots = [str(home / "damaged" / case) for case in expected]
    first, second = values(ranks.run(2, f"{MODULE}:choices", roots=roots))
    (alone,) = values(ranks.run(1, f"{MODULE}:choices", roots=roots))
    assert first == second
    for case, words, said, by_one in zip(expected, expected.values(), first, alone, strict=True):
        for newest, before in (said, by_one):
            assert before == "no error: 1", case
            if case == "whole":
                assert newest == "no error: 2"
            else:
                assert newest.startswith("DamagedError: ") and words in newest, (case, newest)
                assert case.partition(" ")[2] in newest and "\n" not in newest, (case, newest)


@pytest.fixture
def failed(ranks, saved, tmp_path):
    """What came of a save in which something happens to one of two ranks, and what is left of the directory."""

    def fail(harm: str, rank: int, background: bool = True):
        root = tmp_path / "root"
        shutil.copytree(saved / "fp32" / "2", root)
        ended = ranks.run(2, f"{MODULE}:fail", root=str(root), harm=harm, rank=rank, background=background)
        ((said,),) = values(ranks.run(1, f"{MODULE}:choices", roots=[str(root)]))
        return ended, said, sorted(path.name for path in root.iterdir())

    return fail


OLDER = (["no error: 2", "no error: 1"], ["step-000001", "step-000002"])


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_rank_is_one_line_on_all(failed, rank, background):
    ended, *left = failed("full disk", rank, background)
    first, second = values(ended)
    assert first == second and tuple(left) == OLDER
    assert first[0].startswith("AgreedError: ") and "step-000003: the disk is full; free some space" in first[0]
    assert first[0].startswith("AgreedError: rank 1 on ") == (rank == 1) and "\n" not in first[0]
    # It is said once, and the next save may be tried.
    assert first[1:] == ["no error: None", "False"] * background


@pytest.mark.parametrize(("harm", "rank"), [("killed in its file", 0), ("killed in its file", 1)])
def test_a_rank_that_is_killed_in_a_save_leaves_the_older_checkpoints(failed, harm, rank):
    ended, said, names = failed(harm, rank)
    assert ended[rank].code == -signal.SIGKILL
    assert ended[1 - rank].value[0].startswith("LostProcessError: ")
    assert "step-000003: not saved, because another process ended" in ended[1 - rank].value[0]
    # What is half written has a name that no resume looks at, and that the next save sweeps.
    assert said == OLDER[0] and set(names) - {"step-000003.partial"} == set(OLDER[1])


def test_the_commit_is_the_rename(failed):
    ended, said, _ = failed("killed before the commit", 0)
    assert ended[0].code == -signal.SIGKILL and ended[1].value[0].startswith("LostProcessError: ")
    assert said == OLDER[0]


def test_a_checkpoint_that_has_its_name_is_whole(failed):
    ended, said, _ = failed("killed after the commit", 0)
    assert ended[0].code == -signal.SIGKILL
    assert said == ["no error: 3", *OLDER[0]]


def test_a_fault_of_ours_on_one_rank_ends_the_others(failed):
    ended, *left = failed("a fault of ours", 1)
    first, second = values(ended)
    fault = "AttributeError: 'NoneType' object has no attribute 'xxh3_128'"
    assert first[0] == f"AgreedError: rank 1 on {socket.gethostname()}: {fault}"
    assert second[0] == fault
    assert tuple(left) == OLDER


def test_a_directory_that_the_machines_do_not_share_is_refused(ranks, tmp_path):
    said = values(ranks.run(2, f"{MODULE}:save_apart", home=str(tmp_path)))
    assert "must be the same on all machines" in said[0] and said[0] == said[1]
    assert not list(tmp_path.rglob("step-*"))


def test_the_model_of_two_ranks_is_exported_as_that_of_one(ranks, tmp_path):
    assert [said for count in (1, 2) for said in values(ranks.run(count, f"{MODULE}:export_all", home=str(tmp_path)))]
    for layout in ("codeshell", "starcoder2"):
        one, two = (sorted((tmp_path / f"{layout}-{count}").iterdir()) for count in (1, 2))
        assert [path.name for path in one] == [path.name for path in two]
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_an_export_to_a_full_disk_ends_all_ranks_and_leaves_the_earlier_model(ranks, tmp_path):
    for layout in ("codeshell", "starcoder2"):
        (tmp_path / f"{layout}-2").mkdir()
        (tmp_path / f"{layout}-2" / "config.json").write_text("earlier")
    first, second = values(ranks.run(2, f"{MODULE}:export_all", home=str(tmp_path), harm="export: full disk"))
    assert first == second
    assert all(said.startswith("AgreedError: ") and "the disk is full" in said for said in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codeshell-2", "starcoder2-2"]
    assert [path.read_text() for path in tmp_path.glob("*/config.json")] == ["earlier"] * 2
