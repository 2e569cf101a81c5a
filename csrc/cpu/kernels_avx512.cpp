// The CPU kernels for AVX-512: vectors of 16 floats. Empty on other processors than x86-64.
// Flags: -ffp-contract=fast (CMakeLists.txt), so that a product and a sum become one instruction where there is one.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

// From here on every function may use the instruction set, although the file is compiled for any x86-64. What lies above
// must not: its inline functions could be shared with other files and run on processors that lack it.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c")
#endif

#define CODESHELL_LANES 16
#define CODESHELL_LEVEL avx512
#include "cpu/level.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
