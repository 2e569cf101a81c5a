"""The gate of the kernels in Triton: which tensors they serve, and how an operation reaches them.

An operation OP that has them keeps them in codeshell/ops/OP_triton.py, which imports triton at its top and has plain
functions that allocate, launch and return tensors. Nothing imports that file but this gate, when a tensor of a GPU asks
for it: triton takes a second to import, and machines without a GPU need not have it. The operation asks

    kernels = triton_kernels.serving("ops/gelu_triton.py", x)
    if kernels is not None:
        return kernels.forward(x, bias)

and computes in PyTorch where the answer is None; `missing` says why, for `library.say`. They serve GPUs of compute
capability 8.0 and newer; `codeshell.gpus.missing` is the rule, as for every kernel, and `devices` asks it once for each
device.

The first use on a device is a trial: the file's `trial(device)` runs every kernel on small tensors and raises where
one fails or differs from PyTorch. A GPU, driver or compiler that Triton does not know costs a line in the log then, and
not the run. To switch the kernels off, set CODESHELL_TRITON=0.

On a simulated GPU (tests/helpers/simulated_gpu.py) a stand-in in `modules` notes the calls; in Triton's interpreter
the kernels themselves run on tensors of the CPU (tests/helpers/triton_interpreter.py).
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from codeshell.ops import devices

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels compute on; sums and functions are in fp32."""

modules: dict[str, Any] = {}
"""The files of kernels that were loaded, by source."""

_tried: dict[tuple[str, torch.device], str | None] = {}
"""Why the trial of a file on a device failed; None where it passed."""


def serving(source: str, *tensors: torch.Tensor | None) -> Any | None:
    """The kernels of a file, where they serve these tensors; None elsewhere, and `missing` says why.

    Args:
        source: the file below the package, "ops/NAME_triton.py".
        tensors: on one device, which is that of the first; None stands for one that is not given.
    """
    first = tensors[0]
    assert first is not None
    # Most calls of a CPU end here.
    if first.is_cpu and devices.simulated is None:
        return None
    return modules[source] if missing(source, *tensors) is None else None


def missing(source: str, *tensors: torch.Tensor | None) -> str | None:
    """Why the kernels of a file do not serve these tensors, as one clause; None if they do."""
    given = [x for x in tensors if x is not None]
    device = given[0].device
    reason = devices.missing(device, source)
    if reason is None:
        other = next((x.dtype for x in given if x.dtype not in DTYPES), None)
        reason = None if other is None else str(other).removeprefix("torch.")
    return reason or _failure(source, device)


def _failure(source: str, device: torch.device) -> str | None:
    """Why a file's kernels do not work on a device that should run them; asked of the device once."""
    key = source, device
    if key not in _tried:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "it was first called in the capture of a CUDA graph; call it once before"
        try:
            kernels = modules.get(source) or _load(source)
            if tries(device):
                with on_device(device):
                    kernels.trial(device)
            modules[source] = kernels
            _tried[key] = None
        # Whatever goes wrong in Triton, its compiler, the C compiler and the driver, PyTorch still serves.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            _tried[key] = f"its trial on this device failed: {type(error).__name__}: {lines[0][:200]}"
    return _tried[key]


def tries(device: torch.device) -> bool:
    """Whether a file is tried on a device: not in a simulation, where nothing is compiled."""
    return devices.simulated is None


def _load(source: str) -> Any:
    return importlib.import_module("codeshell." + source.removesuffix(".py").replace("/", "."))


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which a device is the current one: Triton launches there, on its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check(name: str, got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    """One comparison of a trial.

    Raises:
        ArithmeticError: they differ by more than `tolerance` of the largest wanted value, or one is not finite.
    """
    largest = float(wanted.float().abs().max())
    difference = float((got.float() - wanted.float()).abs().max())
    if not difference <= tolerance * largest:
        raise ArithmeticError(f"{name} differs from PyTorch's by {difference:.2g}, of {largest:.2g}")
