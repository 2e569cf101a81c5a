// From token hashes to shingles: every n consecutive tokens become one 64-bit hash.
//
// The hash of a shingle with token hashes t_0 .. t_{m-1} is mix64(sum of t_i * A^(m-1-i) mod 2^64), with A odd. It is a
// polynomial, so it rolls from one shingle to the next, whatever n is. A document with fewer than n tokens has one
// shingle, made of all its tokens, so that short files match only when they are equal. A document without tokens has
// none.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dedup/shingling.h"
#include "dedup/tokens.h"

namespace codeshell::dedup {

// The shingles of Preset::code, a chunk of the text at a time, in order and with repetitions. Memory: the tokens of one
// chunk and of two shingles, whatever the size of the text.
class ShingleStream {
 public:
  // next() may overwrite this many places.
  static constexpr size_t max_shingles = Tokenizer::max_tokens;

  ShingleStream(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch);

  bool done() const { return tokenizer_.done() && (some_ || first_ == end_); }

  // Writes the next shingles and returns how many; it may be 0 before the end.
  size_t next(uint64_t* shingles);

 private:
  // Writes `count` shingles of the tokens by the rolling sum; see shingles.cpp.
  void roll(const uint64_t* tokens, size_t count, uint64_t* shingles);

  Tokenizer tokenizer_;
  std::vector<uint64_t>& tokens_;
  size_t first_ = 0, end_ = 0;  // of the tokens that wait for more, in tokens_
  const size_t ngram_;
  const bool wide_;       // eight shingles at once
  bool some_ = false;     // has the text had a shingle?
  uint64_t sum_ = 0;      // of the tokens that the last and the next shingle share, times A: for roll()
  uint64_t leaving_ = 1;  // A^ngram
};

// Puts the shingles of `text`, in order and with repetitions, into scratch.shingles. The definition above is that of
// Preset::code; for the others see presets.h.
void make_shingles(std::string_view text, const Shingling& shingling, simd::Level level, Scratch& scratch);

// The same as a set: distinct and ascending.
void make_shingle_set(std::string_view text, const Shingling& shingling, simd::Level level, Scratch& scratch);
inline void make_shingle_set(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch) {
  make_shingle_set(text, Shingling{Preset::code, ngram}, level, scratch);
}

}  // namespace codeshell::dedup
