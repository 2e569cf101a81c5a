// The bytes of names, sixteen at a time where the processor can: bit i of a mask is about byte i.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace codeshell::text {

// Which of sixteen bytes are what. `name` holds all of the others and the bytes of 0x80 and more.
struct NameMasks {
  uint32_t name = 0, lower = 0, upper = 0, underscore = 0, foreign = 0;
};

// The masks of the sixteen bytes at `p`.
inline NameMasks name_masks(const char* p) {
  NameMasks masks;
#if defined(__SSE2__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const auto mask = [](__m128i some) { return static_cast<uint32_t>(_mm_movemask_epi8(some)); };
  // A byte from `first` on, moved down by it, lies at or below `last - first` as unsigned.
  const auto within = [](__m128i some, char first, char last) {
    const __m128i moved = _mm_sub_epi8(some, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(moved, _mm_set1_epi8(static_cast<char>(last - first))), moved);
  };
  const __m128i lower = within(bytes, 'a', 'z'), upper = within(bytes, 'A', 'Z');
  const __m128i under = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('_'));
  masks.lower = mask(lower);
  masks.upper = mask(upper);
  masks.underscore = mask(under);
  masks.foreign = mask(bytes);
  // A mask takes the top bit of each byte, which those of 0x80 and more have themselves.
  const __m128i letters = _mm_or_si128(_mm_or_si128(lower, upper), _mm_or_si128(under, bytes));
  masks.name = mask(_mm_or_si128(letters, within(bytes, '0', '9')));
#else
  for (uint32_t i = 0; i < 16; ++i) {
    const auto c = static_cast<uint8_t>(p[i]);
    const bool lower = static_cast<uint8_t>(c - 'a') < 26, upper = static_cast<uint8_t>(c - 'A') < 26;
    masks.lower |= static_cast<uint32_t>(lower) << i;
    masks.upper |= static_cast<uint32_t>(upper) << i;
    masks.underscore |= static_cast<uint32_t>(c == '_') << i;
    masks.foreign |= static_cast<uint32_t>(c >= 0x80) << i;
    masks.name |= static_cast<uint32_t>(lower || upper || c == '_' || c >= 0x80 || static_cast<uint8_t>(c - '0') < 10)
                  << i;
  }
#endif
  return masks;
}

// Bits 0 to size - 1; `size` is at most 16.
inline uint32_t low_bits(size_t size) { return (uint32_t{1} << size) - 1; }

}  // namespace codeshell::text
