// Sums of the scores of known texts under several models with the same units.
//
// Code repeats itself: of its trigrams of common words and classes five in six were met a moment before. So what the
// last words cost under each model is remembered, and only what is new is searched for in the tables.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "ngram/score.h"

namespace codeshell::ngram {

// What an n-gram of the models' order costs at its last word: a cache with one place for each hash. Keys are whole
// n-grams, so what is found is what a search would give, and scores do not depend on what was met before.
class Memo {
 public:
  // With a key and two values each, the places fill a part of the second-level cache.
  static constexpr uint32_t place_bits = 15;

  Memo(size_t models, uint32_t order, uint32_t vocabulary)
      : word_bits_(static_cast<uint32_t>(std::bit_width(vocabulary - 1))),
        mask_((uint64_t{1} << order * word_bits_) - 1),
        stride_(1 + models),
        cells_(stride_ << place_bits, no_key) {}

  // Whether n-grams have keys, of less than 64 bits.
  static bool fits(uint32_t order, uint32_t vocabulary) {
    return order > 1 && vocabulary > 1 && order * static_cast<uint32_t>(std::bit_width(vocabulary - 1)) < 64;
  }

  // The key of the n-gram that ends with `word`, from that of the one before it.
  uint64_t next(uint64_t key, uint32_t word) const { return (key << word_bits_ | word) & mask_; }
  // The place of a key: the key that is there, then the bits of a value for each model.
  uint64_t* place(uint64_t key) { return cells_.data() + (key * 0x9E3779B97F4A7C15ULL >> (64 - place_bits)) * stride_; }

 private:
  static constexpr uint64_t no_key = ~uint64_t{0};

  uint32_t word_bits_;
  uint64_t mask_;
  size_t stride_;
  std::vector<uint64_t> cells_;
};

// Memory of `score_sums`, used again from text to text.
struct SumScratch {
  Scratch search;
  std::vector<double> values;     // (block, models)
  std::vector<uint32_t> missing;  // positions of a block that must be searched for
  std::vector<uint64_t> keys;     // of these
};

// The sum over all words of what `score_words` takes, for each model: sums (models,). The values and the order of the
// additions are the same, and so are the bits. The models have one order and one vocabulary, those of `memo`.
template <size_t kinds>
void score_sums(const Model* const* models, const uint32_t* words, size_t count, bool begins, SumScratch& s, Memo& memo,
                double* sums) {
  using detail::block, detail::columns;
  const uint32_t order = models[0]->order();
  s.values.resize(block * kinds);
  s.missing.resize(block);
  s.keys.resize(block);
  double total[kinds] = {};
  uint64_t key = 0;
  for (size_t first = 0; first < count; first += block) {
    const size_t size = std::min(block, count - first);
    size_t missing = 0;
    // Without a branch: which n-grams are new is as hard to guess as the text.
    const auto note = [&](size_t i, bool is_missing) {
      s.missing[missing] = static_cast<uint32_t>(i);
      s.keys[missing] = key;
      missing += is_missing;
    };
    size_t i = 0;
    // The first words of a text end no n-gram of the full order.
    const size_t short_end = first ? 0 : std::min<size_t>(size, order - 1);
    for (; i < short_end; ++i) {
      key = memo.next(key, words[i]);
      note(i, true);
    }
    for (; i < size; ++i) {
      key = memo.next(key, words[first + i]);
      const uint64_t* const place = memo.place(key);
      double* const value = s.values.data() + i * kinds;
      for (size_t m = 0; m < kinds; ++m) value[m] = std::bit_cast<double>(place[1 + m]);
      note(i, *place != key);
    }
    // Position j of the search is word origin + j: the word before the block gives backoffs.
    const size_t lead = first ? 1 : 0, origin = first - lead;
    for (size_t m = 0; missing && m < kinds; ++m) {
      Scratch& search = s.search;
      detail::prepare(order, search);
      search.active.clear();
      std::fill(search.scored.begin(), search.scored.end(), 0);
      for (size_t n = 0; n < missing; ++n) {
        const uint32_t j = s.missing[n] + static_cast<uint32_t>(lead);
        // The position before gives backoffs, too.
        if (j && (search.active.empty() || search.active.back() != j - 1)) search.active.push_back(j - 1);
        search.active.push_back(j);
        search.scored[j] = 1;
      }
      detail::search(*models[m], words, origin, search);
      for (size_t n = 0; n < missing; ++n) {
        const size_t at = s.missing[n];
        s.values[at * kinds + m] = detail::score_at(order, at + lead, search);
      }
    }
    for (size_t n = 0; n < missing; ++n) {
      const size_t at = s.missing[n];
      if (at < short_end) continue;
      uint64_t* const place = memo.place(s.keys[n]);
      place[0] = s.keys[n];
      for (size_t m = 0; m < kinds; ++m) place[1 + m] = std::bit_cast<uint64_t>(s.values[at * kinds + m]);
    }
    for (size_t at = begins && !first ? 1 : 0; at < size; ++at) {
      for (size_t m = 0; m < kinds; ++m) total[m] += s.values[at * kinds + m];
    }
  }
  for (size_t m = 0; m < kinds; ++m) sums[m] = total[m];
}

}  // namespace codeshell::ngram
