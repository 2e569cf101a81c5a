# The kernels: compiled by nvcc into _C, and by the host compiler into host_kernels for the tests (tests/gpu). Paths are
# from the root. docs/testing-kernels.md says how to add one.
set(CODESHELL_KERNELS
  csrc/adamw/adamw.cu
  csrc/attention/backward_sm90.cu
  csrc/attention/decode_sm90.cu
  csrc/attention/forward_sm90.cu
  csrc/copy/copy.cu
  csrc/loss/softmax_gradient.cu
  csrc/rotary/rotary.cu
)
# What a kernel is compiled for, in CMake's names without "-real": machine code of the GPUs that people own, and PTX for
# those that come later. Code of X.Y runs on every later X.Z too: 86 on 8.9, 100 on 10.3, 120 on 12.1.
set(CODESHELL_ALL_ARCHITECTURES 80 86 89 90 100 120 80-virtual)
# Kernels with wgmma and TMA use instructions that Hopper alone has: "90a" is code for 9.0 and nothing else.
set(CODESHELL_HOPPER_KERNELS
  csrc/attention/backward_sm90.cu
  csrc/attention/decode_sm90.cu
  csrc/attention/forward_sm90.cu
)
set(CODESHELL_HOPPER_ARCHITECTURES 90a)
# Their bindings: one file per operation, in every build.
set(CODESHELL_KERNEL_BINDINGS
  csrc/bindings/adamw.cpp
  csrc/bindings/attention.cpp
  csrc/bindings/copy.cpp
  csrc/bindings/decode.cpp
  csrc/bindings/loss.cpp
  csrc/bindings/rotary.cpp
  csrc/bindings/tensors.cpp
)
# What the bindings also need: the CPU kernels, which they bind as well.
set(CODESHELL_KERNEL_CPU_SOURCES
  csrc/rotary/rotary_cpu.cpp
  csrc/adamw/adamw_cpu.cpp
  csrc/simd/cpu.cpp
  csrc/cpu/kernels.cpp
  csrc/cpu/kernels_avx2.cpp
  csrc/cpu/kernels_avx512.cpp
  csrc/cpu/kernels_baseline.cpp
  csrc/simd/parallel.cpp
)
