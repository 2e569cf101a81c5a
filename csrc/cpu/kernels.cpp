#include "cpu/kernels.h"

#include "simd/cpu.h"

namespace codeshell::simd {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (level() == Level::avx512) return avx512::kernels;
  if (level() == Level::avx2) return avx2::kernels;
#endif
  return baseline::kernels;
}

}  // namespace codeshell::simd
