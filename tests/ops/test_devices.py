"""Which kernels a device runs, and that PyTorch serves every operation where it runs none, and says so once.

tests/gpu/test_devices.py has the same where kernels run.
"""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from helpers.operation_cases import OPERATIONS
from helpers.simulated_gpu import KERNELS, SITUATIONS, Extension, simulate

from codeshell import _C, gpus, kernels, ops
from codeshell.ops import devices, hopper, library

gelu = sys.modules["codeshell.ops.gelu"]  # the name in the package is the function
norm = sys.modules["codeshell.ops.norm"]
CPU = torch.device("cpu")
NONE = [name for name, situation in SITUATIONS.items() if not situation.all_gpus and not situation.hopper]


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_gate_and_the_list_agree_with_the_table(name, monkeypatch):
    situation = SITUATIONS[name]
    extension = situation.enter(monkeypatch)
    monkeypatch.setenv(hopper.SWITCH, "1")
    assert devices.on_gpu(CPU) and devices.capability(CPU) == situation.capability
    for source in KERNELS:
        runs = situation.hopper if source in hopper.SOURCES else situation.all_gpus
        assert devices.runs(CPU, source) == runs == (devices.missing(CPU, source) is None), source
    assert hopper.available(CPU) == situation.hopper == (hopper.missing(CPU) is None)
    # `codeshell info --kernels` lists the same, without torch.
    rows = {row["operation"]: row for row in kernels.paths(situation.capability, extension.cuda_driver(), extension)}
    for operation, source in {"attention": hopper.SOURCES[0], "decode": hopper.SOURCES[2]}.items():
        assert bool(rows[operation]["kernels"]) == situation.hopper
        assert rows[operation]["reason"] == devices.missing(CPU, source)
    sources = {"rotary": devices.ROTARY, "adamw": devices.ADAMW, "loss": devices.LOSS, "copy": "copy/copy.cu"}
    for operation, source in sources.items():
        assert rows[operation]["kernels"] == ([source] if situation.all_gpus else [])
        assert rows[operation]["reason"] == devices.missing(CPU, source)
    # Kernels in Triton need a driver, and nothing of this build.
    in_triton = situation.triton and extension.cuda_driver() > 0
    for operation, source in {"gelu": gelu.SOURCE, "norm": norm.SOURCE}.items():
        assert rows[operation]["kernels"] == ([source] if in_triton else [])
        assert (rows[operation]["reason"] is None) == in_triton
        assert devices.runs(CPU, source) == situation.triton


def test_the_switch_of_the_attention_kernels(monkeypatch):
    extension = simulate(monkeypatch, hopper_kernels=False)
    monkeypatch.delenv(hopper.SWITCH, raising=False)
    assert not hopper.available(CPU)
    rows = {row["operation"]: row for row in kernels.paths((9, 0), extension.cuda_driver(), extension)}
    assert rows["attention"]["reason"] == rows["decode"]["reason"] == hopper.missing(CPU)
    assert hopper.SWITCH in hopper.missing(CPU) and rows["rotary"]["kernels"]
    # Where a kernel has no code, asking for it does not help, and that is what is said.
    extension = simulate(monkeypatch, None, (8, 9), hopper_kernels=False)
    assert hopper.missing(CPU) == devices.missing(CPU, hopper.SOURCES[0]) != gpus.unasked(hopper.SWITCH)


def test_a_cpu_is_no_gpu():
    assert not devices.on_gpu(CPU) and not devices.runs(CPU, devices.ROTARY)
    assert devices.missing(CPU, devices.ROTARY) == "tensors on cpu"
    assert devices.missing(torch.device("meta"), devices.ROTARY) == "tensors on meta"
    assert devices.queue(torch.zeros(1), devices.ROTARY) == 0


def test_the_rule_is_asked_once_for_each_device(monkeypatch):
    simulate(monkeypatch)
    asked, rule = [], gpus.missing
    monkeypatch.setattr(gpus, "missing", lambda *arguments: (asked.append(arguments), rule(*arguments))[1])
    for _ in range(3):
        assert devices.runs(CPU, devices.ROTARY)
        assert devices.runs(CPU, *hopper.SOURCES)
    assert len(asked) == 1 + len(hopper.SOURCES)


def test_this_build_is_asked_through_its_facts():
    """The stand-in of the simulation has what the extension has."""
    stand_in = Extension(None)
    assert stand_in.kernel_architectures.keys() == _C.kernel_architectures.keys()
    assert stand_in.possible_architectures == {name: list(x) for name, x in _C.possible_architectures.items()}
    assert type(_C.cuda_driver()) is int and type(_C.cuda_runtime) is int and type(_C.cuda_built) is bool
    # On a machine without a driver nothing runs, whatever was built; with one, this is what runs there.
    for source in KERNELS:
        reason = gpus.missing(source, (9, 0))
        assert (reason is None) == (_C.cuda_driver() > 0 and gpus.missing(source, (9, 0), driver=10**6) is None)


@pytest.mark.parametrize("name", NONE)
def test_pytorch_serves_every_operation_and_says_so_once(name, monkeypatch, caplog):
    """A launch would fail the test: the stand-in has no kernels."""
    expected = {operation: call() for operation, call in OPERATIONS.items()}
    SITUATIONS[name].enter(monkeypatch)
    with caplog.at_level(logging.WARNING, "codeshell"):
        for operation, call in OPERATIONS.items():
            for got, want in zip(call(), expected[operation], strict=True):
                torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2, msg=lambda m, o=operation: f"{o}: {m}")
            call()
    lines = [record.getMessage() for record in caplog.records if record.name == "codeshell"]
    starts = "codeshell.ops.{}: PyTorch takes what no kernel of codeshell serves: "
    said = {"attention": hopper.missing(CPU), "decode_attention": hopper.missing(CPU)}
    said |= dict.fromkeys(("rotary", "rotary_qkv"), devices.missing(CPU, devices.ROTARY))
    said["linear_cross_entropy"] = devices.missing(CPU, devices.LOSS)
    # Kernels in Triton are not part of the build: only the GPU counts.
    if not SITUATIONS[name].triton:
        said["gelu"] = devices.missing(CPU, gelu.SOURCE)
        said["residual_layer_norm"] = devices.missing(CPU, norm.SOURCE)
    for operation, reason in said.items():
        assert reason and sum(line.startswith(starts.format(operation) + reason) for line in lines) == 1, operation
    # Packed sequences and caches have a line of their own, where torch's FlashAttention does not take them either.
    packed = starts.format("attention") + "packed sequences, by a call for each length"
    assert sum(line.startswith(packed) for line in lines) == 1
    assert sum("every row is computed over its whole capacity" in line for line in lines) == 1
    assert len(lines) == len(said) + 2


def test_bad_arguments_are_the_same_line_on_every_device(monkeypatch):
    q, k, cos = torch.zeros(1, 5, 2, 8), torch.zeros(1, 5, 1, 8), torch.zeros(3, 4)

    def complaint(*arguments, **options):
        with pytest.raises(ValueError) as caught:
            ops.rotary(*arguments, **options)
        return str(caught.value)

    calls = [((q, k, cos, cos), {}), ((q, k[..., :4], cos, cos), {}), ((q, k, cos, cos), {"offset": -1})]
    expected = [complaint(*arguments, **options) for arguments, options in calls]
    simulate(monkeypatch, None, (7, 5))
    assert [complaint(*arguments, **options) for arguments, options in calls] == expected


@pytest.mark.parametrize("capability", [(7, 5), (8, 9)])
def test_a_traced_graph_takes_the_same_way(capability, monkeypatch):
    q, k, v = (torch.randn(1, 6, heads, 64).bfloat16() for heads in (2, 1, 1))
    cos, sin = torch.rand(6, 32).cos(), torch.rand(6, 32).sin()
    simulate(monkeypatch, None, capability, architectures={source: [] for source in KERNELS})

    def both(q, k, v):
        return ops.attention(*ops.rotary(q, k, cos, sin), v)

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), both(q, k, v))
    torch.compiler.reset()


def test_what_is_not_served_for_its_dtype_is_said_too(caplog, monkeypatch):
    monkeypatch.setattr(library, "_said", set())
    with caplog.at_level(logging.WARNING, "codeshell"):
        for _ in range(2):
            ops.rotary(*(torch.zeros(2, 1, 8, dtype=torch.float64) for _ in range(2)), *[torch.zeros(2, 4)] * 2)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "codeshell.ops.rotary" in line and ": float64 (said once" in line
