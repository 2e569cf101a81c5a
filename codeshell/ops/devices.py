"""Which kernels the device of a tensor runs: the one gate of all operations and of the optimizer.

A kernel is code for some GPUs, and a driver may be too old for it; `codeshell.gpus.missing` is the rule. Here it is
answered for torch's devices, once for each, because operations ask at every call. Where the answer is no, PyTorch does
the work, and `library.say` tells why.

Tests simulate a GPU (tests/helpers/simulated_gpu.py): tensors of the CPU then count as lying on it, in all that is
decided here, and `extension` is a module whose kernels run on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from codeshell import _C, gpus
from codeshell.ops.library import constant_in_graphs, stream_of

# Files of kernels, below csrc, that are asked for here and there.
ROTARY = "rotary/rotary.cu"
ADAMW = "adamw/adamw.cu"
LOSS = "loss/softmax_gradient.cu"


class Facts(NamedTuple):
    """What is asked of a GPU."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int


extension: Any = _C
"""The module that holds the kernels, and the facts of the build."""

simulated: Facts | None = None
"""The GPU on which tensors of the CPU count as lying; None outside of tests."""

# What was asked before: facts by index of the device, answers of `missing` by the kernels too, those of `queue`. A GPU
# and a driver stay what they are while the process runs.
_facts: dict[int | None, Facts] = {}
_answers: dict[tuple[int | None, tuple[str, ...]], str | None] = {}
_served: dict[tuple[torch.device, str], bool] = {}


def on_gpu(device: torch.device) -> bool:
    """Whether tensors of this device count as lying on a CUDA device."""
    return device.type == "cuda" or (simulated is not None and device.type == "cpu")


def facts(device: torch.device) -> Facts:
    """The facts of a GPU; remembered, because torch takes microseconds to answer."""
    return simulated or _facts_of(torch.cuda.current_device() if device.index is None else device.index)


def _facts_of(index: int | None) -> Facts:
    found = _facts.get(index)
    if found is None:
        properties = torch.cuda.get_device_properties(index)
        found = Facts(properties.name, (properties.major, properties.minor), properties.multi_processor_count)
        _facts[index] = found
    return found


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a GPU, such as (9, 0); may be asked in a traced graph."""
    # A traced graph folds torch's function into a constant.
    if simulated is None and torch.compiler.is_compiling():
        return torch.cuda.get_device_capability(device)
    return facts(device).capability


def missing(device: torch.device, *sources: str) -> str | None:
    """Why a device does not run these kernels, as one clause with its remedy; None if it runs all of them.

    Args:
        device: any device of torch.
        sources: files of kernels, below csrc.
    """
    if not on_gpu(device):
        return f"tensors on {device.type}"
    answer: str | None = _answer(device.index, sources)
    return answer


# A traced graph cannot look into torch's properties of a device.
@constant_in_graphs
def _answer(index: int | None, sources: tuple[str, ...]) -> str | None:
    """`missing` of the GPU with this index."""
    # None means whichever is current, which may change.
    if index is None and simulated is None:
        index = torch.cuda.current_device()
    key = index, sources
    if key not in _answers:
        capability = (simulated or _facts_of(index)).capability
        reasons = (gpus.missing(source, capability, extension) for source in sources)
        _answers[key] = next((reason for reason in reasons if reason), None)
    return _answers[key]


def runs(device: torch.device, *sources: str) -> bool:
    """Whether a device is a GPU that runs these kernels."""
    return on_gpu(device) and missing(device, *sources) is None


def queue(x: torch.Tensor, source: str) -> int | None:
    """The stream on which a kernel is launched for a tensor, as the bindings take it: that of torch, 0 on a CPU; None
    on a GPU that does not run it, where the binding checks its arguments and does nothing."""
    if x.is_cpu and simulated is None:
        return 0
    # One look-up, because rotary asks at every call.
    device = x.device
    served = _served.get((device, source))
    if served is None:
        served = _served[device, source] = runs(device, source)
    return stream_of(x) if served else None
