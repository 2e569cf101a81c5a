"""The order in which the test files begin, and which of them `make test` leaves to `make test-slow`."""

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

SLOW = (
    "ablate/test_ablate_run.py",
    "benchmarks/test_bench_harness.py",
    "benchmarks/test_benchmarks.py",
    "benchmarks/test_gpu_check.py",
    "benchmarks/test_gpu_runner.py",
    "engine/test_process_life.py",
    "engine/test_ray.py",
    "evaluate/sandbox/test_hostile.py",
    "evaluate/sandbox/toolchains/test_toolchain_programs.py",
    "gpu/test_adamw_host.py",
    "gpu/test_attention_backward_host.py",
    "gpu/test_attention_defects_host.py",
    "gpu/test_attention_host.py",
    "gpu/test_built_architectures.py",
    "gpu/test_cubins.py",
    "gpu/test_decode_host.py",
    "ops/test_gelu_triton.py",
    "ops/test_norm_triton.py",
    "test_build.py",
    "train/test_base_memory.py",
)
"""Files with the mark `slow`. Most of them compile: kernels for the host and for each GPU, and the build itself; the
others start many processes. They are half of the suite's time, and `.ci/run` runs both halves."""
