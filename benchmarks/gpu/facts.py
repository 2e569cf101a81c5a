"""Writes what runs here, and on which device: `facts.py FILE`. In a process of its own, which has the built package and
may start CUDA. It also computes something on the device, so that a GPU that does not answer is known before any row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))


def facts(out: Path) -> None:
    import harness
    import torch

    from codeshell import _C
    from codeshell.engine.files import write_json
    from codeshell.environment import environment
    from codeshell.kernels import hashes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if float(torch.ones(8, device=device).sum()) != 8:
        raise SystemExit(f"{device}: a sum of eight ones is not 8")
    found: dict[str, Any] = {
        "device": harness.device_facts(device),
        "environment": environment(torch.get_num_threads()) | {"command": "gpu_check.py"},
        "kernels": hashes(),
        "module": {
            "cuda_built": _C.cuda_built,
            "architectures": _C.cuda_architectures,
            "compiler": _C.compiler,
            "debug_kernels": getattr(_C, "debug_kernels", False),
        },
    }
    write_json(out, found)


if __name__ == "__main__":
    print("reading the device", flush=True)
    facts(Path(sys.argv[1]))
