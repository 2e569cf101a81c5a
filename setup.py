"""Builds the extension `codeshell._C` with CMake and ninja; everything else is in pyproject.toml."""

from __future__ import annotations

import os
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
    """Configures and builds with CMake; CODESHELL_CUDA=1|0 forces or leaves out CUDA, and it says which it made."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A directory of its own per interpreter: the CMake cache remembers one Python.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-{os.uname().machine}"
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
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
                f"-DCODESHELL_CUDA={os.environ.get('CODESHELL_CUDA', 'auto')}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build)], check=True)
        text = (build / "CMakeCache.txt").read_text()
        cuda = "CMAKE_CUDA_COMPILER:" in text and "CMAKE_CUDA_COMPILER-NOTFOUND" not in text
        print(f"codeshell: built {target.name} {'with' if cuda else 'WITHOUT'} CUDA", flush=True)


setup(
    ext_modules=[Extension("codeshell._C", sources=[])], cmdclass={"build_ext": CMakeBuild, "build_py": WithBenchmarks}
)
