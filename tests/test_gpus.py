"""The GPUs of a machine, asked of the driver itself: a library of a few lines in C stands in for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from codeshell import _C, gpus
from codeshell.gpus import Gpu, Machine
from codeshell.operations import KERNELS

DRIVER = r"""
#include <stddef.h>
#include <string.h>
/* Two devices, of which the second cannot be asked; cuInit fails where FAILS is set. */
int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
int cuInit(unsigned flags) { return flags ? 1 : FAILS; }
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int index) { *device = 70 + index; return index == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device != 70) return 101;
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 16 ? 128 : -1;
  return 0;
}
int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, "NVIDIA GeForce RTX 4090", size);
  return device == 70 ? 0 : 101;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)24 << 30; return device == 70 ? 0 : 101; }
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds the stand-in, and has it asked; the extension sees no GPU, as under a driver that is too old for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler, to build a stand-in for the driver")

    def build(fails: int = 0, code: str = DRIVER) -> None:
        source, library = tmp_path / f"driver{fails}.c", tmp_path / f"libdriver{fails}.so"
        source.write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", f"-DFAILS={fails}", "-o", library, source], check=True)
        monkeypatch.setattr(gpus, "LIBRARY", str(library))

    monkeypatch.setattr(gpus, "_C", SimpleNamespace(gpu_devices=list, cuda_driver=lambda: 12040))
    return build


def test_what_the_extension_does_not_see_the_driver_tells(driver) -> None:
    driver()
    assert gpus.machine() == Machine(12040, (Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 24 << 30),))


def test_a_driver_without_devices(driver) -> None:
    driver(fails=100)
    assert gpus.machine() == Machine(12040, ())


def test_a_library_that_is_something_else(driver) -> None:
    driver(code="int nothing;")
    assert gpus.machine() == Machine(0, ())


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "LIBRARY", "libabsent.so.1")
    monkeypatch.setattr(gpus, "_C", SimpleNamespace(gpu_devices=list, cuda_driver=lambda: 0))
    assert gpus.machine() == Machine(0, ())


def test_what_the_extension_sees_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "NVIDIA H200", "capability": (9, 0), "multiprocessors": 132, "memory_bytes": 141 << 30}
    monkeypatch.setattr(gpus, "LIBRARY", "libabsent.so.1")
    monkeypatch.setattr(gpus, "_C", SimpleNamespace(gpu_devices=lambda: [row], cuda_driver=lambda: 13000))
    assert gpus.machine() == Machine(13000, (Gpu("NVIDIA H200", (9, 0), 132, 141 << 30),))


@pytest.mark.parametrize("cuda", [True, False])
def test_no_build_is_advised_that_would_not_help(cuda: bool) -> None:
    """A build for other GPUs, or without CUDA, holds no kernel of Hopper; another build gives it to a Hopper alone."""
    build = SimpleNamespace(
        cuda_built=cuda,
        cuda_runtime=13000 * cuda,
        cuda_driver=lambda: 13000,
        kernel_architectures=dict.fromkeys(KERNELS, ()),
        possible_architectures=_C.possible_architectures,
    )
    for source in KERNELS:
        hopper = _C.possible_architectures[source] == ["90a"]
        for capability in ((8, 9), (9, 0)):
            reason = gpus.missing(source, capability, build)
            assert reason and ("install" in reason) == (capability == (9, 0) or not hopper), (source, capability)
