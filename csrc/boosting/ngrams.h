// Hashed n-grams of a text, and a linear score on them.
//
// A text becomes tokens: a word (letters, digits, _, $ and all bytes above 127), a number, a run of blanks, a line end
// with what follows it (the indentation grows, falls or stays), or any other byte. Each token is seen twice: as it is,
// and as its shape, where a word is only its style (snake_case, camelCase, PascalCase, CONSTANT, one letter, lower case
// by length). Words tell what a file is about, shapes how it is written, whatever the project calls its things.
//
//   counted   tokens, pairs of shapes and triples of shapes: each hashed to one of 2^bits buckets
//   damped    a bucket that is hit c times counts 1 + ln c, in integers (23 + 16 log2 c, log2 piecewise linear)
//   scored    sum of damped * weight over all buckets, over the length of the vector damped * rarity
//
// All sums are of integers, and one square root and one division of doubles end the score: the same bits everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace codeshell::boosting {

// With at most 2^20 buckets and counts below 2^32, the squared length stays below 2^63.
inline constexpr uint32_t most_rarity = 4095;

// 16 times 1 / ln 2 + log2 c, so in units of 1 / 23 it is about 1 + ln c. `count` is 1 or more.
inline uint32_t damped(uint32_t count) {
  const auto power = static_cast<uint32_t>(31 - __builtin_clz(count));
  const uint64_t rest = uint64_t{count} - (uint64_t{1} << power);
  return 23 + 16 * power + static_cast<uint32_t>(rest * 16 >> power);
}

class NgramCounter {
 public:
  explicit NgramCounter(uint32_t bits);

  // Counts the n-grams of a text, in place of those of the text before.
  void count(std::string_view text);

  // (bucket, count) of the buckets that are hit, ascending.
  std::vector<std::pair<uint32_t, uint32_t>> sorted() const;

  // Writes `targets` scores; 0 for a text without n-grams.
  //   rarity   (2^bits,) at most `most_rarity`
  //   weights  (2^bits, targets)
  void score(const uint16_t* rarity, const int16_t* weights, size_t targets, double* scores) const;

 private:
  void add(uint64_t hash) {
    const auto bucket = static_cast<uint32_t>(hash >> shift_);
    // Without a branch: whether a bucket is new is hard to guess.
    hit_[hits_] = bucket;
    hits_ += counts_[bucket]++ == 0;
  }

  uint32_t shift_;
  std::vector<uint32_t> counts_;
  std::vector<uint32_t> hit_;  // the first `hits_`: buckets with a count, in the order of the text
  size_t hits_ = 0;
};

}  // namespace codeshell::boosting
