#include "dedup/datasketch.h"

#include <algorithm>

#include "dedup/hash.h"
#include "dedup/presets.h"
#include "dedup/sha1.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

// ---- kernels: one block of permutations over all hashes of a set ----
//
// The minima of a block stay in registers while all hashes pass by. `wide` kernels have 64-bit products, `affine32`
// ones 32-bit products.
constexpr uint64_t prime = (uint64_t{1} << 61) - 1;
constexpr size_t block = 64;  // permutations that a kernel does at once: eight AVX-512 registers of 64-bit minima

// MurmurHash3's finaliser for 64 bits.
uint64_t murmur64(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDu;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
  return x ^ (x >> 33);
}

// Writes the minima best[0 .. block) over all hashes. Because 2^61 = 1 mod prime, x mod prime is f = (x & prime) +
// (x >> 61), minus prime if f >= prime. Only the low 32 bits count, and -prime = 1 - 2^61 = 1 mod 2^32: so the
// subtraction becomes adding 1.
using Kernel = void (*)(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, uint64_t* best);

// The scalar kernels are the definitions; the loop over permutations is inside, for the compiler to vectorise.
void legacy_scalar(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, uint64_t* best) {
  uint32_t lanes[block];
  std::fill_n(lanes, block, ~0u);
  for (size_t s = 0; s < count; ++s) {
    for (size_t k = 0; k < block; ++k) {
      const uint64_t x = a[k] * hashes[s] + b[k];
      const uint64_t folded = (x & prime) + (x >> 61);
      lanes[k] = std::min(lanes[k], static_cast<uint32_t>(folded) + (folded >= prime));
    }
  }
  std::copy_n(lanes, block, best);
}

void affine32_scalar(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, uint64_t* best) {
  uint32_t lanes[block];
  std::fill_n(lanes, block, ~0u);
  for (size_t s = 0; s < count; ++s) {
    for (size_t k = 0; k < block; ++k) {
      lanes[k] = std::min(lanes[k], static_cast<uint32_t>(a[k] * hashes[s] + b[k]));
    }
  }
  std::copy_n(lanes, block, best);
}

void affine64_scalar(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, uint64_t* best) {
  std::fill_n(best, block, ~uint64_t{0});
  for (size_t s = 0; s < count; ++s) {
    for (size_t k = 0; k < block; ++k) best[k] = std::min(best[k], a[k] * hashes[s] + b[k]);
  }
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) inline __m256i load(const uint64_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

__attribute__((target("avx2"))) inline void store(uint64_t* p, __m256i v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}

// The low 64 bits of a * h, from 32-bit products: AVX2 has no such instruction. See multiply64 in hash.h.
__attribute__((target("avx2"))) inline __m256i multiply(__m256i a, __m256i a_high, __m256i h, __m256i h_high) {
  const __m256i crossed = _mm256_add_epi64(_mm256_mul_epu32(a_high, h), _mm256_mul_epu32(a, h_high));
  return _mm256_add_epi64(_mm256_mul_epu32(a, h), _mm256_slli_epi64(crossed, 32));
}

// The kernels of 64-bit products. `legacy` reduces modulo the prime and keeps 32-bit minima; otherwise it is affine64.
template <bool legacy>
__attribute__((target("avx2"))) void wide_avx2(const uint64_t* hashes, size_t count, const uint64_t* a,
                                               const uint64_t* b, uint64_t* best) {
  constexpr int vectors = 2;  // 2 each of minima, a, its high half, b; the hash's halves, two constants, temporaries
  // AVX2 compares 64-bit numbers only as signed ones: flipping the top bit maps the unsigned order onto the signed one.
  const __m256i modulus = _mm256_set1_epi64x(static_cast<int64_t>(prime));
  const __m256i below = _mm256_set1_epi64x(static_cast<int64_t>(prime - 1));
  const __m256i sign = _mm256_set1_epi64x(INT64_MIN);
  // Eight permutations at a time; the registers hold no more.
  for (size_t first = 0; first < block; first += 4 * vectors) {
    __m256i least[vectors], factor[vectors], factor_high[vectors], term[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      least[v] = legacy ? _mm256_set1_epi64x(-1) : _mm256_set1_epi64x(INT64_MAX);
      factor[v] = load(a + first + 4 * v);
      factor_high[v] = _mm256_srli_epi64(factor[v], 32);
      term[v] = load(b + first + 4 * v);
    }
    // Per hash and vector of four permutations: x = a * h + b, reduced if legacy, then the minimum.
    for (size_t s = 0; s < count; ++s) {
      const __m256i h = _mm256_set1_epi64x(static_cast<int64_t>(hashes[s])), h_high = _mm256_srli_epi64(h, 32);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        const __m256i x = _mm256_add_epi64(multiply(factor[v], factor_high[v], h, h_high), term[v]);
        if (legacy) {
          const __m256i folded = _mm256_add_epi64(_mm256_and_si256(x, modulus), _mm256_srli_epi64(x, 61));
          // The comparison gives -1 where f >= prime; subtracting it adds 1.
          const __m256i reduced = _mm256_sub_epi64(folded, _mm256_cmpgt_epi64(folded, below));
          least[v] = _mm256_min_epu32(least[v], reduced);  // the high halves are not used
        } else {
          const __m256i ordered = _mm256_xor_si256(x, sign);  // unsigned order as signed order
          least[v] = _mm256_blendv_epi8(least[v], ordered, _mm256_cmpgt_epi64(least[v], ordered));
        }
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      // Legacy lanes have 32 bits in 64; the others get their unsigned order back.
      store(best + first + 4 * v,
            legacy ? _mm256_and_si256(least[v], _mm256_set1_epi64x(0xFFFFFFFF)) : _mm256_xor_si256(least[v], sign));
    }
  }
}

__attribute__((target("avx2"))) void affine32_avx2(const uint64_t* hashes, size_t count, const uint64_t* a,
                                                   const uint64_t* b, uint64_t* best) {
  // Narrow a and b to 32 bits once per set; then 32 permutations at a time.
  constexpr int vectors = 4;
  uint32_t factors[block], terms[block], lanes[block];
  for (size_t k = 0; k < block; ++k) {
    factors[k] = static_cast<uint32_t>(a[k]);
    terms[k] = static_cast<uint32_t>(b[k]);
  }
  for (size_t first = 0; first < block; first += 8 * vectors) {
    __m256i least[vectors], factor[vectors], term[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      least[v] = _mm256_set1_epi32(-1);
      factor[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(factors + first + 8 * v));
      term[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(terms + first + 8 * v));
    }
    for (size_t s = 0; s < count; ++s) {
      const __m256i h = _mm256_set1_epi32(static_cast<int>(hashes[s]));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        least[v] = _mm256_min_epu32(least[v], _mm256_add_epi32(_mm256_mullo_epi32(factor[v], h), term[v]));
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + first + 8 * v), least[v]);
  }
  std::copy_n(lanes, block, best);
}

// The same with AVX-512: a product of 64-bit numbers, an unsigned minimum, and registers for all 64 permutations.
template <bool legacy>
__attribute__((target("avx512f,avx512dq"))) void wide_avx512(const uint64_t* hashes, size_t count, const uint64_t* a,
                                                             const uint64_t* b, uint64_t* best) {
  constexpr int vectors = block / 8;
  // All 64 permutations at once: 8 vectors each of minima, a and b in 32 registers.
  const __m512i modulus = _mm512_set1_epi64(static_cast<int64_t>(prime));
  __m512i least[vectors], factor[vectors], term[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    least[v] = _mm512_set1_epi64(-1);
    factor[v] = _mm512_loadu_si512(a + 8 * v);
    term[v] = _mm512_loadu_si512(b + 8 * v);
  }
  for (size_t s = 0; s < count; ++s) {
    const __m512i h = _mm512_set1_epi64(static_cast<int64_t>(hashes[s]));
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const __m512i x = _mm512_add_epi64(_mm512_mullo_epi64(factor[v], h), term[v]);
      if (legacy) {
        const __m512i folded = _mm512_add_epi64(_mm512_and_si512(x, modulus), _mm512_srli_epi64(x, 61));
        // f - prime wraps to a huge number where f < prime, so the unsigned minimum is f mod prime.
        const __m512i reduced = _mm512_min_epu64(folded, _mm512_sub_epi64(folded, modulus));
        least[v] = _mm512_min_epu32(least[v], reduced);  // the high halves are not used
      } else {
        least[v] = _mm512_min_epu64(least[v], x);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    _mm512_storeu_si512(best + 8 * v, legacy ? _mm512_and_si512(least[v], _mm512_set1_epi64(0xFFFFFFFF)) : least[v]);
  }
}

__attribute__((target("avx512f"))) void affine32_avx512(const uint64_t* hashes, size_t count, const uint64_t* a,
                                                        const uint64_t* b, uint64_t* best) {
  constexpr int vectors = block / 16;
  uint32_t lanes[block];
  __m512i least[vectors], factor[vectors], term[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    // The low halves of 16 numbers, from two vectors of eight.
    const auto narrow = [v](const uint64_t* p) __attribute__((target("avx512f"))) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(_mm512_loadu_si512(p + 16 * v))),
                                _mm512_cvtepi64_epi32(_mm512_loadu_si512(p + 16 * v + 8)), 1);
    };
    least[v] = _mm512_set1_epi32(-1);
    factor[v] = narrow(a);
    term[v] = narrow(b);
  }
  for (size_t s = 0; s < count; ++s) {
    const __m512i h = _mm512_set1_epi32(static_cast<int>(hashes[s]));
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      least[v] = _mm512_min_epu32(least[v], _mm512_add_epi32(_mm512_mullo_epi32(factor[v], h), term[v]));
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) _mm512_storeu_si512(lanes + 16 * v, least[v]);
  std::copy_n(lanes, block, best);
}

#endif

// By scheme and instruction set. AArch64 uses the scalar kernels, which its compiler vectorises.
Kernel choose(SketchScheme scheme, simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) {
    return scheme == SketchScheme::legacy     ? wide_avx512<true>
           : scheme == SketchScheme::affine64 ? wide_avx512<false>
                                              : affine32_avx512;
  }
  if (level == simd::Level::avx2) {
    return scheme == SketchScheme::legacy     ? wide_avx2<true>
           : scheme == SketchScheme::affine64 ? wide_avx2<false>
                                              : affine32_avx2;
  }
#else
  (void)level;
#endif
  return scheme == SketchScheme::legacy     ? legacy_scalar
         : scheme == SketchScheme::affine64 ? affine64_scalar
                                            : affine32_scalar;
}

}  // namespace

Datasketch::Datasketch(SketchScheme scheme, const uint64_t* a_in, const uint64_t* b_in, size_t permutations, bool wide)
    : scheme(scheme), permutations(permutations), wide(wide) {
  // Permutations beyond the last are zeros; their lanes are computed and not copied.
  const size_t padded = (permutations + block - 1) / block * block;
  a.assign(a_in, a_in + permutations);
  b.assign(b_in, b_in + permutations);
  a.resize(padded);
  b.resize(padded);
}

void Datasketch::minima(uint64_t* hashes, size_t count, simd::Level level, void* out) const {
  // Bring the hashes to the width and the mixing of the scheme, in place.
  for (size_t i = 0; i < count; ++i) {
    if (!wide) hashes[i] = static_cast<uint32_t>(hashes[i]);
    if (scheme == SketchScheme::affine32) hashes[i] = mix32(static_cast<uint32_t>(hashes[i]));
    if (scheme == SketchScheme::affine64) hashes[i] = murmur64(hashes[i]);
  }
  // Block by block of permutations; the hashes of a text's shingles stay in the cache.
  const Kernel kernel = choose(scheme, level);
  uint64_t best[block];
  for (size_t first = 0; first < permutations; first += block) {
    kernel(hashes, count, a.data() + first, b.data() + first, best);
    // The last block may have fewer permutations than it computed; the lanes narrow to 32 bits for affine32.
    const size_t kept = std::min(block, permutations - first);
    if (scheme == SketchScheme::affine32) {
      std::copy_n(best, kept, static_cast<uint32_t*>(out) + first);
    } else {
      std::copy_n(best, kept, static_cast<uint64_t*>(out) + first);
    }
  }
}

// ---- sets: where the hashes come from ----
//
// Each thread has its own buffers; a range is 16 sets.
bool sketch_texts(const Texts& texts, const Shingling& shingling, const Datasketch& datasketch, simd::Level level,
                  unsigned threads, const Stop& stop, uint8_t* out) {
  const size_t row = datasketch.permutations * datasketch.lane_bytes();
  return share(texts.count, 16, threads, stop, [&] {
    return
        [&, pieces = Pieces{}, sha1 = Sha1(level), hashes = std::vector<uint64_t>{}](size_t begin, size_t end) mutable {
          for (size_t i = begin; i < end; ++i) {
            make_shingle_strings(texts[i], shingling, pieces);
            const size_t count = pieces.shingles();
            if (hashes.size() < count) hashes.resize(count);
            if (count) {
              // Shingle i begins where piece i begins and ends where piece i + span - 1 ends, so two views of the
              // arrays suffice.
              sha1.hash(pieces.bytes.data(), pieces.begins.data(), pieces.ends.data() + pieces.span - 1, count,
                        hashes.data());
            }
            datasketch.minima(hashes.data(), count, level, out + i * row);
          }
        };
  });
}

// As above, with strings that the caller made.
bool sketch_sets(const Texts& tokens, const int64_t* sets, size_t count, const Datasketch& datasketch,
                 simd::Level level, unsigned threads, const Stop& stop, uint8_t* out) {
  const size_t row = datasketch.permutations * datasketch.lane_bytes();
  return share(count, 16, threads, stop, [&] {
    return [&, sha1 = Sha1(level), hashes = std::vector<uint64_t>{}](size_t begin, size_t end) mutable {
      for (size_t i = begin; i < end; ++i) {
        const auto size = static_cast<size_t>(sets[i + 1] - sets[i]);
        if (hashes.size() < size) hashes.resize(size);
        // Token t is bytes [offsets[t], offsets[t + 1]): begins and ends are the same array, shifted by one.
        const int64_t* const offsets = tokens.offsets + sets[i];
        sha1.hash(tokens.data, offsets, offsets + 1, size, hashes.data());
        datasketch.minima(hashes.data(), size, level, out + i * row);
      }
    };
  });
}

// As above, with ready hash values; they are copied, because minima() overwrites them.
bool sketch_hashes(const uint64_t* values, const int64_t* sets, size_t count, const Datasketch& datasketch,
                   simd::Level level, unsigned threads, const Stop& stop, uint8_t* out) {
  const size_t row = datasketch.permutations * datasketch.lane_bytes();
  return share(count, 16, threads, stop, [&] {
    return [&, hashes = std::vector<uint64_t>{}](size_t begin, size_t end) mutable {
      for (size_t i = begin; i < end; ++i) {
        hashes.assign(values + sets[i], values + sets[i + 1]);
        datasketch.minima(hashes.data(), hashes.size(), level, out + i * row);
      }
    };
  });
}

}  // namespace codeshell::dedup
