"""How the extension is configured: which kernels are compiled for which GPUs, what wrong settings say, and that the
bindings compile without CUDA. Nothing here compiles a kernel.

Most tests run csrc/architectures.cmake by itself, as a script, with an nvcc and an nvidia-smi that are told what to
answer; two of them configure the project as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.cubins import CSRC, ROOT, cmake_list

ALL = ["80", "86", "89", "90", "100", "120", "80-virtual"]
ADAMW, FORWARD = "csrc/adamw/adamw.cu", "csrc/attention/forward_sm90.cu"

SCRIPT = """
include({csrc}/kernels.cmake)
include({csrc}/architectures.cmake)
codeshell_choose_architectures({with_cuda})
foreach(kernel IN LISTS CODESHELL_KERNELS)
  message(STATUS "${{kernel}}=${{${{kernel}}_ARCHITECTURES}}")
endforeach()
codeshell_write_architectures({out}/written.cpp)
"""


def tool(folder: Path, name: str, answer: str, status: int = 0) -> Path:
    """A program that prints an answer."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
    path.chmod(0o755)
    return path


def cmake() -> str:
    found = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not found:
        pytest.skip("no cmake: the build's settings are NOT checked")
    return found


class Chooser:
    """Runs the script with a toolkit and a machine that are made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nvcc(13.0)

    def nvcc(self, version: float) -> None:
        """This nvcc knows the GPUs that there were when its version came out."""
        known = [75, 80, 86, 87, 89, 90] + [100, 120] * (version >= 12.8)
        self.version = str(version)
        self.compiler = tool(self.folder, "nvcc", "\n".join(f"compute_{number}" for number in known))

    def gpus(self, *capabilities: str) -> None:
        tool(self.folder, "nvidia-smi", "\n".join(capabilities))

    def run(self, asked: str, with_cuda: str = "ON") -> tuple[int, str]:
        script = self.folder / "script.cmake"
        script.write_text(SCRIPT.format(csrc=CSRC, with_cuda=with_cuda, out=self.folder))
        settings = {
            "CODESHELL_ARCHITECTURES": asked,
            "CMAKE_CUDA_COMPILER": str(self.compiler),
            "CMAKE_CUDA_COMPILER_VERSION": self.version,
        }
        command = [cmake(), *(f"-D{key}={value}" for key, value in settings.items()), "-P", str(script)]
        environment = os.environ | {"PATH": f"{self.folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    def chosen(self, asked: str, with_cuda: str = "ON") -> dict[str, list[str]]:
        """The architectures of each kernel."""
        status, said = self.run(asked, with_cuda)
        assert status == 0, said
        pairs = re.findall(r"^-- (csrc/\S+)=(\S*)$", said, re.M)
        assert len(pairs) == len(cmake_list("CODESHELL_KERNELS"))
        return {kernel: names.split(";") if names else [] for kernel, names in pairs}

    def refused(self, asked: str) -> str:
        """The line that ends the configuration."""
        status, said = self.run(asked)
        assert status != 0
        (line,) = re.findall(r"^\s+codeshell: (.*)$", said, re.M)
        return str(line)


@pytest.fixture
def chooser(tmp_path: Path) -> Chooser:
    return Chooser(tmp_path)


@pytest.mark.parametrize("asked", ["all", ""])
def test_by_default_each_kernel_is_compiled_for_all_that_its_list_says(chooser: Chooser, asked: str) -> None:
    chosen = chooser.chosen(asked)
    assert cmake_list("CODESHELL_ALL_ARCHITECTURES") == ALL and cmake_list("CODESHELL_HOPPER_ARCHITECTURES") == ["90a"]
    hopper = cmake_list("CODESHELL_HOPPER_KERNELS")
    assert set(hopper) < set(chosen)
    for kernel, names in chosen.items():
        assert names == (["90a"] if kernel in hopper else ALL), kernel


@pytest.mark.parametrize(
    ("asked", "everywhere", "hopper"),
    [
        ("80;86", ["80", "86"], []),
        ("8.6, 8.0", ["80", "86"], []),
        ("sm_120 10.0", ["100", "120"], []),
        ("90", ["90"], ["90a"]),
        ("9.0a", ["90"], ["90a"]),
        ("89,80-virtual", ["89", "80-virtual"], []),
        ("80-virtual", ["80-virtual"], []),
    ],
)
def test_a_list_narrows_each_kernel(chooser: Chooser, asked: str, everywhere: list[str], hopper: list[str]) -> None:
    chosen = chooser.chosen(asked)
    assert (chosen[ADAMW], chosen[FORWARD]) == (everywhere, hopper)


@pytest.mark.parametrize("piece", ["75", "81", "banana", "80a", "8", "12.0+PTX", "90-real", "-80", "native", "all"])
def test_an_unknown_architecture_is_one_line_with_the_remedy(chooser: Chooser, piece: str) -> None:
    line = chooser.refused(f"80;{piece}")
    assert line.startswith(f'CODESHELL_ARCHITECTURES: "{piece}" is none of 80, 86, 89, 90, 100, 120, 80-virtual (')
    assert "native, all" in line


@pytest.mark.parametrize("asked", ["80;;86", "80;", ",86", ";"])
def test_an_empty_piece_is_refused(chooser: Chooser, asked: str) -> None:
    assert chooser.refused(asked).startswith('CODESHELL_ARCHITECTURES: "" is none of')


@pytest.mark.parametrize(
    ("capabilities", "everywhere", "hopper"),
    [
        (["8.0"], ["80"], []),
        (["8.7"], ["80-virtual"], []),
        (["9.0", "9.0"], ["90"], ["90a"]),
        (["10.3"], ["100"], []),
        (["12.1"], ["120"], []),
        (["11.0"], ["80-virtual"], []),
        (["7.5", "8.9"], ["89"], []),
        (["8.6", "9.0"], ["86", "90"], ["90a"]),
    ],
)
def test_native_is_what_the_machines_gpus_run(
    chooser: Chooser, capabilities: list[str], everywhere: list[str], hopper: list[str]
) -> None:
    chooser.gpus(*capabilities)
    chosen = chooser.chosen("native")
    assert (chosen[ADAMW], chosen[FORWARD]) == (everywhere, hopper)


def test_native_without_a_gpu_that_serves_is_refused(chooser: Chooser) -> None:
    assert "nvidia-smi finds no GPU on this machine; name the architectures" in chooser.refused("native")
    tool(chooser.folder, "nvidia-smi", "NVIDIA-SMI has failed because it could not talk to the driver 8.0", status=9)
    assert "nvidia-smi finds no GPU" in chooser.refused("native")
    chooser.gpus("7.0", "7.5")
    assert "older than 8.0" in chooser.refused("native") and "CODESHELL_CUDA=0" in chooser.refused("native")


def test_an_old_nvcc_leaves_out_what_it_does_not_know_unless_it_is_asked_for(chooser: Chooser) -> None:
    chooser.nvcc(12.1)
    assert chooser.chosen("all")[ADAMW] == ["80", "86", "89", "90", "80-virtual"]
    assert "left out 100, 120, for which nvcc 12.1 cannot compile" in chooser.run("all")[1]
    line = chooser.refused("80;120")
    assert (
        "nvcc 12.1 cannot compile for 120; put a newer nvcc first on PATH, or use CODESHELL_ARCHITECTURES=all" in line
    )
    chooser.nvcc(11.8)
    assert "is of CUDA 11.8, and the kernels need 12.0 or newer; put a newer nvcc first" in chooser.refused("all")


def test_without_cuda_nothing_is_chosen_and_the_spelling_is_still_checked(chooser: Chooser) -> None:
    assert set(map(tuple, chooser.chosen("all", with_cuda="OFF").values())) == {()}
    assert set(map(tuple, chooser.chosen("native", with_cuda="OFF").values())) == {()}
    status, said = chooser.run("banana", with_cuda="OFF")
    assert status != 0 and '"banana" is none of' in said


def test_what_was_chosen_is_written_for_the_extension(chooser: Chooser) -> None:
    def written(asked: str) -> list[str]:
        chooser.chosen(asked)
        return re.findall(r'return "(.*)";', (chooser.folder / "written.cpp").read_text())

    pairs, possible, summary = written("all")
    assert pairs == possible
    assert "adamw/adamw.cu=80,86,89,90,100,120,80-virtual;" in pairs and "attention/forward_sm90.cu=90a" in pairs
    assert summary == "80, 86, 89, 90, 90a, 100, 120, PTX of 80"
    pairs, still_possible, summary = written("86")
    assert still_possible == possible
    assert "adamw/adamw.cu=86;" in pairs and "attention/forward_sm90.cu=;" in pairs
    assert summary == "86"


def configure(build: Path, **settings: str) -> tuple[int, str]:
    """Configure the project itself, without compiling anything."""
    import pybind11

    values = {"pybind11_DIR": pybind11.get_cmake_dir(), "Python_EXECUTABLE": sys.executable} | settings
    command = [cmake(), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *(f"-D{k}={v}" for k, v in values.items())]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_a_build_folder_takes_another_setting(tmp_path: Path) -> None:
    status, said = configure(tmp_path, CODESHELL_CUDA="0")
    assert status == 0 and "codeshell: building WITHOUT CUDA" in said
    commands = (tmp_path / "build.ninja").read_text()
    assert "device_none.cpp" in commands and "device.cu.o" not in commands and "CODESHELL_WITH_KERNELS" not in commands
    for settings, line in [
        ({"CODESHELL_CUDA": "maybe"}, 'CODESHELL_CUDA: "maybe" is not auto, 1 or 0'),
        ({"CODESHELL_CUDA": "0", "CODESHELL_DEBUG_KERNELS": "7"}, 'CODESHELL_DEBUG_KERNELS: "7" is not 1 or 0'),
    ]:
        status, said = configure(tmp_path, **settings)
        assert status != 0 and f" codeshell: {line}\n" in said
    # With CUDA, if there is one: the flags of each kernel.
    if not (os.environ.get("CUDACXX") or shutil.which("nvcc")):
        pytest.skip("no nvcc: the flags of the kernels are NOT checked")
    for asked, names in [("all", ("80", "120")), ("86", ("86",))]:
        status, said = configure(
            tmp_path, CODESHELL_CUDA="1", CODESHELL_DEBUG_KERNELS="0", CODESHELL_ARCHITECTURES=asked
        )
        assert status == 0, said
        commands = (tmp_path / "build.ninja").read_text()
        for name in names:
            assert f"--generate-code=arch=compute_{name},code=[sm_{name}]" in commands
        assert ("sm_80]" in commands, "sm_90a]" in commands, "compute_80]" in commands) == (asked == "all",) * 3
        assert ("CODESHELL_WITHOUT_HOPPER_KERNELS" in commands) == (asked == "86")


def undefined(sources: list[str], *defines: str, folder: Path) -> set[str]:
    """Compiles C++ sources without optimisation; the functions of codeshell that they call and do not have."""
    import pybind11

    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler or not shutil.which("nm"):
        pytest.skip("no C++ compiler: a build without kernels is NOT checked")
    includes = [CSRC, sysconfig.get_path("include"), pybind11.get_include()]
    flags = ["-std=c++20", "-O0", "-fPIC", "-fvisibility=hidden", '-DCODESHELL_COMPILER="a compiler"', *defines]
    flags += [f"-I{path}" for path in includes]

    def compiled(source: str) -> str:
        file = folder / f"{Path(source).stem}.o"
        done = subprocess.run([compiler, *flags, "-c", source, "-o", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return str(file)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))

    def symbols(option: str) -> set[str]:
        done = subprocess.run(["nm", "-C", option, *objects], capture_output=True, text=True, check=True)
        return set(re.findall(r"^[0-9a-f ]+[A-Za-z] (codeshell::[^(<\[]*)", done.stdout, re.M))

    return symbols("--undefined-only") - symbols("--defined-only")


@pytest.mark.timeout(600)
def test_the_bindings_compile_without_cuda_and_ask_for_no_kernel(tmp_path: Path) -> None:
    """All files that see `kHasKernels`; every function that they call exists in a .cpp."""
    bindings = [f"{ROOT}/{name}" for name in cmake_list("CODESHELL_KERNEL_BINDINGS")]
    # Others are compiled in the same way with CUDA.
    sources = [path for path in bindings if "kHas" in Path(path).read_text()]
    assert {Path(path).name for path in set(bindings) - set(sources)} == {"tensors.cpp"}
    sources += [f"{CSRC}/bindings/module.cpp", f"{CSRC}/gpu/device_none.cpp"]
    called = undefined(sources, folder=tmp_path)
    others = [path for path in CSRC.rglob("*.cpp") if str(path) not in sources]
    elsewhere = "\n".join(path.read_text() for path in [*others, CSRC / "architectures.cmake", *CSRC.rglob("*.inc")])
    elsewhere += (ROOT / "codeshell" / "kernels.py").read_text()  # which writes kernel_sources()
    assert called
    assert not {name for name in called if not re.search(rf"\b{re.escape(name.split('::')[-1])}\(", elsewhere)}


@pytest.mark.timeout(600)
def test_the_bindings_of_hopper_kernels_ask_for_none_where_they_are_left_out(tmp_path: Path) -> None:
    sources = [str(path) for path in sorted((CSRC / "bindings").glob("*.cpp")) if "kHasHopper" in path.read_text()]
    assert sources
    called = undefined(sources, "-DCODESHELL_WITH_KERNELS", "-DCODESHELL_WITHOUT_HOPPER_KERNELS", folder=tmp_path)
    hopper = "\n".join((ROOT / name).read_text() for name in cmake_list("CODESHELL_HOPPER_KERNELS"))
    assert not {name for name in called if re.search(rf"^\S*Error {re.escape(name.split('::')[-1])}\(", hopper, re.M)}
    assert "codeshell::attention_backward_workspace" not in called
