// Text to token hashes.
//
// A token is
//   - a longest run of [A-Za-z0-9_];
//   - one character of U+3040-30FF, 3400-4DBF, 4E00-9FFF, AC00-D7AF or F900-FAFF (kana, Han, Hangul), by itself;
//   - a longest run of any other characters of the Unicode categories L (letter) and N (number).
// Case is kept. Everything else separates, as does every byte that is not part of well-formed UTF-8.
//
// Its hash: h = 0; for every 8 bytes w of it (little endian, the last ones padded with zeros): h = mix64(h ^ w).
// No token holds a zero byte, so the padding is never ambiguous.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "simd/cpu.h"

namespace codeshell::dedup {

// Buffers that one thread reuses from document to document.
struct Scratch {
  std::vector<uint64_t> word;  // bit i: byte i is one of [A-Za-z0-9_]
  std::vector<uint64_t> high;  // bit i: byte i is 0x80 or more
  std::vector<uint64_t> tokens;
  std::vector<uint64_t> shingles;
  std::vector<uint64_t> spare;   // of a sort
  std::vector<uint32_t> bounds;  // of its buckets
};

// Puts the hashes of the tokens of `text`, in order, into scratch.tokens. The result does not depend on `level`.
void hash_tokens(std::string_view text, simd::Level level, Scratch& scratch);

}  // namespace codeshell::dedup
