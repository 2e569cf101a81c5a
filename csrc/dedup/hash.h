// The two bijective mixers that every hash of the deduper is made with. They are part of the format: a stored signature
// is readable only as long as these functions do not change.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

// A bijection loses nothing: two inputs collide only if they were equal. Multiplications carry low bits upwards, and
// the shifts bring the high bits down again; two rounds of both suffice.
// SplitMix64's finaliser (Stafford's Mix13): a bijection of 64 bits in which every input bit reaches every output bit.
inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

#if defined(__x86_64__)
// AVX2 has no product of 64-bit numbers, only of 32-bit ones to 64 bits. The low 64 bits of (x1 2^32 + x0)(f1 2^32 +
// f0) are x0 f0 + 2^32 (x1 f0 + x0 f1); the term x1 f1 lies above them.
__attribute__((target("avx2"))) inline __m256i multiply64(__m256i x, uint64_t factor) {
  const __m256i low = _mm256_set1_epi64x(static_cast<int64_t>(factor));
  const __m256i high = _mm256_set1_epi64x(static_cast<int64_t>(factor >> 32));
  const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(x, 32), low), _mm256_mul_epu32(x, high));
  return _mm256_add_epi64(_mm256_mul_epu32(x, low), _mm256_slli_epi64(cross, 32));
}

// mix64 of four numbers, and below of eight.
__attribute__((target("avx2"))) inline __m256i mix64(__m256i x) {
  x = multiply64(_mm256_xor_si256(x, _mm256_srli_epi64(x, 30)), 0xBF58476D1CE4E5B9u);
  x = multiply64(_mm256_xor_si256(x, _mm256_srli_epi64(x, 27)), 0x94D049BB133111EBu);
  return _mm256_xor_si256(x, _mm256_srli_epi64(x, 31));
}

// AVX-512DQ has the product as one instruction.
__attribute__((target("avx512f,avx512dq"))) inline __m512i mix64(__m512i x) {
  x = _mm512_mullo_epi64(_mm512_xor_si512(x, _mm512_srli_epi64(x, 30)),
                         _mm512_set1_epi64(static_cast<int64_t>(0xBF58476D1CE4E5B9u)));
  x = _mm512_mullo_epi64(_mm512_xor_si512(x, _mm512_srli_epi64(x, 27)),
                         _mm512_set1_epi64(static_cast<int64_t>(0x94D049BB133111EBu)));
  return _mm512_xor_si512(x, _mm512_srli_epi64(x, 31));
}
#endif

// MurmurHash3's finaliser for 32 bits, which is a bijection too.
// Lane multipliers are made with it (minhash.h), which must be distinct.
inline uint32_t mix32(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x = (x ^ (x >> 13)) * 0xC2B2AE35u;
  return x ^ (x >> 16);
}

}  // namespace codeshell::dedup
