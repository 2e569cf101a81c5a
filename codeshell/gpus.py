"""The GPUs of this machine and the kernels of this build, without torch.

`missing` is the one rule by which anything here decides whether a GPU runs a kernel: operations and the optimizer ask
it through `codeshell.ops.devices`, `codeshell info` directly. `machine` lists the GPUs even where the extension cannot:
in a build without CUDA, or under a driver that is older than the build, it asks the driver itself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from codeshell import _C
from codeshell.architectures import OLDEST, serves, unreachable

LIBRARY = "libcuda.so.1"
"""The driver's library, which comes with the driver and with nothing else."""

TRITON = "_triton.py"
"""The end of the names of Triton's kernels, which are Python files of the package: Triton compiles them where they run,
for the GPU that is there."""

TRITON_SWITCH = "CODESHELL_TRITON"
"""The environment variable that switches Triton's kernels off where it is 0."""

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
        source: the kernel's file, below csrc; or below the package, a file of Triton's kernels.
        capability: such as (9, 0).
        build: the extension whose facts count.
        driver: the newest CUDA that the driver knows; None asks the extension.
    """
    if source.endswith(TRITON):
        return _missing_triton(capability, driver)
    built = build.kernel_architectures.get(source, ())
    # Where no other build would help, none is advised.
    if not built and (reason := unreachable(build.possible_architectures.get(source, ()), capability)):
        return reason
    if not build.cuda_built:
        return "this build of codeshell is without CUDA; install it again where nvcc is on PATH, with CODESHELL_CUDA=1"
    known = build.cuda_driver() if driver is None else driver
    return serves(built, capability, known, build.cuda_runtime)


def _missing_triton(capability: tuple[int, int], driver: int | None) -> str | None:
    """`missing` of the kernels in Triton, for which neither this build nor its CUDA counts."""
    if capability < OLDEST:
        return f"this GPU is sm_{capability[0]}{capability[1]}, and kernels in Triton are for sm_80 and newer"
    if driver is not None and driver <= 0:
        return "there is no CUDA driver on this machine; install NVIDIA's driver"
    return triton_obstacle()


def triton_obstacle() -> str | None:
    """Why Triton's kernels are not used on this machine, whatever its GPU, with the remedy; None if they are.

    Triton is not imported: it takes a second, and a machine without a GPU never needs it. What it needs besides is a C
    compiler and Python's headers, for the code that launches a kernel.
    """
    if os.environ.get(TRITON_SWITCH) == "0":
        return f"{TRITON_SWITCH}=0 asks for PyTorch"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; torch for CUDA brings it, and `pip install triton` installs it"
    compilers = (os.environ.get("CC"), "gcc", "clang")
    if not any(name and shutil.which(name.split()[0]) for name in compilers):
        return "Triton finds no C compiler, which it needs when it runs; install gcc, or name one in CC"
    # Debian's own scheme leads into /usr/local, where no headers are.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not Path(sysconfig.get_path("include", scheme), "Python.h").is_file():
        return "Triton needs Python's headers when it runs; install them (python3-dev)"
    return None


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
