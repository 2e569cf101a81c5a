"""The CUDA sources with these headers of the CUDA runtime: every file passes nvcc's front ends, host and device.

The headers decide which functions of the runtime exist. The compiler is that of this machine, because other versions
of nvcc come in no small package; so this shows what the sources need of a runtime, not what another compiler makes of
them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers.cubins import CSRC, FLAGS, cmake_list, nvcc

SOURCES = sorted(path.relative_to(CSRC).as_posix() for path in CSRC.glob("*/*.cu"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("source", SOURCES)
def test_the_source_needs_no_newer_runtime(source: str, tmp_path: Path) -> None:
    # The package's folder is named after the version, such as cuda-12.4: what the headers must then say.
    folder = os.environ.get("CODESHELL_VERSIONS", "")
    headers, checks = [], ""
    if version := re.search(r"cuda-(\d+)\.(\d+)$", folder):
        headers = [f"-I{folder}/nvidia/cuda_runtime/include"]
        checks = f"static_assert(CUDART_VERSION / 10 == {int(version[1]) * 100 + int(version[2])});\n"
    if "-fdevice-syntax-only" not in subprocess.run([nvcc(), "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this nvcc cannot stop after its front ends: the runtime's headers are NOT checked")
    portable = f"csrc/{source}" in set(cmake_list("CODESHELL_KERNELS")) - set(cmake_list("CODESHELL_HOPPER_KERNELS"))
    name = "80" if portable else "90a"
    unit = tmp_path / "unit.cu"
    unit.write_text(f'#include "{source}"\n#include <cuda_runtime.h>\n{checks}')
    command = [nvcc(), *FLAGS, *headers, f"-gencode=arch=compute_{name},code=sm_{name}", "-fdevice-syntax-only"]
    done = subprocess.run([*command, "--cuda", str(unit), "-o", os.devnull], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
