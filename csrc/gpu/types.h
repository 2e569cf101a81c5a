// The 16-bit floating-point types, and conversions that round to nearest even; for kernels, their host execution and
// the CPU kernels that share their arithmetic.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CODESHELL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CODESHELL_HOST_DEVICE inline
#endif

namespace codeshell::gpu {

// Each is its 16 bits, so that host compilers without such types have them too.
struct bf16 {
  uint16_t bits;
};

struct fp16 {
  uint16_t bits;
};

static_assert(sizeof(bf16) == 2 && sizeof(fp16) == 2);

namespace detail {

// The 32 bits of an fp32 value, and back.
CODESHELL_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

CODESHELL_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

}  // namespace detail

// To fp32, which is exact.
CODESHELL_HOST_DEVICE float to_float(float value) { return value; }

// bf16 is the upper half of an fp32.
CODESHELL_HOST_DEVICE float to_float(bf16 value) { return detail::float_of(static_cast<uint32_t>(value.bits) << 16); }

// fp16 has 5 bits of exponent and 10 of fraction: an instruction on the device, rebased by hand on the host.
CODESHELL_HOST_DEVICE float to_float(fp16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Infinities and NaNs keep the highest exponent.
  if (magnitude >= 0x7c00u) return detail::float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude < 0x400u) {  // zero and subnormal: a multiple of 2^-24
    const float absolute = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    return detail::float_of(sign | detail::bits_of(absolute));
  }
  // Normal: the fraction moves up by 13 bits, and the exponent's bias grows from 15 to 127.
  return detail::float_of(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

// From fp32, rounded to nearest, ties to even. A NaN becomes the NaN that the device's instruction gives.
template <class T>
CODESHELL_HOST_DEVICE T from_float(float value);

template <>
CODESHELL_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

// One instruction on the device; on the host the same bits from integers.
template <>
CODESHELL_HOST_DEVICE bf16 from_float<bf16>(float value) {
#if defined(__CUDA_ARCH__)
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = detail::bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // the NaN of the device's cvt
  // Half a unit less one, plus the last bit that stays: ties go to even, and a carry may raise the exponent.
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
#endif
}

// The same for fp16, whose subnormals and overflow are cases of their own on the host.
template <>
CODESHELL_HOST_DEVICE fp16 from_float<fp16>(float value) {
#if defined(__CUDA_ARCH__)
  fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = detail::bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return {0x7fff};                                  // the NaN of the device's cvt
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or beyond
  // Below 2^-14 a result is subnormal: adding 1/2, whose last bit is 2^-24, rounds to a multiple of that.
  if (magnitude < 0x38800000u) {
    const float shifted = detail::float_of(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (detail::bits_of(shifted) - 0x3f000000u))};
  }
  // Normal: round at bit 13, then rebase the exponent.
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
#endif
}

}  // namespace codeshell::gpu
