// The CPU kernels for AVX2.
// Flags: -ffp-contract=fast (CMakeLists.txt), so that a product and a sum become one instruction where there is one.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,f16c")
#endif

#define CODESHELL_LANES 8

namespace codeshell::avx2 {
namespace {
#include "cpu/vector.inc"
// The kernels, in the order of simd::Kernels.
#include "activation/gelu_cpu.inc"
#include "adamw/adamw_cpu.inc"
#include "attention/attention_cpu.inc"
#include "loss/cross_entropy_cpu.inc"
#include "rotary/rotary_cpu.inc"
}  // namespace

const simd::Kernels kernels{attend,        differentiate, gelu,       gelu_backward,
                            cross_entropy, rotate,        adamw_step, sum_of_squares};

}  // namespace codeshell::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
