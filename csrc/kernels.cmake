# The kernels: compiled by nvcc into _C, and by the host compiler into host_kernels for the tests (tests/gpu). Paths are
# from the root. docs/testing-kernels.md says how to add one.
set(CODESHELL_KERNELS
  csrc/adamw/adamw.cu
  csrc/attention/backward_sm90.cu
  csrc/attention/decode_sm90.cu
  csrc/attention/forward_sm90.cu
  csrc/copy/copy.cu
  csrc/rotary/rotary.cu
)
# Their bindings: one file per operation, in every build.
set(CODESHELL_KERNEL_BINDINGS
  csrc/bindings/adamw.cpp
  csrc/bindings/attention.cpp
  csrc/bindings/copy.cpp
  csrc/bindings/decode.cpp
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
