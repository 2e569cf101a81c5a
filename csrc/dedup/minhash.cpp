#include "dedup/minhash.h"

#include <algorithm>
#include <cstring>

#include "dedup/hash.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace codeshell::dedup {

namespace {

// Lowers minima[0 .. lane_block) by all shingles, for one block of multipliers. All kernels below have the same shape:
// minima and multipliers of some lanes stay in registers while all shingles pass by; then the next lanes take their
// turn.
using Minima = void (*)(const uint64_t* shingles, size_t count, const uint32_t* multipliers, uint32_t* minima);

// The definition. The inner loop runs over lanes, so that the compiler can vectorise it with whatever the platform has.
void minima_scalar(const uint64_t* shingles, size_t count, const uint32_t* multipliers, uint32_t* minima) {
  uint32_t best[lane_block];
  std::copy_n(minima, lane_block, best);
  for (size_t s = 0; s < count; ++s) {
    const auto low = static_cast<uint32_t>(shingles[s]);
    const auto high = static_cast<uint32_t>(shingles[s] >> 32);
    for (size_t i = 0; i < lane_block; ++i) best[i] = std::min(best[i], multipliers[i] * low + high);
  }
  std::copy_n(best, lane_block, minima);
}

#if defined(__x86_64__)

// The halves of a shingle. The broadcast reads each of them from memory itself; by way of a general register each would
// cost the vector units two instructions more.
inline int low_half(const uint64_t* shingle) {
  int half;
  std::memcpy(&half, shingle, 4);
  return half;
}

inline int high_half(const uint64_t* shingle) {
  int half;
  std::memcpy(&half, reinterpret_cast<const char*>(shingle) + 4, 4);
  return half;
}

__attribute__((target("avx2"))) void minima_avx2(const uint64_t* shingles, size_t count, const uint32_t* multipliers,
                                                 uint32_t* minima) {
  constexpr int vectors = 4;  // 4 minima, 4 multipliers, 2 halves and temporaries in 16 registers
  // 32 lanes at a time.
  for (size_t first = 0; first < lane_block; first += 8 * vectors) {
    // The unrolled loops over `vectors` keep these arrays in registers; as rolled loops they would live on the stack.
    __m256i best[vectors], factor[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      best[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(minima + first + 8 * v));
      factor[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(multipliers + first + 8 * v));
    }
    // Per shingle and vector: multiply, add, unsigned minimum.
    for (size_t s = 0; s < count; ++s) {
      const __m256i low = _mm256_set1_epi32(low_half(shingles + s)), high = _mm256_set1_epi32(high_half(shingles + s));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        best[v] = _mm256_min_epu32(best[v], _mm256_add_epi32(_mm256_mullo_epi32(factor[v], low), high));
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(minima + first + 8 * v), best[v]);
    }
  }
}

__attribute__((target("avx512f"))) void minima_avx512(const uint64_t* shingles, size_t count,
                                                      const uint32_t* multipliers, uint32_t* minima) {
  // All 128 lanes at once: 8 minima and 8 multipliers of 32 registers.
  constexpr int vectors = lane_block / 16;
  __m512i best[vectors], factor[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    best[v] = _mm512_loadu_si512(minima + 16 * v);
    factor[v] = _mm512_loadu_si512(multipliers + 16 * v);
  }
  for (size_t s = 0; s < count; ++s) {
    const __m512i low = _mm512_set1_epi32(low_half(shingles + s)), high = _mm512_set1_epi32(high_half(shingles + s));
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      best[v] = _mm512_min_epu32(best[v], _mm512_add_epi32(_mm512_mullo_epi32(factor[v], low), high));
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) _mm512_storeu_si512(minima + 16 * v, best[v]);
}

// Eight bands at once, one per lane of the vector, so that eight chains of mix64 run side by side. Row r of these bands
// is gathered from places `rows` apart; `wanted` masks the bands beyond the last one.
__attribute__((target("avx512f,avx512dq"))) void band_keys_avx512(const uint32_t* signature, size_t bands, size_t rows,
                                                                  uint64_t* keys) {
  const __m512i eight = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i steps = _mm512_mullo_epi64(eight, _mm512_set1_epi64(static_cast<int64_t>(rows)));
  // The last eight may be fewer; masked lanes read and write nothing.
  for (size_t b = 0; b < bands; b += 8) {
    const auto wanted = static_cast<__mmask8>(bands - b < 8 ? (1u << (bands - b)) - 1 : 255u);
    __m512i key = mix64(_mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(b + 1)), eight));
    for (size_t r = 0; r < rows; ++r) {
      const __m256i values =
          _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), wanted, steps, signature + b * rows + r, 4);
      key = mix64(_mm512_xor_si512(key, _mm512_cvtepu32_epi64(values)));
    }
    // Keys that became 0 are replaced by 1.
    const __mmask8 zero = _mm512_testn_epi64_mask(key, key);
    _mm512_mask_storeu_epi64(keys + b, wanted, _mm512_mask_mov_epi64(key, zero, _mm512_set1_epi64(1)));
  }
}

#elif defined(__aarch64__)

// As above, with 4 numbers per register; vmla multiplies and adds in one instruction.
void minima_neon(const uint64_t* shingles, size_t count, const uint32_t* multipliers, uint32_t* minima) {
  constexpr int vectors = 8;  // 8 minima and 8 multipliers of 32 registers; a product and its sum are one instruction
  for (size_t first = 0; first < lane_block; first += 4 * vectors) {
    uint32x4_t best[vectors], factor[vectors];
    for (int v = 0; v < vectors; ++v) {
      best[v] = vld1q_u32(minima + first + 4 * v);
      factor[v] = vld1q_u32(multipliers + first + 4 * v);
    }
    for (size_t s = 0; s < count; ++s) {
      const uint32x4_t low = vdupq_n_u32(static_cast<uint32_t>(shingles[s]));
      const uint32x4_t high = vdupq_n_u32(static_cast<uint32_t>(shingles[s] >> 32));
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) best[v] = vminq_u32(best[v], vmlaq_u32(high, factor[v], low));
    }
    for (int v = 0; v < vectors; ++v) vst1q_u32(minima + first + 4 * v, best[v]);
  }
}

#endif

// AVX-512 implies AVX2; on AArch64 NEON is always there.
Minima choose(simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return minima_avx512;
  if (level == simd::Level::avx2) return minima_avx2;
#elif defined(__aarch64__)
  if (level == simd::Level::neon) return minima_neon;
#else
  (void)level;
#endif
  return minima_scalar;
}

}  // namespace

MinHash::MinHash(size_t lanes, uint64_t seed)
    : lanes(lanes), multipliers((lanes + lane_block - 1) / lane_block * lane_block) {
  // mix32 is a bijection, so consecutive numbers give distinct multipliers.
  const auto first = static_cast<uint32_t>(mix64(seed));
  for (size_t i = 0; i < multipliers.size(); ++i) multipliers[i] = mix32(first + static_cast<uint32_t>(i));
}

void MinHash::update(const uint64_t* shingles, size_t count, simd::Level level, uint32_t* minima) const {
  // Block of lanes by block: the shingles are read once per block, from the first-level cache.
  const Minima lower = choose(level);
  for (size_t first = 0; first < multipliers.size(); first += lane_block) {
    lower(shingles, count, multipliers.data() + first, minima + first);
  }
}

void band_keys(const uint32_t* signature, size_t bands, size_t rows, simd::Level level, uint64_t* keys) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return band_keys_avx512(signature, bands, rows, keys);
#else
  (void)level;
#endif
  for (size_t b = 0; b < bands; ++b) {
    uint64_t key = mix64(b + 1);
    for (size_t r = 0; r < rows; ++r) key = mix64(key ^ signature[b * rows + r]);
    keys[b] = key ? key : 1;
  }
}

}  // namespace codeshell::dedup
