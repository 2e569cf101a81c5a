// Counts the words of texts, for training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "bpe/split.h"

namespace codeshell::bpe {

// Different words and how often each has occurred, in the order in which they were first seen.
class WordCounts {
 public:
  WordCounts() : places_(kFirstPlaces, 0) {}

  void add(std::string_view word, uint64_t count = 1);
  // Adds what another one has counted.
  void add(const WordCounts& other);

  size_t size() const { return counts_.size(); }
  size_t bytes() const { return bytes_.size(); }
  std::string_view word(size_t i) const { return {bytes_.data() + begins_[i], begins_[i + 1] - begins_[i]}; }
  uint64_t count(size_t i) const { return counts_[i]; }

 private:
  static constexpr size_t kFirstPlaces = 1 << 12;

  void grow();

  std::vector<char> bytes_;
  std::vector<uint64_t> begins_{0};
  std::vector<uint64_t> hashes_, counts_;
  // Open addressing: the number of a word plus one, or 0; its size is a power of two.
  std::vector<uint32_t> places_;
};

// Counts the words of a text that is well-formed UTF-8. A word of more than `longest` characters counts as several
// words of that length and a rest.
void count_words(std::string_view text, const Splitter& splitter, size_t longest, WordCounts& counts);

}  // namespace codeshell::bpe
