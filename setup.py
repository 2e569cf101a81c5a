"""Builds the extension `codeshell._C` with CMake and ninja; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class WithBenchmarks(build_py):
    """Puts benchmarks/ with its results into the wheel, as codeshell/benchmarks: `codeshell bench` and `codeshell info
    --kernels` need them. In a checkout (editable installation) they are used where they lie."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "codeshell" / "benchmarks"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "benchmarks", target, ignore=shutil.ignore_patterns("__pycache__"))


class CMakeBuild(build_ext):
    """Configures and builds with CMake, and says what it made. Variables of the environment choose, and each build
    takes them anew: CODESHELL_CUDA (auto, 1, 0), CODESHELL_ARCHITECTURES (all, native, or a list such as 80,86),
    CODESHELL_DEBUG_KERNELS (0, 1), CODESHELL_TREE_SITTER (auto, 1, 0, or the folder of its sources)."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A directory of its own per interpreter: the CMake cache remembers one Python.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-{os.uname().machine}"
        build.mkdir(parents=True, exist_ok=True)
        command = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            # Build isolation puts ninja and pybind11 into a new temporary place each time: never trust the cache.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCODESHELL_CUDA={os.environ.get('CODESHELL_CUDA') or 'auto'}",
            f"-DCODESHELL_ARCHITECTURES={os.environ.get('CODESHELL_ARCHITECTURES') or 'all'}",
            f"-DCODESHELL_DEBUG_KERNELS={os.environ.get('CODESHELL_DEBUG_KERNELS') or '0'}",
            f"-DCODESHELL_TREE_SITTER={os.environ.get('CODESHELL_TREE_SITTER') or 'auto'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
        ]
        configured = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        print(configured.stdout, flush=True)
        # csrc/architectures.cmake writes its errors as one line, which is to be the last that pip shows.
        said = re.findall(r"^\s+codeshell: (.*)", configured.stdout, re.M)
        if configured.returncode:
            raise SystemExit(f"codeshell: error: {said[-1] if said else 'CMake could not configure the build (above)'}")
        if subprocess.run(["cmake", "--build", str(build)]).returncode:
            raise SystemExit("codeshell: error: the extension does not compile here; the compiler's words are above")
        made = re.findall(r"^-- codeshell: building (.*)", configured.stdout, re.M)
        print(f"codeshell: built {target.name} {made[-1]}", flush=True)
        for without in re.findall(r"^-- codeshell: (WITHOUT metrics of syntax trees.*)", configured.stdout, re.M):
            print(f"codeshell: {without}", flush=True)


setup(
    ext_modules=[Extension("codeshell._C", sources=[])], cmdclass={"build_ext": CMakeBuild, "build_py": WithBenchmarks}
)
