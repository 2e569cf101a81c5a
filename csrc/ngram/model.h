// A model file, mapped or read into memory, and the searches in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ngram/format.h"
#include "ngram/key.h"
#include "ngram/mapping.h"

namespace codeshell::ngram {

// What is wrong with a file, as the rest of a line that begins with its name.
struct ModelError {
  std::string message;
};

// Where a foreign model has <s> and </s> at other ids than 1 and 2, its words lie at their own ids except that these two
// have changed places with whatever was there. A model's tables are searched by its own ids.
class IdSwap {
 public:
  IdSwap(uint32_t begin, uint32_t end) : begin_(begin), end_(end == 1 ? begin : end) {}
  bool any() const { return begin_ != 1 || end_ != 2; }
  uint32_t to_unit(uint32_t id) const { return swapped(swapped(id, 1, begin_), 2, end_); }
  uint32_t to_model(uint32_t id) const { return swapped(swapped(id, 2, end_), 1, begin_); }

 private:
  static uint32_t swapped(uint32_t id, uint32_t a, uint32_t b) { return id == a ? b : id == b ? a : id; }
  uint32_t begin_, end_;
};

// What a table says of an n-gram.
struct Entry {
  float probability;
  float backoff;
};

// How entries lie in memory; see format.h. Each has found() and entry() at the same address.
template <bool Coded, bool Highest>
struct EntryLayout {
  static constexpr size_t bytes = entry_bytes(Coded, Highest);

  static uint32_t check(const uint8_t* at) {
    if constexpr (Coded) {
      uint16_t check;
      std::memcpy(&check, at, 2);
      return check;
    } else {
      uint32_t check;
      std::memcpy(&check, at, 4);
      return check;
    }
  }
  static Entry entry(const uint8_t* at, const float* books) {
    if constexpr (Coded) {
      return {books[at[2]], Highest ? 0 : books[codes + at[3]]};
    } else {
      Entry entry{0, 0};
      std::memcpy(&entry, at + 4, Highest ? 4 : 8);
      return entry;
    }
  }
};

class Model {
 public:
  using Memory = Mapping::Memory;

  // Throws ModelError for a file that is none of ours, another version, cut short or damaged, and std::system_error.
  Model(const std::string& path, Memory memory);

  const Header& header() const { return *header_; }
  uint32_t order() const { return header_->order; }
  bool coded() const { return header_->flags & quantised; }
  bool closed() const { return header_->flags & suffix_closed; }
  std::string_view units() const { return part(header_->units); }
  std::string_view metadata() const { return part(header_->metadata); }
  // Of the words in the order of a table's entries.
  std::string_view kept_words(uint32_t length) const { return part(header_->tables[length - 1].words); }
  const uint8_t* table(uint32_t length) const { return base_ + header_->tables[length - 1].part.offset; }
  // 256 probabilities and 256 backoffs of a length; null in a plain file.
  const float* books(uint32_t length) const { return books_.empty() ? nullptr : &books_[2 * codes * (length - 1)]; }

  Entry unigram(uint32_t word) const {
    const uint8_t* const at = base_ + header_->tables[0].part.offset + word * unigram_bytes(coded());
    if (coded()) return {books(1)[at[0]], books(1)[codes + at[1]]};
    Entry entry;
    std::memcpy(&entry, at, sizeof(entry));
    return entry;
  }

 private:
  std::string_view part(const Part& part) const {
    return {reinterpret_cast<const char*>(base_) + part.offset, static_cast<size_t>(part.bytes)};
  }
  void check() const;

  Mapping file_;
  const uint8_t* base_;
  const Header* header_;
  std::vector<float> books_;
};

// A search in one table. Copied out of the model, so that loops keep it in registers.
template <bool Coded, bool Highest>
struct Search {
  using L = EntryLayout<Coded, Highest>;
  const uint8_t* base;
  uint64_t slots, all_slots, longest;
  const float* books;

  Search(const Model& model, uint32_t length)
      : base(model.table(length)),
        slots(model.header().tables[length - 1].slots),
        all_slots(model.header().tables[length - 1].all_slots),
        longest(model.header().tables[length - 1].longest),
        books(model.books(length)) {}

  uint64_t home(uint64_t key) const { return home_slot(key, slots); }
  void prefetch(uint64_t home) const { __builtin_prefetch(base + home * L::bytes); }
  // The address of the entry of a spread key whose home this is; null if there is none.
  const uint8_t* find(uint64_t key, uint64_t home) const {
    const uint32_t check = check_of(key, check_mask(Coded));
    // A search ends at an empty slot, and never looks further than the longest way of the table.
    const uint8_t* at = base + home * L::bytes;
    const uint8_t* const end = base + std::min(home + longest + 1, all_slots) * L::bytes;
    for (; at != end; at += L::bytes) {
      const uint32_t here = L::check(at);
      if (here == check) return at;
      if (!here) return nullptr;
    }
    return nullptr;
  }
};

}  // namespace codeshell::ngram
