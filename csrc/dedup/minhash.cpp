#include "dedup/minhash.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "dedup/hash.h"
#include "dedup/shingles.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

// minima[0 .. lane_block) over all shingles, for one block of multipliers.
using Minima = void (*)(const uint64_t* shingles, size_t count, const uint32_t* multipliers, uint32_t* minima);

void minima_scalar(const uint64_t* shingles, size_t count, const uint32_t* multipliers, uint32_t* minima) {
  uint32_t best[lane_block];
  std::fill_n(best, lane_block, ~0u);
  for (size_t s = 0; s < count; ++s) {
    const auto low = static_cast<uint32_t>(shingles[s]);
    const auto high = static_cast<uint32_t>(shingles[s] >> 32);
    for (size_t i = 0; i < lane_block; ++i) best[i] = std::min(best[i], multipliers[i] * low + high);
  }
  std::copy_n(best, lane_block, minima);
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) void minima_avx2(const uint64_t* shingles, size_t count, const uint32_t* multipliers,
                                                 uint32_t* minima) {
  constexpr int vectors = 4;  // 4 minima, 4 multipliers, 2 halves and temporaries in 16 registers
  for (size_t first = 0; first < lane_block; first += 8 * vectors) {
    __m256i best[vectors], factor[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      best[v] = _mm256_set1_epi32(-1);
      factor[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(multipliers + first + 8 * v));
    }
    for (size_t s = 0; s < count; ++s) {
      const __m256i low = _mm256_set1_epi32(static_cast<int>(shingles[s]));
      const __m256i high = _mm256_set1_epi32(static_cast<int>(shingles[s] >> 32));
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
  constexpr int vectors = lane_block / 16;
  __m512i best[vectors], factor[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    best[v] = _mm512_set1_epi32(-1);
    factor[v] = _mm512_loadu_si512(multipliers + 16 * v);
  }
  for (size_t s = 0; s < count; ++s) {
    const __m512i low = _mm512_set1_epi32(static_cast<int>(shingles[s]));
    const __m512i high = _mm512_set1_epi32(static_cast<int>(shingles[s] >> 32));
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      best[v] = _mm512_min_epu32(best[v], _mm512_add_epi32(_mm512_mullo_epi32(factor[v], low), high));
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) _mm512_storeu_si512(minima + 16 * v, best[v]);
}

#endif

Minima choose(simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return minima_avx512;
  if (level == simd::Level::avx2) return minima_avx2;
#else
  (void)level;
#endif
  return minima_scalar;
}

}  // namespace

MinHash::MinHash(uint32_t ngram, size_t lanes, uint64_t seed)
    : ngram(ngram), lanes(lanes), multipliers((lanes + lane_block - 1) / lane_block * lane_block) {
  const auto first = static_cast<uint32_t>(mix64(seed));
  for (size_t i = 0; i < multipliers.size(); ++i) multipliers[i] = mix32(first + static_cast<uint32_t>(i));
}

void MinHash::sign(const Texts& texts, simd::Level level, unsigned threads, uint32_t* out) const {
  const Minima minima = choose(level);
  std::atomic<size_t> next{0};
  const auto work = [&] {
    Scratch scratch;
    uint32_t block[lane_block];
    constexpr size_t grain = 16;  // documents taken at once: few enough to balance, many enough not to contend
    for (size_t start; (start = next.fetch_add(grain)) < texts.count;) {
      for (size_t d = start; d < std::min(start + grain, texts.count); ++d) {
        make_shingles(texts[d], ngram, level, scratch);
        for (size_t first = 0; first < lanes; first += lane_block) {
          minima(scratch.shingles.data(), scratch.shingles.size(), multipliers.data() + first, block);
          std::copy_n(block, std::min(lane_block, lanes - first), out + d * lanes + first);
        }
      }
    }
  };
  std::vector<std::jthread> others;
  for (unsigned t = 1; t < threads; ++t) others.emplace_back(work);
  work();
}

void band_keys(const uint32_t* signatures, size_t count, size_t bands, size_t rows, uint64_t* out) {
  for (size_t d = 0; d < count; ++d) {
    const uint32_t* signature = signatures + d * bands * rows;
    const bool empty = std::all_of(signature, signature + bands * rows, [](uint32_t lane) { return lane == ~0u; });
    for (size_t b = 0; b < bands; ++b) {
      uint64_t key = mix64(b + 1);
      for (size_t r = 0; r < rows; ++r) key = mix64(key ^ signature[b * rows + r]);
      out[d * bands + b] = empty ? 0 : key ? key : 1;
    }
  }
}

}  // namespace codeshell::dedup
