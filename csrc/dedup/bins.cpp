#include "dedup/bins.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

#include "dedup/hash.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

constexpr int range_shift = 64 - std::bit_width(bins - 1);
// Shingle hashes are not uniform with every preset, so they are mixed once more, by other constants than theirs.
constexpr uint64_t salt = 0x9E3779B97F4A7C15u;

Agreement agree_scalar(const uint8_t* a, const uint8_t* b, size_t count) {
  Agreement seen;
  for (size_t i = 0; i < count; ++i) {
    const bool filled = (a[i] | b[i]) != 0;
    seen.filled += filled;
    seen.equal += filled && a[i] == b[i];
  }
  return seen;
}

#if defined(__x86_64__)
__attribute__((target("avx2,popcnt"))) Agreement agree_avx2(const uint8_t* a, const uint8_t* b, size_t count) {
  const __m256i zero = _mm256_setzero_si256();
  uint32_t empty = 0, equal = 0;
  for (size_t i = 0; i < count; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i));
    equal +=
        static_cast<uint32_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, y)))));
    empty += static_cast<uint32_t>(__builtin_popcount(
        static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_or_si256(x, y), zero)))));
  }
  return {static_cast<uint32_t>(count) - empty, equal - empty};
}
#endif

}  // namespace

void bin_sketch(const uint64_t* shingles, size_t count, uint8_t* out) {
  std::array<uint64_t, bins> least;
  least.fill(~uint64_t{0});
  for (size_t i = 0; i < count; ++i) {
    const uint64_t hash = mix64(shingles[i] ^ salt);
    uint64_t& at = least[hash >> range_shift];
    at = std::min(at, hash);
  }
  for (size_t i = 0; i < bins; ++i) {
    // ~0 is also a hash of the last bin, one of 2^64: it counts as none.
    out[i] = least[i] == ~uint64_t{0} ? 0 : static_cast<uint8_t>(1 + (least[i] & 0xFFFF) % 255);
  }
}

Agree agree(simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx2 || level == simd::Level::avx512) return agree_avx2;
#else
  (void)level;
#endif
  return agree_scalar;
}

bool may_reach(const Agreement& seen, uint64_t shingles, double threshold) {
  constexpr double z = 4.0;  // standard deviations
  const double n = seen.filled;
  // Of the union, at least: repeated shingles make it seem larger, and the draw less sharp than it is.
  const double all = std::max(n, static_cast<double>(shingles) / (1.0 + threshold));
  const double left = all > 1.0 ? (all - n) / (all - 1.0) : 0.0;
  const double deviation = std::sqrt(n * threshold * (1.0 - threshold) * left);
  // The last terms: the skew of a binomial near 1 (Cornish-Fisher), and one step of a whole number.
  const double skew = left > 0.0 ? z * z / 6.0 : 0.0;
  return seen.equal >= n * threshold - z * deviation - skew - 1.0;
}

bool sharpen(const Sketches& sketches, const uint32_t* shingles, const uint32_t* edges, size_t count, double threshold,
             simd::Level level, unsigned threads, const Stop& stop, bool* keep) {
  if (sketches.width() != bins) {
    throw std::invalid_argument("sketches: must be " + std::to_string(bins) + " bytes wide");
  }
  for (size_t i = 0; i < 2 * count; ++i) {
    if (edges[i] >= sketches.count()) {
      throw std::invalid_argument("edges: document " + std::to_string(edges[i]) + " is out of range of " +
                                  std::to_string(sketches.count()));
    }
  }
  const Agree compare = agree(level);
  const uint8_t* const data = sketches.data();
  constexpr size_t quarter = bins / 4, ahead = 8;  // edges
  const auto make = [&] {
    return [&, buffers = aligned_bytes(2 * bins), held = UINT32_MAX](size_t begin, size_t end) mutable {
      for (size_t e = begin; e < end; ++e) {
        const uint32_t* const edge = edges + 2 * e;
        if (data && e + ahead < end) {
          const uint8_t* const next = data + size_t{edge[2 * ahead + 1]} * bins;
          for (size_t i = 0; i < quarter; i += 64) __builtin_prefetch(next + i);
        }
        const uint8_t *first = buffers.get(), *second = first + bins;
        if (data) {
          first = data + size_t{edge[0]} * bins;
          second = data + size_t{edge[1]} * bins;
        } else {
          if (held != edge[0]) sketches.read(held = edge[0], buffers.get());
          sketches.read(edge[1], buffers.get() + bins);
        }
        const uint64_t both = uint64_t{shingles[edge[0]]} + shingles[edge[1]];
        Agreement seen;
        bool may = true;
        // Most pairs are told apart by a quarter of the bins, and memory is what this waits for.
        for (size_t from = 0; may && from < bins; from += quarter) {
          const auto [filled, equal] = compare(first + from, second + from, quarter);
          seen.filled += filled;
          seen.equal += equal;
          may = may_reach(seen, both, threshold);
        }
        keep[e] = may;
      }
    };
  };
  constexpr size_t grain = 1024;  // edges: `stop` is asked often
  return share(count, grain, threads, stop, make);
}

}  // namespace codeshell::dedup
