// The ids of words that a thread has met before. Text repeats its words, so this is where most ids come from.
//
// Two tables of fixed size, in which a word has one place and takes it from whatever word was there: memory is bounded
// whatever the text is, and no word is ever wrong, because the bytes are compared. Words of up to 16 bytes are kept as
// two numbers, in one cache line with their ids; words of up to `kLongBytes` in two cache lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "text/hash.h"

namespace codeshell::bpe {

class WordCache {
 public:
  static constexpr size_t kShortBytes = 16, kShortIds = 11;
  static constexpr size_t kLongBytes = 72, kLongIds = 13;

  WordCache() : short_(size_t{1} << kShortBits), long_(size_t{1} << kLongBits) {}

  struct alignas(64) Short {
    text::HashBlock key;
    uint16_t size = 0, count = 0;  // 0 bytes: free
    uint32_t ids[kShortIds];
  };
  struct alignas(64) Long {
    uint16_t size = 0, count = 0;
    char key[kLongBytes];
    uint32_t ids[kLongIds];
  };
  static_assert(sizeof(Short) == 64 && sizeof(Long) == 128);

  // The place of a word of 1 to `kShortBytes` bytes, which `block` holds.
  Short& place(text::HashBlock block, size_t size) {
    return short_[text::hash_block(block, size) >> (64 - kShortBits)];
  }
  static bool holds(const Short& place, text::HashBlock block, size_t size) {
    return place.key.low == block.low && place.key.high == block.high && place.size == size;
  }

  // The place of a word of up to `kLongBytes` bytes; memory may be read up to `limit`, which is not before its end.
  Long& place(std::string_view word, const char* limit) {
    return long_[text::hash_bytes(word.data(), word.size(), limit) >> (64 - kLongBits)];
  }
  static bool holds(const Long& place, std::string_view word) {
    return place.size == word.size() && !std::memcmp(place.key, word.data(), word.size());
  }

 private:
  static constexpr int kShortBits = 15, kLongBits = 13;  // 2 MiB and 1 MiB

  std::vector<Short> short_;
  std::vector<Long> long_;
};

}  // namespace codeshell::bpe
