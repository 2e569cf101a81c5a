// CUDA's language and the part of its library that the kernels use, for a host compiler. Keywords vanish, collectives
// meet the other lanes in the scheduler (runtime.h), the rest is plain C++.
#pragma once

#define CODESHELL_HOST_GPU_LANGUAGE 1

#include <math.h>
#include <string.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "gpu/host/runtime.h"
#include "gpu/host/vectors.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time on a thread, so a thread's static is a block's; the runtime finds and poisons them all.
#define __shared__ static thread_local

// Barriers and fences -------------------------------------------------------------------------------------------------

inline void __syncthreads(codeshell::gpu::host::Site site = codeshell::gpu::host::Site::current()) {
  codeshell::gpu::host::barrier_sync(0, -1, site);
}

// Memory is sequentially consistent here: threads of a block run one at a time, and blocks one after another.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned int) {}

// Warp collectives ----------------------------------------------------------------------------------------------------

namespace codeshell::gpu::host {

inline constexpr unsigned int kFullMask = 0xffffffffu;

// The running thread's warp, as a meeting of the lanes in the mask.
inline Meeting warp_meeting(unsigned int mask) { return {linear_thread() / kWarp * kWarp, kWarp, {mask, 0}}; }

// What a lane brings to a shuffle and takes away.
template <class T>
struct Exchange {
  T value;
  int source;  // the lane to read, or negative for the own value
};

// A shuffle: the last lane to come reads all values first, because results go to the same places.
template <class T>
T shuffle(unsigned int mask, const char* what, T value, int source, Site site) {
  // What CUDA can shuffle.
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2));
  Exchange<T> mine{value, source};
  meet(
      warp_meeting(mask), what,
      [](void* const* offers) {
        // All values first, then what each lane reads.
        Exchange<T>* lanes[kWarp];
        T values[kWarp];
        for (int i = 0; i < kWarp; ++i) {
          lanes[i] = static_cast<Exchange<T>*>(offers[i]);
          if (lanes[i]) values[i] = lanes[i]->value;
        }
        for (int i = 0; i < kWarp; ++i) {
          if (!lanes[i] || lanes[i]->source < 0) continue;
          // The source may be a lane that is not in the mask.
          if (lanes[lanes[i]->source]) {
            lanes[i]->value = values[lanes[i]->source];
          } else {
            memset(&lanes[i]->value, 0xff, sizeof(T));  // a lane outside the mask: undefined
          }
        }
      },
      &mine, site);
  return mine.value;
}

// Votes of the lanes in the mask; those outside count as false.
inline unsigned int ballot(unsigned int mask, const char* what, bool predicate, Site site) {
  struct Vote {
    bool predicate;
    unsigned int result;
  } mine{predicate, 0};
  meet(
      warp_meeting(mask), what,
      [](void* const* offers) {
        unsigned int result = 0;
        for (int i = 0; i < kWarp; ++i) {
          if (offers[i] && static_cast<Vote*>(offers[i])->predicate) result |= 1u << i;
        }
        for (int i = 0; i < kWarp; ++i) {
          if (offers[i]) static_cast<Vote*>(offers[i])->result = result;
        }
      },
      &mine, site);
  return mine.result;
}

// The lanes of a segment of `width` lanes that this lane may read, as shfl does it.
inline int segment(int width) { return lane() & ~(width - 1); }

}  // namespace codeshell::gpu::host

#define CODESHELL_SITE codeshell::gpu::host::Site site = codeshell::gpu::host::Site::current()

inline void __syncwarp(unsigned int mask = codeshell::gpu::host::kFullMask, CODESHELL_SITE) {
  codeshell::gpu::host::ballot(mask, "__syncwarp", false, site);
}

// CUDA's collectives: each computes the lane to read, within a segment of `width` lanes, as CUDA defines it. A lane
// beyond the segment gives the own value.
template <class T>
T __shfl_sync(unsigned int mask, T value, int source, int width = 32, CODESHELL_SITE) {
  const int from = codeshell::gpu::host::segment(width) + (source & (width - 1));
  return codeshell::gpu::host::shuffle(mask, "__shfl_sync", value, from, site);
}

// Lane l reads lane l ^ bits: butterflies.
template <class T>
T __shfl_xor_sync(unsigned int mask, T value, int bits, int width = 32, CODESHELL_SITE) {
  const int from = codeshell::gpu::host::lane() ^ bits;
  const bool inside = from < codeshell::gpu::host::segment(width) + width;
  return codeshell::gpu::host::shuffle(mask, "__shfl_xor_sync", value, inside ? from : -1, site);
}

// Lane l reads lane l + delta.
template <class T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = 32, CODESHELL_SITE) {
  const int from = codeshell::gpu::host::lane() + static_cast<int>(delta);
  const bool inside = from < codeshell::gpu::host::segment(width) + width;
  return codeshell::gpu::host::shuffle(mask, "__shfl_down_sync", value, inside ? from : -1, site);
}

// Lane l reads lane l - delta.
template <class T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = 32, CODESHELL_SITE) {
  const int from = codeshell::gpu::host::lane() - static_cast<int>(delta);
  const bool inside = from >= codeshell::gpu::host::segment(width);
  return codeshell::gpu::host::shuffle(mask, "__shfl_up_sync", value, inside ? from : -1, site);
}

// The lanes whose predicate holds, as bits; whether any, or all lanes of the mask do.
inline unsigned int __ballot_sync(unsigned int mask, bool predicate, CODESHELL_SITE) {
  return codeshell::gpu::host::ballot(mask, "__ballot_sync", predicate, site);
}

inline int __any_sync(unsigned int mask, bool predicate, CODESHELL_SITE) {
  return codeshell::gpu::host::ballot(mask, "__any_sync", predicate, site) != 0;
}

inline int __all_sync(unsigned int mask, bool predicate, CODESHELL_SITE) {
  return codeshell::gpu::host::ballot(mask, "__all_sync", predicate, site) == mask;
}

// The sum over all lanes, which must all take part.
inline unsigned int __reduce_add_sync(unsigned int mask, unsigned int value, CODESHELL_SITE) {
  for (int bits = 16; bits > 0; bits /= 2)
    value += codeshell::gpu::host::shuffle(mask, "__reduce_add_sync", value, codeshell::gpu::host::lane() ^ bits, site);
  return value;
}

// Any subset that holds the caller is a valid answer on a GPU; the smallest is the one that finds wrong uses.
inline unsigned int __activemask() { return 1u << codeshell::gpu::host::lane(); }

#undef CODESHELL_SITE

// Atomics: nothing else runs between two of a thread's waiting points, so plain code is atomic.

// Returns what was there before.
#define CODESHELL_ATOMIC(name, expression)            \
  template <class T>                                  \
  T name(T* address, std::type_identity_t<T> value) { \
    const T old = *address;                           \
    *address = (expression);                          \
    return old;                                       \
  }
CODESHELL_ATOMIC(atomicAdd, static_cast<T>(old + value))
CODESHELL_ATOMIC(atomicSub, static_cast<T>(old - value))
CODESHELL_ATOMIC(atomicMax, old < value ? value : old)
CODESHELL_ATOMIC(atomicMin, value < old ? value : old)
CODESHELL_ATOMIC(atomicExch, value)
CODESHELL_ATOMIC(atomicAnd, static_cast<T>(old& value))
CODESHELL_ATOMIC(atomicOr, static_cast<T>(old | value))
CODESHELL_ATOMIC(atomicXor, static_cast<T>(old ^ value))
#undef CODESHELL_ATOMIC

// Writes only where the old value is the one expected.
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}

// Counts from 0 to `limit` and starts again.
inline unsigned int atomicInc(unsigned int* address, unsigned int limit) {
  const unsigned int old = *address;
  *address = old >= limit ? 0 : old + 1;
  return old;
}

// Loads and stores with a cache operator ------------------------------------------------------------------------------

// There are no caches to choose from, so all are plain accesses.
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
// Stores with a cache operator.
template <class T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}
template <class T>
void __stcg(T* address, std::type_identity_t<T> value) {
  *address = value;
}

// Arithmetic ----------------------------------------------------------------------------------------------------------

// Correctly rounded or the library's: the device's approximations differ in the last bits.
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Bits.
inline unsigned int __float_as_uint(float x) { return std::bit_cast<unsigned int>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned int x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// Counts and positions of bits; __ffs counts from 1, and 0 has none.
inline int __popc(unsigned int x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned int>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned int>(x)) + 1 : 0; }
// The upper half of a product.
inline unsigned int __umulhi(unsigned int x, unsigned int y) {
  return static_cast<unsigned int>(static_cast<uint64_t>(x) * y >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}

// CUDA has them as overloads in the global namespace.
#define CODESHELL_MIN_MAX(T)                       \
  inline T min(T x, T y) { return y < x ? y : x; } \
  inline T max(T x, T y) { return x < y ? y : x; }
CODESHELL_MIN_MAX(int)
CODESHELL_MIN_MAX(unsigned int)
CODESHELL_MIN_MAX(long)
CODESHELL_MIN_MAX(unsigned long)
CODESHELL_MIN_MAX(long long)
CODESHELL_MIN_MAX(unsigned long long)
CODESHELL_MIN_MAX(float)
CODESHELL_MIN_MAX(double)
#undef CODESHELL_MIN_MAX
