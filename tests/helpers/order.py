"""The order in which the test files begin."""

from __future__ import annotations

LONGEST_FIRST = (
    "gpu/test_adamw_host.py",
    "gpu/test_cubins.py",
    "test_run.py",
    "test_build.py",
    "engine/test_ray.py",
    "gpu/test_attention_defects_host.py",
    "gpu/test_attention_backward_host.py",
    "ops/test_gate.py",
    "ops/test_rotary.py",
    "ops/test_attention.py",
    "train/test_train_command.py",
    "benchmarks/test_gpu_runner.py",
    "train/test_resume.py",
    "train/test_loop.py",
    "integrations/test_patch.py",
)
"""Files that take 15 seconds of processor time or more: with `--dist loadfile`, a long file that begins last would keep
one process at work when the others have ended. The first one waits for the build of the kernels, which others share."""
