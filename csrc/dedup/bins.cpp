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

// The ten highest bits of a hash are the number of its bin.
constexpr int range_shift = 64 - std::bit_width(bins - 1);
// Shingle hashes are not uniform with every preset, so they are mixed once more, with another constant than theirs.
constexpr uint64_t salt = 0x9E3779B97F4A7C15u;

// A bin that is 0 in both sketches says nothing and is not counted.
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
// A byte compare and a movemask turn 32 bins into 32 bits, which a population count adds up. Empty bins of both sets
// compare equal too: they are counted apart and taken off at the end.
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
  // The smallest hash of each range; ~0 stands for "none".
  std::array<uint64_t, bins> least;
  least.fill(~uint64_t{0});
  for (size_t i = 0; i < count; ++i) {
    const uint64_t hash = mix64(shingles[i] ^ salt);
    uint64_t& at = least[hash >> range_shift];
    at = std::min(at, hash);
  }
  for (size_t i = 0; i < bins; ++i) {
    // 1 .. 255 from the lowest 16 bits, which are independent of the highest ten that chose the bin; 0 is left for
    // "empty".
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
  // The equal bins are like a draw of n hashes from the union of the sets, of which a share `threshold` is common.
  const double n = seen.filled;
  // The size of the union at this Jaccard: |A| + |B| = |A or B| (1 + J). Repeated shingles make it seem larger, which
  // makes the draw look less sharp than it is: the error is on the safe side.
  const double all = std::max(n, static_cast<double>(shingles) / (1.0 + threshold));
  // The finite population correction: with every hash drawn (n = all) nothing is left to chance.
  const double left = all > 1.0 ? (all - n) / (all - 1.0) : 0.0;
  const double deviation = std::sqrt(n * threshold * (1.0 - threshold) * left);
  // The last terms are the skew of a binomial near 1 (Cornish-Fisher), and one for rounding to a whole number.
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
  // All indices are valid from here on, so the threads cannot fail but by reading.
  const Agree compare = agree(level);
  const uint8_t* const data = sketches.data();
  constexpr size_t quarter = bins / 4, ahead = 8;  // edges
  const auto make = [&] {
    // `held` is the document whose sketch is in the first buffer, where sketches are read from files.
    return [&, buffers = aligned_bytes(2 * bins), held = UINT32_MAX](size_t begin, size_t end) mutable {
      for (size_t e = begin; e < end; ++e) {
        const uint32_t* const edge = edges + 2 * e;
        // Ask for the first quarter of a sketch that is needed some edges later; it may be anywhere in memory.
        if (data && e + ahead < end) {
          const uint8_t* const next = data + size_t{edge[2 * ahead + 1]} * bins;
          for (size_t i = 0; i < quarter; i += 64) __builtin_prefetch(next + i);
        }
        // Both sketches: where they lie in memory, or read into the buffers.
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
        // One quarter of the bins refuses most pairs, and then the other cache lines are never read: this loop waits
        // for memory.
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
  constexpr size_t grain = 1024;  // edges; `stop` is asked once per range, so it is asked often
  return share(count, grain, threads, stop, make);
}

}  // namespace codeshell::dedup
