"""The order in which the test files begin, and which of them `make test` leaves to `make test-slow`."""

from __future__ import annotations

LONGEST_FIRST = (
    # Of `make test`.
    "test_run.py",
    "ops/test_gate.py",
    "ops/test_attention.py",
    "train/test_train_command.py",
    "train/test_resume.py",
    "train/test_checkpoints_ranks.py",
    "train/test_loop.py",
    "integrations/test_patch.py",
    "ops/test_rotary.py",
    # Of `make test-slow`. The first one waits for the build of the kernels, which others share.
    "gpu/test_adamw_host.py",
    "gpu/test_cubins.py",
    "ablate/test_ablate_run.py",
    "test_build.py",
    "engine/test_ray.py",
    "gpu/test_attention_defects_host.py",
    "gpu/test_attention_backward_host.py",
    "benchmarks/test_gpu_runner.py",
    "train/test_base_memory.py",
    "ops/test_rotary_inductor.py",
)
"""Files that take 15 seconds of processor time or more: with `--dist loadfile`, a long file that begins last would keep
one process at work when the others have ended."""

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
    "gpu/test_budgets_host.py",
    "gpu/test_built_architectures.py",
    "gpu/test_cubins.py",
    "gpu/test_decode_host.py",
    "gpu/test_first_launches.py",
    "gpu/test_launch_failures_host.py",
    "gpu/test_launching.py",
    "gpu/test_layer.py",
    "gpu/test_loss_host.py",
    "gpu/test_models_host.py",
    "gpu/test_primitives.py",
    "gpu/test_rotary_host.py",
    "gpu/test_simulated_gpus.py",
    "ops/test_gelu_triton.py",
    "ops/test_norm_triton.py",
    "ops/test_rotary_inductor.py",
    "test_build.py",
    "train/test_base_memory.py",
)
"""Files with the mark `slow`. Most of them compile: kernels for the host (every file whose tests take `host_kernels`)
and for each GPU, and the build itself; the others start many processes. They are half of the suite's time, and
`.ci/run` runs both halves."""
