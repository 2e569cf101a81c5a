"""What every launch does before and after the kernel, without a GPU: `csrc/gpu/launch.cu` and `tma.cu` themselves,
compiled against a CUDA that notes each call and answers what the test has chosen (`fake_cuda/`).

Each test has a module of its own, because the code remembers what it has found and prepared.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NO_MEMORY, NEWER_DRIVER, NO_DEVICE, NO_IMAGE, BAD_HANDLE, ILLEGAL_ADDRESS = 2, 35, 100, 209, 400, 700
NEVER_FOUND = -1
SHARED = 200_000
"""Bytes of dynamic shared memory: more than the 48 KiB for which a kernel need not ask."""

_copies = itertools.count()


@pytest.fixture(params=[12010, 13000], ids=["CUDA 12.1", "CUDA 13.0"])
def fake(request: pytest.FixtureRequest, host_kernels: ModuleType, tmp_path: Path) -> ModuleType:
    """A fresh copy of the module: nothing is found or prepared yet, and this thread has no context."""
    assert host_kernels.__file__
    name = f"fake_cuda_{request.param}"
    (library,) = Path(host_kernels.__file__).parent.glob(f"{name}.*.so")
    # Another file is another library, with variables of its own; by its name, pybind11 would know it again.
    copy = tmp_path / f"{name}.so"
    shutil.copy(library, copy)
    spec = importlib.util.spec_from_file_location(f"copy{next(_copies)}.{name}", copy)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.version == request.param
    return module


def on_new_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def encode(fake: ModuleType, **changes: int) -> str | None:
    sizes = {"batch": 2, "tokens": 300, "heads": 4, "dim": 64}
    strides = {"batch_stride": 76_800, "token_stride": 256, "head_stride": 64}
    result: str | None = fake.encode(**({"address": 1 << 20} | sizes | strides | changes))
    return result


# The context


def test_a_thread_without_a_context_gets_one_before_the_encoder_is_called(fake: ModuleType) -> None:
    assert encode(fake) is None
    calls = fake.calls()
    assert calls.index("cudaSetDevice 0") < calls.index("cuTensorMapEncodeTiled")
    # And no more than once.
    assert encode(fake) is None
    assert fake.calls() == ["cuTensorMapEncodeTiled"]


def test_every_thread_needs_its_own_context(fake: ModuleType) -> None:
    """As autograd's: the forward pass was on another thread, which has a context since long."""
    assert encode(fake) is None
    fake.calls()
    assert on_new_thread(lambda: encode(fake)) is None
    assert fake.calls() == ["cudaGetDevice", "cudaSetDevice 0", "cuTensorMapEncodeTiled"]


def test_a_context_that_was_taken_away_is_bound_again(fake: ModuleType) -> None:
    assert encode(fake) is None
    fake.set_thread(0, False)
    assert encode(fake) is None


def test_a_thread_with_a_context_keeps_it(fake: ModuleType) -> None:
    """Also one of another device than the runtime would choose by itself."""

    def encode_on_device_1() -> Any:
        fake.set_thread(1, True)
        assert encode(fake) is None
        return fake.thread()

    assert on_new_thread(encode_on_device_1) == (1, True)
    assert not [call for call in fake.calls() if call.startswith("cudaSetDevice")]


def test_the_context_is_bound_while_a_graph_is_captured(fake: ModuleType) -> None:
    fake.set_capturing(True)
    assert encode(fake) is None


def test_a_context_that_cannot_be_bound_says_why(fake: ModuleType) -> None:
    fake.answer("cudaSetDevice", [NO_DEVICE])
    assert encode(fake) == (
        "tensor map: no context: CUDA error 100 (cudaErrorName): CUDA's own words; no GPU is free for this process: "
        "look at CUDA_VISIBLE_DEVICES and at nvidia-smi's compute mode"
    )
    assert "cuTensorMapEncodeTiled" not in fake.calls()
    assert encode(fake) is None


# The encoder


def test_a_missing_encoder_is_looked_up_again(fake: ModuleType) -> None:
    fake.answer("lookup cuTensorMapEncodeTiled", [NEWER_DRIVER, NEVER_FOUND])
    assert "CUDA error 35" in str(encode(fake))
    assert encode(fake) == (
        "tensor map: the driver has no cuTensorMapEncodeTiled: update it to one of CUDA 12 or newer (525 or later)"
    )
    assert fake.last_error() == 0  # a later call must not fail by it
    assert encode(fake) is None
    fake.calls()
    # Found once is enough.
    assert encode(fake) is None
    assert fake.calls() == ["cuTensorMapEncodeTiled"]


def test_the_other_functions_of_the_driver_may_be_missing(fake: ModuleType) -> None:
    fake.answer("lookup cuCtxGetCurrent", [NEWER_DRIVER])
    fake.answer("lookup cuGetErrorName", [NEVER_FOUND])
    fake.answer("cuTensorMapEncodeTiled", [0, 1])
    assert encode(fake) is None
    assert fake.calls()[-3:] == ["cudaGetDevice", "cudaSetDevice 0", "cuTensorMapEncodeTiled"]
    assert fake.last_error() == 0
    assert "says an error without a name (1)" in str(encode(fake))


def test_the_encoder_is_asked_for_as_of_cuda_12_where_that_can_be_said(fake: ModuleType) -> None:
    assert encode(fake) is None
    (lookup,) = [call for call in fake.calls() if "cuTensorMapEncodeTiled" in call and "lookup" in call]
    assert lookup == "lookup cuTensorMapEncodeTiled" + (" 12000" if fake.version >= 12050 else "")


def test_what_the_driver_refuses_is_in_the_message(fake: ModuleType) -> None:
    fake.answer("cuTensorMapEncodeTiled", [1, 201, 999])
    assert encode(fake) == (
        "tensor map: cuTensorMapEncodeTiled says CUDA_ERROR_INVALID_VALUE (1) to 2-byte elements at 0x100000, sizes "
        "(64, 4, 300, 2), strides (128, 512, 153600) bytes, box (64, 1, 64, 1); the GPU may have no TMA: it needs "
        "compute capability 9.0"
    )
    assert "CUDA_ERROR_INVALID_CONTEXT (201)" in str(encode(fake))
    assert "an error without a name (999)" in str(encode(fake))


@pytest.mark.parametrize("one", ["batch", "tokens", "heads"])
def test_a_dimension_of_size_1_may_have_any_stride(fake: ModuleType, one: str) -> None:
    """Torch gives it any, and it is never stepped along; the driver checks it all the same."""
    stride = {"batch": "batch_stride", "tokens": "token_stride", "heads": "head_stride"}[one]
    for value in (0, 1, 7, 1 << 45):
        assert encode(fake, **{one: 1, stride: value}) is None
        assert fake.strides()[["heads", "tokens", "batch"].index(one)] == 2 * 64
        assert "multiple of 16" in str(encode(fake, **{stride: 7}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": 0}, "the address is not a multiple of 16"),
        ({"address": 8}, "the address is not a multiple of 16"),
        ({"token_stride": 1 << 39}, "a stride that is not a multiple of 16 below 2^40"),
        ({"tokens": 0}, "a size not in 1 to 2^32"),
    ],
)
def test_what_the_driver_would_refuse_has_words_of_its_own(
    fake: ModuleType, changes: dict[str, int], message: str
) -> None:
    assert encode(fake, **changes) == f"tensor map: {message}"
    assert fake.calls() == []


# The launch


def names(calls: list[str]) -> list[str]:
    return [call.split()[0] for call in calls]


def test_a_kernel_is_prepared_once_per_device(fake: ModuleType) -> None:
    assert fake.launch(0, SHARED, 168) is None
    calls = fake.calls()
    assert f"cudaFuncSetAttribute {SHARED}" in calls
    assert calls[-1] == f"cudaLaunchKernel 7 384 {SHARED} on 0"
    again = ["cudaGetDevice", f"cudaLaunchKernel 7 384 {SHARED} on 0"]
    assert fake.launch(0, SHARED, 168) is None
    assert fake.calls() == again
    # On every thread, and for less memory too.
    assert on_new_thread(lambda: fake.launch(0, SHARED, 168)) is None
    assert fake.calls() == again
    assert fake.launch(0, SHARED - 1000, 168) is None
    assert "cudaFuncSetAttribute" not in names(fake.calls())
    # Another device, another kernel, more memory.
    fake.set_thread(1, True)
    for kernel, shared in ((0, SHARED), (1, SHARED), (1, SHARED + 16)):
        assert fake.launch(kernel, shared, 168) is None
        assert f"cudaFuncSetAttribute {shared}" in fake.calls()
    fake.set_thread(0, True)
    assert fake.launch(0, SHARED, 168) is None
    assert fake.calls() == again


def test_a_small_kernel_is_launched_at_once(fake: ModuleType) -> None:
    assert fake.launch(0, 0, 0) is None
    assert fake.launch(0, 48 * 1024, 0) is None
    assert names(fake.calls()) == ["cudaLaunchKernel"] * 2


def test_the_first_launch_may_be_captured_into_a_graph(fake: ModuleType) -> None:
    fake.set_capturing(True)
    assert fake.launch(0, SHARED, 168) is None
    assert fake.capture_mode() == 0  # as it was


@pytest.mark.parametrize("call", ["cudaFuncGetAttributes", "cudaDeviceGetAttribute", "cudaFuncSetAttribute"])
def test_a_preparation_that_failed_is_not_remembered(fake: ModuleType, call: str) -> None:
    fake.answer(call, [NO_MEMORY])
    assert "CUDA error 2" in fake.launch(0, SHARED, 168)
    assert "cudaLaunchKernel" not in names(fake.calls())
    assert fake.capture_mode() == 0
    assert fake.last_error() == 0
    fake.calls()
    assert fake.launch(0, SHARED, 168) is None
    assert f"cudaFuncSetAttribute {SHARED}" in fake.calls()


def test_after_a_launch_that_failed_the_kernel_is_prepared_again(fake: ModuleType) -> None:
    """A reset of the device takes away what the kernel had asked for."""
    assert fake.launch(0, SHARED, 168) is None
    fake.answer("cudaLaunchKernel", [1])
    assert "CUDA error 1" in fake.launch(0, SHARED, 168)
    fake.calls()
    assert fake.launch(0, SHARED, 168) is None
    assert f"cudaFuncSetAttribute {SHARED}" in fake.calls()


def test_a_kernel_with_other_registers_is_refused_before_it_hangs(fake: ModuleType) -> None:
    fake.set_kernel(160, 1024)
    message = fake.launch(0, SHARED, 168)
    assert "was compiled to 160 registers per thread and counts on 168, with which it would never end" in message
    assert "cudaLaunchKernel" not in names(fake.calls())
    # One that moves none does not care.
    assert fake.launch(1, SHARED, 0) is None


def test_too_much_shared_memory_says_how_much_there_is(fake: ModuleType) -> None:
    kernel = "attention::forward<64, gpu::bf16>" if fake.version >= 12030 else "a kernel"
    fake.set_shared_limit(101_376)
    assert fake.launch(0, SHARED, 168) == (
        f"{kernel}: a block needs 201024 bytes of shared memory and device 0 gives 101376; it may be another GPU than "
        "the kernel is for, or a debugger, a profiler or another process under MPS may hold a part of it"
    )
    # To the byte, with the kernel's static memory.
    fake.set_shared_limit(SHARED + 1024)
    assert fake.launch(0, SHARED, 168) is None


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (NO_IMAGE, "CODESHELL_ARCHITECTURES=native"),
        (98, "CODESHELL_ARCHITECTURES=native"),
        (NEWER_DRIVER, "update the NVIDIA driver"),
        (222, "update the NVIDIA driver"),
        (3, "'spawn'"),
        (BAD_HANDLE, "torch.cuda.device(tensor.device)"),
        (NO_MEMORY, "torch.cuda.empty_cache()"),
        (900, "call the operation once before the capture"),
        (ILLEGAL_ADDRESS, "CUDA_LAUNCH_BLOCKING=1"),
        (719, "CUDA_LAUNCH_BLOCKING=1"),
        (1, "CUDA's own words"),
    ],
)
def test_what_a_launch_says(fake: ModuleType, code: int, remedy: str) -> None:
    fake.answer("cudaLaunchKernel", [code])
    message = fake.launch(0, 16, 0)
    kernel = "attention::forward<64, gpu::bf16>" if fake.version >= 12030 else "a kernel"
    assert message.startswith(
        f"{kernel}, 7 x 1 blocks of 384 threads, 16 bytes of dynamic shared memory: CUDA error {code} (cudaErrorName): "
    )
    assert remedy in message
    assert "\n" not in message
    assert fake.last_error() == 0
    assert fake.launch(0, 16, 0) is None


def test_each_thread_has_its_own_message(fake: ModuleType) -> None:
    barrier = threading.Barrier(2)
    messages: dict[int, str] = {}

    def work(kernel: int) -> None:
        barrier.wait()
        messages[kernel] = fake.launch(kernel, SHARED + 16 * kernel, 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("counts on 1" in message for message in messages.values())


# The device


def test_launches_go_to_the_device_of_the_tensors(fake: ModuleType) -> None:
    fake.set_thread(0, True)
    assert fake.on_device(1) == 1
    assert fake.thread() == (0, True)  # as it was
    assert fake.calls() == ["cudaGetDevice", "cudaSetDevice 1", "cudaSetDevice 0"]
    assert fake.on_device(0) == 0
    assert fake.calls() == ["cudaGetDevice"]


def test_multiprocessors_are_asked_for_once_per_device(fake: ModuleType) -> None:
    fake.answer("cudaDeviceGetAttribute", [NO_DEVICE])
    assert fake.multiprocessors() == 1
    assert fake.multiprocessors() == 132
    assert fake.multiprocessors() == 132
    assert fake.calls().count("cudaDeviceGetAttribute") == 2
