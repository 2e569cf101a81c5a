// A vocabulary and its merges: turns a word into ids as Hugging Face's BPE does.
//
// The rule: of all pairs of neighbours that a merge of the file joins, the one of the lowest rank is joined, the first
// of them where there are several, until none is left. This holds for any list of merges, also one in which a part is
// made later than what it is a part of (the released tokenizer has 701 of these). So no shortcut is taken that needs a
// list in good order. A word of up to `kShort` bytes is joined by looking through all its pairs for the lowest, a longer
// one with a queue, so that the time grows as its length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpe/rank_queue.h"

namespace codeshell::bpe {

// A merge: the tokens `left` and `right` become `product`. Its rank is its place in the list; of two merges of the
// same pair the later counts.
struct Merge {
  uint32_t left, right, product;
};

// What joins a pair of tokens, by open addressing: a pair is at its hash or in a place directly after it.
class Merges {
 public:
  struct Found {
    uint32_t rank, product;
  };
  static constexpr uint32_t kNone = 0x7FFFFF;  // above every rank

  explicit Merges(const std::vector<Merge>& merges);

  // One more than the highest rank.
  size_t ranks() const { return ranks_; }

  Found find(uint32_t left, uint32_t right) const {
    const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
    for (size_t i = place(key);; i = (i + 1) & mask_) {
      const Entry& entry = entries_[i];
      if (entry.key == key) return {entry.rank, entry.product};
      if (entry.key == kEmpty) return {kNone, 0};
    }
  }

 private:
  struct Entry {
    uint64_t key = kEmpty;
    uint32_t rank = kNone, product = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  size_t place(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }

  std::vector<Entry> entries_;
  size_t mask_ = 0, ranks_;
  int shift_ = 0;
};

// What one thread needs to join a word; it is used again for the next.
struct WordBuffers {
  std::vector<uint32_t> ids, products, ranks, next, before;
  RankQueue queue;
};

class Model {
 public:
  static constexpr int32_t kMissing = -1;
  static constexpr size_t kShort = 128;

  // `bytes` is the id of each byte's token, or `kMissing`: such a byte is left out. `whole` are words that are one
  // token whatever the merges say (ignore_merges).
  Model(std::vector<int32_t> bytes, const std::vector<Merge>& merges, std::unordered_map<std::string, uint32_t> whole);

  // The id of a word of one byte, or `kMissing`.
  int32_t of_byte(uint8_t byte) const { return bytes_[byte]; }

  // Writes the ids of a word to `out`, which has room for its size, and returns their number.
  size_t encode(std::string_view word, WordBuffers& buffers, uint32_t* out) const;

 private:
  size_t encode_short(uint32_t count, WordBuffers& buffers, uint32_t* out) const;
  size_t encode_long(uint32_t count, WordBuffers& buffers, uint32_t* out) const;

  std::vector<int32_t> bytes_;
  std::vector<Merges::Found> byte_pairs_;  // (256, 256): what joins the tokens of two bytes
  Merges merges_;
  std::unordered_map<std::string, uint32_t> whole_;
};

}  // namespace codeshell::bpe
