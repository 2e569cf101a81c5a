"""The GPUs of this machine and the kernels of this build, without torch.

`missing` is the one rule by which anything here decides whether a GPU runs a kernel: operations and the optimizer ask
it through `codeshell.ops.devices`, `codeshell info` directly. `machine` lists the GPUs even where the extension cannot:
in a build without CUDA, or under a driver that is older than the build, it asks the driver itself.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from codeshell import _C
from codeshell.architectures import serves

LIBRARY = "libcuda.so.1"
"""The driver's library, which comes with the driver and with nothing else."""

_HOPPER_ALONE = "_sm90.cu"
"""The end of the names of kernels with instructions that only Hopper GPUs have."""

# Numbers of cuDeviceGetAttribute, from cuda.h.
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76


class Gpu(NamedTuple):
    """A GPU, as the driver describes it."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int


class Machine(NamedTuple):
    """What the driver says of this machine.

    Attributes:
        driver: the newest CUDA that the driver knows, as CUDA writes it: 13000 is 13.0; 0 without a driver.
        gpus: those that this process may use (CUDA_VISIBLE_DEVICES), in CUDA's order.
    """

    driver: int
    gpus: tuple[Gpu, ...]


def missing(source: str, capability: tuple[int, int], build: Any = _C, driver: int | None = None) -> str | None:
    """Why GPUs of a compute capability do not run a kernel, as one clause with its remedy; None if they do.

    Args:
        source: the kernel's file, below csrc.
        capability: such as (9, 0).
        build: the extension whose facts count.
        driver: the newest CUDA that the driver knows; None asks the extension.
    """
    built = build.kernel_architectures.get(source, ())
    if not built and source.endswith(_HOPPER_ALONE) and capability != (9, 0):
        # No other build would help.
        return f"this GPU is sm_{capability[0]}{capability[1]}, and the kernel is for sm_90 alone"
    if not build.cuda_built:
        return "this build of codeshell is without CUDA; install it again where nvcc is on PATH, with CODESHELL_CUDA=1"
    known = build.cuda_driver() if driver is None else driver
    return serves(built, capability, known, build.cuda_runtime)


def unasked(switch: str) -> str:
    """The reason where no GPU has verified a kernel, and the user has not asked for it by an environment variable."""
    return f"no GPU has verified the kernel, and {switch}=1 does not ask for it"


def machine() -> Machine:
    """The driver and the GPUs of this machine. Never raises."""
    # The extension sees nothing without CUDA, and no device under a driver that is older than its CUDA.
    rows: list[dict[str, Any]] = _C.gpu_devices()
    found = tuple(Gpu(*(row[field] for field in Gpu._fields)) for row in rows)
    return Machine(_C.cuda_driver(), found) if found else _ask_driver()


def _ask_driver() -> Machine:
    """The same from the driver's library, which any build can ask."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return Machine(0, ())
    number = ctypes.c_int()

    def asked(name: str, *arguments: Any) -> bool:
        """Call a function of the driver; whether it succeeded. One that is not there has failed."""
        function = getattr(cuda, name, None)
        return function is not None and function(*arguments) == 0

    driver = number.value if asked("cuDriverGetVersion", ctypes.byref(number)) else 0
    # Without a device, or without the rights to use it, this fails.
    if not asked("cuInit", 0) or not asked("cuDeviceGetCount", ctypes.byref(number)):
        return Machine(driver, ())
    gpus = []
    for index in range(number.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        if not asked("cuDeviceGet", ctypes.byref(device), index):
            continue
        values = []
        for attribute in (_MAJOR, _MINOR, _MULTIPROCESSORS):
            if asked("cuDeviceGetAttribute", ctypes.byref(number), attribute, device):
                values.append(number.value)
        asked("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        asked("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        if len(values) == 3:
            gpus.append(Gpu(name.value.decode(errors="replace"), (values[0], values[1]), values[2], memory.value))
    return Machine(driver, tuple(gpus))
