"""A GPU that is not there: tensors of the CPU count as lying on it.

What decides between a kernel and PyTorch is the package's own code, from the facts that are set here: the capability of
the device, its driver, and what the build has. The kernels are those of the host execution (the fixture `host_kernels`
of tests/gpu), or none where a test only asks which way a call goes. For kernels in Triton there are stand-ins, which
note the call and compute in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import pytest

from codeshell import _C, gpus
from codeshell.operations import KERNELS
from codeshell.ops import devices, flash, hopper, library, triton_kernels
from helpers.triton_stand_ins import stand_ins

MEMORY_BOUND_KERNELS = [source for source in KERNELS if not source.startswith("attention/")]
MEMORY_BOUND = ("80", "86", "89", "90", "100", "120", "80-virtual")
RELEASE = {source: list(MEMORY_BOUND) if source in MEMORY_BOUND_KERNELS else ["90a"] for source in KERNELS}
"""What a build for all GPUs has of each kernel."""
RUNTIME = 13000

NAMES = {
    (7, 5): "Tesla T4",
    (8, 0): "NVIDIA A100-SXM4-80GB",
    (8, 6): "NVIDIA GeForce RTX 3090",
    (8, 9): "NVIDIA GeForce RTX 4090",
    (9, 0): "NVIDIA H100 80GB HBM3",
    (10, 0): "NVIDIA B200",
    (10, 3): "NVIDIA B300",
    (12, 0): "NVIDIA GeForce RTX 5090",
    (12, 1): "NVIDIA GB10",
}


@dataclass(frozen=True)
class Situation:
    """A GPU, a driver and a build; and whether the kernels for all GPUs run there, those of Hopper, and Triton's."""

    capability: tuple[int, int]
    all_gpus: bool
    hopper: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def triton(self) -> bool:
        return self.capability >= (8, 0)

    def enter(self, monkeypatch: pytest.MonkeyPatch, kernels: ModuleType | None = None) -> Extension:
        """`simulate` it."""
        return simulate(monkeypatch, kernels, self.capability, **self.facts)


SITUATIONS = {
    "7.5": Situation((7, 5), False),
    "8.0": Situation((8, 0), True),
    "8.6": Situation((8, 6), True),
    "8.9": Situation((8, 9), True),
    "9.0": Situation((9, 0), True, True),
    "10.0": Situation((10, 0), True),
    "10.3": Situation((10, 3), True),
    "12.0": Situation((12, 0), True),
    "12.1": Situation((12, 1), True),
    "of the future, by PTX": Situation((15, 0), True),
    "PTX, and a driver that is older by a minor version": Situation((15, 0), False, facts={"runtime": 13010}),
    "a driver of another CUDA, newer": Situation((9, 0), True, True, {"driver": 14000}),
    "an older driver": Situation((8, 9), False, facts={"driver": 12080}),
    "an older driver, Hopper": Situation((9, 0), False, facts={"driver": 12080}),
    "no driver": Situation((9, 0), False, facts={"driver": 0}),
    "without CUDA": Situation((9, 0), False, facts={"built": False}),
    "built for an RTX 3090": Situation(
        (9, 0), False, facts={"architectures": {source: ["86"] for source in MEMORY_BOUND_KERNELS}}
    ),
}


def leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put tensors of the CPU on the CPU again."""
    monkeypatch.setattr(devices, "extension", _C)
    monkeypatch.setattr(devices, "simulated", None)


class Extension:
    """`codeshell._C` of a build with CUDA, on a machine with a driver.

    Attributes:
        launched: names of the functions that ran a kernel, in order; of Triton's by their stand-ins.
    """

    def __init__(
        self,
        kernels: ModuleType | None,
        *,
        built: bool = True,
        architectures: Mapping[str, Sequence[str]] | None = None,
        runtime: int = RUNTIME,
        driver: int = RUNTIME,
    ) -> None:
        self.cuda_built, self.cuda_runtime, self._driver = built, runtime if built else 0, driver
        empty: dict[str, Sequence[str]] = {source: [] for source in KERNELS}
        self.kernel_architectures = dict(RELEASE if architectures is None else architectures) if built else empty
        self.possible_architectures = RELEASE
        self._kernels: Any = kernels or _C
        self._host = kernels is not None
        self.launched: list[str] = []

    def cuda_driver(self) -> int:
        return self._driver

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._kernels, name)
        rotary = name in ("rotary", "rotary_qkv", "rotary_qkv_backward")
        if not rotary and not name.endswith("_cuda"):
            return function

        def noted(*arguments: Any) -> Any:
            # Rotary's bindings check the arguments first, and say by False that there was nothing for a kernel.
            if not self._host and (not rotary or arguments[-1] is not None):
                raise AssertionError(f"{name}: a kernel was launched where there is none")
            done = function(*arguments)
            if done is not False:
                self.launched.append(name)
            return done

        return noted


def simulate(
    monkeypatch: pytest.MonkeyPatch,
    kernels: ModuleType | None = None,
    capability: tuple[int, int] = (9, 0),
    *,
    hopper_kernels: bool = True,
    triton: Literal["stand-ins", "kernels", "none"] = "stand-ins",
    **facts: Any,
) -> Extension:
    """Put tensors of the CPU on a GPU, until the test ends.

    Args:
        monkeypatch: pytest's.
        kernels: the module of the host execution; None where no kernel may be launched.
        capability: of the GPU.
        hopper_kernels: whether the user has asked for the attention kernels.
        triton: what serves as its kernels; "kernels" are themselves, in a process that interprets them, and "none" is a
            machine where it is not installed.
        facts: of the build and the driver, as `Extension` takes them.

    Returns:
        What stands in for `codeshell._C`.
    """
    extension = Extension(kernels, **facts)
    name = NAMES.get(capability, "NVIDIA Simulated")
    monkeypatch.setattr(devices, "extension", extension)
    monkeypatch.setattr(devices, "simulated", devices.Facts(name, capability, 4))
    monkeypatch.setattr(devices, "_answers", {})
    monkeypatch.setattr(devices, "_served", {})
    monkeypatch.setattr(hopper, "enabled", hopper_kernels)
    # Whether triton is installed here decides nothing.
    obstacle = "triton is not installed (simulated)" if triton == "none" else None
    monkeypatch.setattr(gpus, "triton_obstacle", lambda: obstacle)
    monkeypatch.setattr(triton_kernels, "modules", stand_ins(extension.launched) if triton == "stand-ins" else {})
    monkeypatch.setattr(triton_kernels, "_tried", {})
    monkeypatch.setattr(library, "_said", set())
    # The FlashAttention of a torch that is built for GPUs takes no tensors of the CPU; helpers.flash_attention does.
    monkeypatch.setattr(flash, "built", False)
    return extension
