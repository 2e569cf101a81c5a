"""`codeshell info`: the driver beside the build, why a GPU runs nothing, and what GPUs run that are not here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.simulated_gpu import MEMORY_BOUND_KERNELS, NAMES, RELEASE, SITUATIONS

from codeshell import _C, gpus
from codeshell.cli import main
from codeshell.gpus import Gpu, Machine
from codeshell.operations import KERNELS, OPERATIONS, TRITON_KERNELS

KNOWN = [name for name, situation in SITUATIONS.items() if not situation.facts and situation.capability in NAMES]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch):
    """This package as another build, on a machine with one GPU."""

    def make(capability: tuple[int, int], driver: int = 13000, built: bool = True) -> None:
        monkeypatch.setattr(_C, "cuda_built", built)
        monkeypatch.setattr(_C, "cuda_runtime", 13000 if built else 0)
        monkeypatch.setattr(_C, "kernel_architectures", RELEASE if built else dict.fromkeys(KERNELS, ()))
        here = Machine(driver, (Gpu(NAMES[capability], capability, 4, 24 << 30),))
        monkeypatch.setattr(gpus, "machine", lambda: here)

    monkeypatch.delenv("CODESHELL_HOPPER_ATTENTION", raising=False)
    monkeypatch.setattr(gpus, "triton_obstacle", lambda: None)
    return make


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "driver", "built", "line"),
    [
        (
            *((8, 9), 12040, True),
            "the driver knows CUDA up to 12.4, and codeshell was built with CUDA 13.0; update the driver to 580 or "
            "newer, or install codeshell again with the nvcc of a CUDA 12",
        ),
        ((7, 5), 13000, True, "this GPU is sm_75, and the kernels need sm_80 or newer"),
        ((9, 0), 12040, False, "this build of codeshell is without CUDA; install it again where nvcc is on PATH"),
    ],
    ids=["an old driver", "an old card", "no CUDA"],
)
def test_why_a_gpu_runs_nothing(build, capsys, capability, driver, built, line) -> None:
    build(capability, driver, built)
    text = printed(capsys)
    assert text.count("runs no kernel: ") == 1 and f"runs no kernel: {line}" in text
    assert f"{NAMES[capability]}, sm_{capability[0]}{capability[1]}, 24 GiB" in text
    with_build = " (built with CUDA 13.0)" if built else ""
    assert f"driver      knows CUDA up to {driver // 1000}.{driver % 1000 // 10}{with_build}\n" in text
    (gpu,) = json.loads(printed(capsys, "--json"))["gpus"]
    assert gpu["obstacle"].startswith(line) and gpu["capability"] == list(capability)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 1)])
def test_a_gpu_that_runs_some_kernels_has_no_obstacle(build, capsys, capability) -> None:
    build(capability)
    assert "runs no kernel" not in printed(capsys)
    assert json.loads(printed(capsys, "--json"))["gpus"][0]["obstacle"] is None


@pytest.mark.parametrize("name", KNOWN)
def test_a_gpu_here_and_one_that_is_not_are_listed_alike(name, build, capsys, monkeypatch) -> None:
    situation = SITUATIONS[name]
    monkeypatch.setenv("CODESHELL_HOPPER_ATTENTION", "1")
    build(situation.capability)
    asked = ["--kernels", "--capability", ".".join(map(str, situation.capability))]
    here, there = (json.loads(printed(capsys, *arguments, "--json")) for arguments in (["--kernels"], asked))
    assert here["kernels"] == there["kernels"]
    built = {row["source"]: row["architectures"] for row in here["kernels"] if not row["triton"]}
    assert built == RELEASE and {row["source"] for row in here["kernels"]} - built.keys() == set(TRITON_KERNELS)
    (mine,), (other,) = here["gpus"], there["gpus"]
    assert mine["name"] == NAMES[situation.capability]
    assert mine["operations"] == other["operations"] and mine["capability"] == other["capability"]
    rows = {row["operation"]: row for row in mine["operations"]}
    assert rows.keys() == {operation.name for operation in OPERATIONS if operation.elsewhere}
    for operation in OPERATIONS:
        if operation.kernels:
            everywhere = operation.kernels[0].source in MEMORY_BOUND_KERNELS
            runs = situation.all_gpus if everywhere else situation.hopper
            assert rows[operation.name]["kernels"] == [kernel.source for kernel in operation.kernels] * runs
            assert (rows[operation.name]["reason"] is None) == runs
        if operation.triton:
            sources = [kernel.source for kernel in operation.triton]
            assert rows[operation.name]["kernels"] == sources * situation.triton
    # The same in words.
    text = printed(capsys, *asked)
    assert f"compute capability {name}:" in text and "sm_80, sm_86, sm_89, sm_90, sm_100, sm_120 and PTX of 80" in text
    for row in rows.values():
        assert f"  {row['operation']:<11} {row['serves']}" in text and (not row["reason"] or row["reason"] in text)


def test_the_attention_kernels_wait_for_their_switch(build, capsys) -> None:
    build((9, 0))
    text = printed(capsys, "--kernels")
    assert "torch's SDPA (no GPU has verified the kernel, and CODESHELL_HOPPER_ATTENTION=1 does not ask for it)" in text


def test_a_build_without_cuda(build, capsys) -> None:
    build((8, 9), built=False)
    text = printed(capsys, "--kernels")
    assert text.count("not in this build (WITHOUT CUDA)") == len(KERNELS)
    assert "rotary      PyTorch (this build of codeshell is without CUDA" in text


@pytest.mark.parametrize("value", ["8", "89", "8.x", "sm_89", "8.10", "", "-8.9", "8.9 "])
def test_a_bad_capability_is_one_line(value, capsys) -> None:
    assert main(["info", "--kernels", f"--capability={value}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"codeshell: error: --capability {value}: must be a compute capability, such as 8.9 (")


def test_a_capability_without_kernels_is_one_line(capsys) -> None:
    assert main(["info", "--capability", "8.9"]) == 2
    assert "codeshell info --kernels --capability 8.9" in capsys.readouterr().err


def test_it_needs_no_torch() -> None:
    code = "import sys; from codeshell.cli import main; main(['info', '--kernels', '--capability', '8.9'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
