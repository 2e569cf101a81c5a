// Chooses the table of this processor, and hands each operation its part of it.
#include "cpu/kernels.h"

#include "simd/cpu.h"

namespace codeshell {

namespace {

// The table of simd::level(), which is fixed for the process (and lowered by CODESHELL_SIMD).
const cpu::Kernels& chosen() {
#if defined(__x86_64__)
  if (simd::level() == simd::Level::avx512) return avx512::kernels;
  if (simd::level() == simd::Level::avx2) return avx2::kernels;
#endif
  return baseline::kernels;
}

}  // namespace

const activation::CpuKernels& activation::cpu_kernels() { return chosen().activation; }
const adamw::CpuKernels& adamw::cpu_kernels() { return chosen().adamw; }
const attention::CpuKernels& attention::cpu_kernels() { return chosen().attention; }
const int8::CpuKernels& int8::cpu_kernels() { return chosen().int8; }
const loss::CpuKernels& loss::cpu_kernels() { return chosen().loss; }
const norm::CpuKernels& norm::cpu_kernels() { return chosen().norm; }
const product::CpuKernels& product::cpu_kernels() { return chosen().product; }
const rotary::CpuKernels& rotary::cpu_kernels() { return chosen().rotary; }

}  // namespace codeshell
