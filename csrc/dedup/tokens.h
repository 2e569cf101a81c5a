// From text to token hashes.
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
#include <memory>
#include <string_view>
#include <vector>

#include "dedup/edges.h"
#include "simd/cpu.h"

// Bytes that are read at once: everything made of them stays in the L1 cache. It is a multiple of 256, and at least
// 768. The fuzzers set a smaller one, so that short texts have several chunks.
#ifndef CODESHELL_DEDUP_CHUNK
#define CODESHELL_DEDUP_CHUNK 4096
#endif

namespace codeshell::dedup {

struct TokenBuffers;
struct Words;

// Buffers that one thread uses again for every document.
struct Scratch {
  Scratch();
  ~Scratch();

  std::vector<uint64_t> tokens;
  std::vector<uint64_t> shingles;
  std::vector<uint64_t> spare;   // of a sort
  std::vector<uint32_t> bounds;  // of its buckets
  std::unique_ptr<TokenBuffers> chunk;

  // Releases memory if a huge document has left far more of it than the next one, of `size` bytes, can need.
  void trim(size_t size);
};

// The tokens of a text, a chunk of it at a time, so that everything made of a chunk meets in the L1 cache.
class Tokenizer {
 public:
  // A chunk has at most this many tokens ("aéaé…": two tokens per three bytes); next() may overwrite this many places.
  static constexpr size_t max_tokens = CODESHELL_DEDUP_CHUNK / 4 * 3;

  Tokenizer(std::string_view text, simd::Level level, Scratch& scratch);

  bool done() const { return at_ == end_; }

  // Writes the hashes of the next tokens and returns how many; it may be 0 before the end. They do not depend on level.
  size_t next(uint64_t* hashes);

 private:
  const char* at_;
  const char* const end_;
  const char* open_ = nullptr;  // begin of a token that has not ended in the chunks so far
  EdgeState state_;
  TokenBuffers& buffers_;
  const FindEdges find_edges_;
  void (*const mix_words_)(const Words* words, size_t count, uint64_t* hashes);
};

}  // namespace codeshell::dedup
