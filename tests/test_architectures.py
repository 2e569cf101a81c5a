"""Which compiled code runs on which GPU under which driver: the rule alone, with any values."""

from __future__ import annotations

import pytest

from codeshell import _C
from codeshell.architectures import OLDEST, Code, parse, serves, unreachable, version

ALL = ["80", "86", "89", "90", "100", "120", "80-virtual"]
CAPABILITIES = [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1), (13, 0)]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_default_build_serves_every_gpu_from_sm_80_on(capability: tuple[int, int]) -> None:
    assert serves(ALL, capability, driver=13000, runtime=13000) is None


@pytest.mark.parametrize(
    ("built", "runs_on"),
    [
        (["80"], [(8, 0), (8, 6), (8, 9)]),
        (["86"], [(8, 6), (8, 9)]),
        (["89"], [(8, 9)]),
        (["90"], [(9, 0)]),
        (["90a"], [(9, 0)]),
        (["100"], [(10, 0), (10, 3)]),
        (["100a"], [(10, 0)]),
        (["120"], [(12, 0), (12, 1)]),
        (["87"], [(8, 7), (8, 9)]),
        (["86", "120"], [(8, 6), (8, 9), (12, 0), (12, 1)]),
        (["80-virtual"], CAPABILITIES),
        (["90-virtual"], [(9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1), (13, 0)]),
    ],
)
def test_code_runs_where_the_driver_takes_it(built: list[str], runs_on: list[tuple[int, int]]) -> None:
    assert [capability for capability in CAPABILITIES if serves(built, capability, 13000, 13000) is None] == runs_on


@pytest.mark.parametrize(
    ("built", "driver", "runtime", "runs"),
    [
        (["80"], 13000, 13000, True),
        (["80"], 13000, 13020, True),  # the same major version is enough for machine code
        (["80"], 13000, 12010, True),  # an older build
        (["80"], 12090, 13000, False),
        (["80-virtual"], 13000, 13000, True),
        (["80-virtual"], 13010, 13000, True),
        (["80-virtual"], 13000, 13010, False),  # PTX of a newer toolkit
        (["80-virtual"], 12090, 13000, False),
        (["80", "80-virtual"], 13000, 13020, True),
        (["80"], 0, 13000, False),
        (["80"], 0, 0, False),
    ],
)
def test_the_driver_decides_too(built: list[str], driver: int, runtime: int, runs: bool) -> None:
    assert (serves(built, (8, 0), driver, runtime) is None) == runs


def test_each_reason_names_the_facts_and_the_remedy() -> None:
    assert serves([], (8, 0), 13000, 13000) == (
        "this build has no code of it for any GPU; install codeshell again where nvcc is on PATH, with "
        "CODESHELL_ARCHITECTURES=native"
    )
    assert serves(ALL, (8, 0), 0, 13000) == "there is no CUDA driver on this machine; install NVIDIA's driver"
    assert serves(ALL, (7, 5), 13000, 13000) == "this GPU is sm_75, and the kernels need sm_80 or newer"
    # Code for one GPU alone has no build for another; other code has.
    specific, other = serves(["90a"], (12, 0), 13000, 13000), serves(["86", "90"], (12, 0), 13000, 13000)
    assert specific == "this GPU is sm_120, and this build has its code for sm_90a alone"
    assert other == (
        "this GPU is sm_120, and this build has its code for sm_86 and sm_90 alone; install codeshell again with "
        "CODESHELL_ARCHITECTURES=native"
    )
    old = serves(ALL, (8, 0), 12040, 13000)
    assert old and old.startswith(
        "the driver knows CUDA up to 12.4, and codeshell was built with CUDA 13.0; update the"
    )
    assert old.endswith("or install codeshell again with the nvcc of a CUDA 12")
    ptx = serves(ALL, (13, 0), 13000, 13020)
    assert ptx and "only PTX for sm_130" in ptx and "up to 13.0, does not read that of CUDA 13.2; update the" in ptx


@pytest.mark.parametrize("name", ["", "a", "8", "8.0", "sm_80", "80-real", "90b", "80-", "-virtual", "native"])
def test_what_is_no_architecture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^architecture: .* is not of the form"):
        parse(name)


def test_names_are_read() -> None:
    assert parse("90a") == Code((9, 0), specific=True, ptx=False)
    assert parse("80-virtual") == Code((8, 0), specific=False, ptx=True)
    assert parse("121") == Code((12, 1), specific=False, ptx=False)
    assert (version(12040), version(13000)) == ("12.4", "13.0")


def test_the_extension_tells_its_facts() -> None:
    built = [parse(name) for names in _C.kernel_architectures.values() for name in names]
    assert all(code.capability >= OLDEST for code in built)
    assert bool(built) == _C.cuda_built == (_C.cuda_runtime >= 12000) == bool(_C.cuda_architectures)
    assert _C.cuda_driver() >= 0 and isinstance(_C.debug_kernels, bool)


@pytest.mark.parametrize(
    ("possible", "capability", "reason"),
    [
        (["90a"], (8, 9), "this GPU is sm_89, and the kernel is for sm_90 alone"),
        (["90a", "100a"], (12, 0), "this GPU is sm_120, and the kernel is for sm_90 and sm_100 alone"),
        (["90a", "100a"], (10, 0), None),
        (["90a"], (9, 0), None),
        (["80", "90", "80-virtual"], (12, 0), None),
        (["80", "90"], (12, 0), None),  # another build may have it
        ([], (9, 0), None),
    ],
)
def test_no_build_reaches_a_gpu_that_lacks_the_instructions(possible, capability, reason):
    assert unreachable(possible, capability) == reason
