// Searches for the next of a few bytes, sixteen bytes at a time where the processor can.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

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

// The same, where memory may be read up to `limit`, which is at or after `end`: no byte is looked at alone.
template <typename... Bytes>
inline const char* find_any_within(const char* p, const char* end, [[maybe_unused]] const char* limit,
                                   Bytes... wanted) {
#if defined(__SSE2__)
  for (; p < end && limit - p >= 16; p += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    __m128i found = _mm_setzero_si128();
    ((found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(wanted)))), ...);
    if (const auto mask = static_cast<uint32_t>(_mm_movemask_epi8(found))) {
      const char* const place = p + std::countr_zero(mask);
      return place < end ? place : end;
    }
  }
  if (p >= end) return end;
#endif
  return find_any(p, end, wanted...);
}

// The first place in [p, end) where `word` stands, or null. Sixteen places at a time are asked for its first and its last
// byte. The word is not empty.
inline const char* find_word(const char* p, const char* end, std::string_view word) {
  const size_t size = word.size();
#if defined(__SSE2__)
  const __m128i first = _mm_set1_epi8(word.front()), last = _mm_set1_epi8(word.back());
  for (; static_cast<size_t>(end - p) >= size + 15; p += 16) {
    const __m128i begins = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), first);
    const __m128i ends = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + size - 1)), last);
    auto mask = static_cast<uint32_t>(_mm_movemask_epi8(_mm_and_si128(begins, ends)));
    for (; mask; mask &= mask - 1) {
      const char* const place = p + std::countr_zero(mask);
      if (std::memcmp(place, word.data(), size) == 0) return place;
    }
  }
#endif
  for (; static_cast<size_t>(end - p) >= size; ++p) {
    if (*p == word.front() && std::memcmp(p, word.data(), size) == 0) return p;
  }
  return nullptr;
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
#if defined(__SSE2__)
  for (; end - p >= 16; p += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const auto spaces = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '))));
    if (spaces != 0xFFFF) return p + std::countr_one(spaces);
  }
#endif
  while (p < end && *p == ' ') ++p;
  return p;
}

// The first byte of [p, end) that is no space and no tab, or `end`.
inline const char* skip_spaces_and_tabs(const char* p, const char* end) {
#if defined(__SSE2__)
  for (; end - p >= 16; p += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i spaces = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')), tabs = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t'));
    const auto mask = static_cast<uint32_t>(_mm_movemask_epi8(_mm_or_si128(spaces, tabs)));
    if (mask != 0xFFFF) return p + std::countr_one(mask);
  }
#endif
  while (p < end && (*p == ' ' || *p == '\t')) ++p;
  return p;
}

}  // namespace codeshell::text
