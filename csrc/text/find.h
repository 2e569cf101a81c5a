// Searches for the next of a few bytes, sixteen bytes at a time where the processor can.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace codeshell::text {

// The first byte of [p, end) that is one of `wanted`, or `end`.
template <typename... Bytes>
inline const char* find_any(const char* p, const char* end, Bytes... wanted) {
#if defined(__SSE2__)
  for (; end - p >= 16; p += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    __m128i found = _mm_setzero_si128();
    ((found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(wanted)))), ...);
    if (const auto mask = static_cast<uint32_t>(_mm_movemask_epi8(found))) return p + std::countr_zero(mask);
  }
#endif
  while (p < end && !((*p == wanted) || ...)) ++p;
  return p;
}

// The number of bytes at the beginning of two blocks of eight that are equal, from the bits that differ: not zero.
inline size_t equal_bytes(uint64_t difference) {
  if constexpr (std::endian::native == std::endian::little) {
    return static_cast<size_t>(std::countr_zero(difference)) / 8;
  } else {
    return static_cast<size_t>(std::countl_zero(difference)) / 8;
  }
}

// The first byte of [p, end) that is no space, or `end`. Tabs are none.
inline const char* skip_spaces(const char* p, const char* end) {
  for (uint64_t word; end - p >= 8; p += 8) {
    std::memcpy(&word, p, 8);
    if (word != 0x2020202020202020u) return p + equal_bytes(word ^ 0x2020202020202020u);
  }
  while (p < end && *p == ' ') ++p;
  return p;
}

}  // namespace codeshell::text
