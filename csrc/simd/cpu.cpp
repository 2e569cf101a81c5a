// Asks the processor for its instruction sets; x86-64 has three levels, AArch64 always has NEON.
#include "simd/cpu.h"

#include <cstdlib>
#include <cstring>

namespace codeshell::simd {

namespace {

// AVX2 comes with BMI2, FMA and F16C, which kernels use beside it; AVX-512 is F, BW, DQ and VL. A level counts only if
// all of its parts are there.
Level detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  Level best = avx512 ? Level::avx512 : avx2 ? Level::avx2 : Level::scalar;
  // The wish can only lower what was found.
  if (const char* wish = std::getenv("CODESHELL_SIMD")) {
    if (!std::strcmp(wish, "scalar")) best = Level::scalar;
    if (!std::strcmp(wish, "avx2") && best == Level::avx512) best = Level::avx2;
  }
  return best;
#elif defined(__aarch64__)
  const char* wish = std::getenv("CODESHELL_SIMD");
  return wish && !std::strcmp(wish, "scalar") ? Level::scalar : Level::neon;
#else
  return Level::scalar;
#endif
}

}  // namespace

// Asked once; a function's static is safe with several threads.
Level level() {
  static const Level chosen = detect();
  return chosen;
}

std::string level_name() {
  switch (level()) {
    case Level::avx512: return "avx512";
    case Level::avx2: return "avx2";
    case Level::neon: return "neon";
    case Level::scalar: break;
  }
  return "scalar";
}

}  // namespace codeshell::simd
