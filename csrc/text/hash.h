// A hash of bytes, for tables of this process. Texts differ in a 64-bit hash or are taken for equal; no hash is written
// anywhere, so another processor may hash otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace codeshell::text {

// Sixteen bytes as two words.
struct HashBlock {
  uint64_t low = 0, high = 0;
};

// The `size` bytes at `text`, sixteen at most, and zeros after them. Without a branch on the size: those of names are
// not to be foreseen. Memory may be read up to `limit`, which is at or after the last byte.
inline HashBlock load_block(const char* text, size_t size, const char* limit) {
  HashBlock block;
#if defined(__SSE2__)
  alignas(32) static constexpr uint8_t kept[32] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                                   255, 255, 255, 255, 255, 0,   0,   0,   0,   0,   0,
                                                   0,   0,   0,   0,   0,   0,   0,   0,   0,   0};
  if (limit - text >= 16) [[likely]] {
    const __m128i mask = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kept + 16 - size));
    const __m128i bytes = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(text)), mask);
    block.low = static_cast<uint64_t>(_mm_cvtsi128_si64(bytes));
    block.high = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(bytes, bytes)));
    return block;
  }
#endif
  std::memcpy(&block, text, size);
  return block;
}

// Two words are multiplied, and both halves of the product count.
inline uint64_t hash_words(uint64_t a, uint64_t b) {
  constexpr uint64_t first = 0x9E3779B97F4A7C15u, second = 0xC2B2AE3D27D4EB4Fu;
  const auto product = static_cast<unsigned __int128>(a ^ first) * (b ^ second);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The hash of a block of `size` bytes.
inline uint64_t hash_block(HashBlock block, size_t size) {
  return hash_words(block.low ^ (size * 0xC2B2AE3D27D4EB4Fu), block.high);
}

// The hash of `size` bytes; `limit` as for `load_block`.
inline uint64_t hash_bytes(const char* text, size_t size, const char* limit) {
  if (size <= 16) return hash_block(load_block(text, size, limit), size);
  const auto word = [](const char* p) {
    uint64_t value;
    std::memcpy(&value, p, 8);
    return value;
  };
  uint64_t hash = size * 0xC2B2AE3D27D4EB4Fu;
  for (; size > 16; text += 16, size -= 16) hash = hash_words(word(text) ^ hash, word(text + 8));
  // The last sixteen bytes, some of them for the second time.
  return hash_words(word(text + size - 16) ^ hash, word(text + size - 8));
}

inline uint64_t hash_bytes(const char* text, size_t size) { return hash_bytes(text, size, text + size); }

// The hash of a dotted name from the hash of what stands before the dot and that of the last part.
inline uint64_t join_hashes(uint64_t before, uint64_t name) { return (before ^ 0xD6E8FEB86659FD93u) * 5 + name; }

}  // namespace codeshell::text
