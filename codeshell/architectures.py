"""Which compiled code runs on which GPU: the rule of the CUDA driver, without a GPU and without CUDA.

A kernel is compiled into `codeshell._C` as machine code for some architectures ("80", "90a") and perhaps as PTX, which
the driver translates when it loads it ("80-virtual"). `_C.kernel_architectures` says what each kernel has. Three things
decide whether some of it runs: the device's compute capability, the driver's CUDA version and that of the runtime
inside `_C`. `serves` decides, and its answer is the reason that a fallback tells its user.

    machine code X.Y     runs on capability X.Z with Z >= Y, but not on embedded GPUs (TEGRA); the driver's major
                         version is at least the runtime's
    machine code X.Ya    runs on capability X.Y alone; the same of the driver
    PTX X.Y              runs on every capability from X.Y on; the driver's version is at least the runtime's,
                         because a driver refuses the PTX of a toolkit that is newer than itself

The standard library only: the rule is needed where no extension could be loaded, and it is tested with any values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OLDEST = (8, 0)
"""The oldest capability that any kernel of the package can be compiled for: bf16 begins there."""

TEGRA = ((8, 7), (11, 0))
"""The embedded GPUs (Jetson Orin, Thor): NVIDIA promises them no machine code but their own. PTX serves."""


DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest driver for each CUDA, from the table of minor version compatibility in NVIDIA's release notes."""


class Code(NamedTuple):
    """One piece of compiled code.

    Attributes:
        capability: what it was compiled for.
        specific: "a" code: for this capability and no other.
        ptx: PTX, not machine code.
    """

    capability: tuple[int, int]
    specific: bool
    ptx: bool


def parse(architecture: str) -> Code:
    """`"90a"` or `"80-virtual"` as `Code`.

    Raises:
        ValueError: it is not digits, with or without "a" or "-virtual" after them.
    """
    name, dash, kind = architecture.partition("-")
    digits = name.removesuffix("a")
    if not digits.isdecimal() or len(digits) < 2 or (dash and kind != "virtual"):
        raise ValueError(f'architecture: {architecture!r} is not of the form "80", "90a" or "80-virtual"')
    return Code((int(digits[:-1]), int(digits[-1])), specific=digits != name, ptx=bool(dash))


def serves(built: Sequence[str], capability: tuple[int, int], driver: int, runtime: int) -> str | None:
    """Whether a kernel that was built for some architectures runs on a device.

    Args:
        built: the kernel's architectures, as in `_C.kernel_architectures`; empty where this build has none of it.
        capability: the device's compute capability, such as (9, 0).
        driver: the newest CUDA that the driver knows, as `_C.cuda_driver()` gives it: 13000 is 13.0; 0 is no driver.
        runtime: the CUDA that the build was made with, as `_C.cuda_runtime`.

    Returns:
        None if it runs, else the reason as one clause, with the remedy where there is one.
    """
    if not built:
        return (
            "this build has no code of it for any GPU; install codeshell again where nvcc is on PATH, with "
            "CODESHELL_ARCHITECTURES=native"
        )
    if driver <= 0:
        return "there is no CUDA driver on this machine; install NVIDIA's driver"
    codes = [parse(architecture) for architecture in built]
    cubins = [code for code in codes if not code.ptx and _runs(code, capability)]
    ptx = [code for code in codes if code.ptx and code.capability <= capability]
    if not cubins and not ptx:
        return _no_code(codes, capability)
    # Code there is; now the driver must take it.
    if driver // 1000 < runtime // 1000:
        return (
            f"the driver knows CUDA up to {version(driver)}, and codeshell was built with CUDA {version(runtime)}; "
            f"update the driver{_to(runtime)}, or install codeshell again with the nvcc of a CUDA {driver // 1000}"
        )
    if not cubins and driver < runtime:
        return (
            f"this build has only PTX for sm_{_digits(capability)}, and the driver, which knows CUDA up to "
            f"{version(driver)}, does not read that of CUDA {version(runtime)}; update the driver, or install "
            "codeshell again with CODESHELL_ARCHITECTURES=native"
        )
    return None


def unreachable(possible: Sequence[str], capability: tuple[int, int]) -> str | None:
    """Why no build of a kernel runs on a device, as one clause; None where some build does.

    Args:
        possible: what the kernel can be compiled for, as in `_C.possible_architectures`.
        capability: the device's compute capability.
    """
    codes = [parse(architecture) for architecture in possible]
    # Architecture-specific code uses instructions that no other GPU has. Other code can be built for what comes later.
    if not codes or not all(code.specific for code in codes) or any(_runs(code, capability) for code in codes):
        return None
    names = " and ".join(f"sm_{_digits(code.capability)}" for code in codes)
    return f"this GPU is sm_{_digits(capability)}, and the kernel is for {names} alone"


def _runs(cubin: Code, capability: tuple[int, int]) -> bool:
    """Whether a device of this capability executes this machine code."""
    if cubin.specific or capability in TEGRA:
        return cubin.capability == capability
    return cubin.capability[0] == capability[0] and cubin.capability[1] <= capability[1]


def _no_code(codes: list[Code], capability: tuple[int, int]) -> str:
    """The reason where nothing that was built is for this capability."""
    device = f"this GPU is sm_{_digits(capability)}"
    if capability < OLDEST:
        return f"{device}, and the kernels need sm_{_digits(OLDEST)} or newer"
    has = f"{device}, and this build has its code for {summary(codes)} alone"
    # Architecture-specific code uses instructions that no other GPU has, so a build for this one does not exist.
    if all(code.specific for code in codes):
        return has
    return f"{has}; install codeshell again with CODESHELL_ARCHITECTURES=native"


def summary(codes: Sequence[Code]) -> str:
    """For people: `sm_80, sm_90a and PTX of 80`."""
    names = [f"sm_{_digits(code.capability)}{'a' * code.specific}" for code in codes if not code.ptx]
    names += [f"PTX of {_digits(code.capability)}" for code in codes if code.ptx]
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _to(runtime: int) -> str:
    """Which driver a CUDA needs at least, for the end of "update the driver"; nothing where that is not known."""
    oldest = DRIVERS.get(runtime // 1000)
    return f" to {oldest} or newer" if oldest else ""


def version(cuda: int) -> str:
    """CUDA's own number of a version as people write it: 12040 is 12.4."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def _digits(capability: tuple[int, int]) -> str:
    return f"{capability[0]}{capability[1]}"
