// Scores of known texts: all words are there before the first search, so the searches of a stretch of text run beside
// one another, order by order, with their memory asked for ahead.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ngram/model.h"

namespace codeshell::ngram {

// Memory of a scorer, used again from text to text.
struct Scratch {
  std::vector<uint64_t> keys;  // of the n-gram that was found last, and its longer ones
  std::vector<uint64_t> homes;
  std::vector<uint32_t> active;      // positions that are still searched for
  std::vector<uint8_t> scored;       // positions whose score is asked for, not their backoffs alone
  std::vector<float> probabilities;  // of the longest n-gram found
  std::vector<uint8_t> lengths;      // its length
  std::vector<float> backoffs;       // (order, columns): of the n-grams that end at a position; 0 if not found
};

namespace detail {

// Positions of a text that are searched together. Their keys and results stay in the first-level cache.
inline constexpr size_t block = 512;
// A block's columns: column 0 is the position before the first.
inline constexpr size_t columns = block + 2;
// Searches whose memory is asked for ahead of the one that is answered.
inline constexpr size_t ahead = 16;

// Searches the n-grams of `length` that end at the active positions, and keeps as active those that were found (all, if
// the model's suffixes are not closed). Position i is that of words[first + i].
template <bool Coded, bool Highest>
void search_length(const Model& model, uint32_t length, const uint32_t* words, size_t first, Scratch& s) {
  const Search<Coded, Highest> table(model, length);
  const bool closed = model.closed();
  float* const backoffs = s.backoffs.data() + (length - 1) * columns + 1;
  // A position has no n-gram of a length that begins before the text: those fall out at the front.
  size_t count = 0;
  for (const uint32_t i : s.active) {
    if (first + i + 1 >= length) s.active[count++] = i;
  }
  s.active.resize(count);
  const auto ask = [&](size_t n) {
    const uint32_t i = s.active[n];
    const uint64_t key = longer_key(s.keys[i], words[first + i + 1 - length]);
    s.keys[i] = key;
    const uint64_t home = table.home(spread(key));
    s.homes[i] = home;
    table.prefetch(home);
  };
  for (size_t n = 0; n < std::min(ahead, count); ++n) ask(n);
  size_t kept = 0;
  for (size_t n = 0; n < count; ++n) {
    if (n + ahead < count) ask(n + ahead);
    const uint32_t i = s.active[n];
    const uint8_t* const at = table.find(spread(s.keys[i]), s.homes[i]);
    if (at) {
      const Entry entry = Search<Coded, Highest>::L::entry(at, table.books);
      s.probabilities[i] = entry.probability;
      s.lengths[i] = static_cast<uint8_t>(length);
      if constexpr (!Highest) backoffs[i] = entry.backoff;
    }
    if (at || !closed) s.active[kept++] = i;
  }
  s.active.resize(kept);
}

// Makes room for a block.
inline void prepare(uint32_t order, Scratch& s) {
  s.keys.resize(columns);
  s.homes.resize(columns);
  s.scored.resize(columns);
  s.probabilities.resize(columns);
  s.lengths.resize(columns);
  s.backoffs.assign(order * columns, 0);
}

// Searches all n-grams that end at the active positions, whose backoffs are 0 so far; those of the highest order only
// where a position is scored. No position is active afterwards.
inline void search(const Model& model, const uint32_t* words, size_t first, Scratch& s) {
  const uint32_t order = model.order();
  float* const backoffs = s.backoffs.data() + 1;
  for (const uint32_t i : s.active) {
    const uint32_t word = words[first + i];
    const Entry entry = model.unigram(word);
    s.probabilities[i] = entry.probability;
    s.lengths[i] = 1;
    backoffs[i] = entry.backoff;
    s.keys[i] = first_key(word);
  }
  for (uint32_t length = 2; length < order && !s.active.empty(); ++length) {
    model.coded() ? search_length<true, false>(model, length, words, first, s)
                  : search_length<false, false>(model, length, words, first, s);
  }
  std::erase_if(s.active, [&s](uint32_t i) { return !s.scored[i]; });
  if (order > 1 && !s.active.empty()) {
    model.coded() ? search_length<true, true>(model, order, words, first, s)
                  : search_length<false, true>(model, order, words, first, s);
  }
  s.active.clear();
}

// The base-10 logarithm at a position after `search`: the probability of the longest n-gram found, and the backoffs of
// the longer contexts. Values are float32 in the model and summed in double, contexts by rising length: the same bits
// everywhere.
inline double score_at(uint32_t order, size_t i, const Scratch& s) {
  double sum = s.probabilities[i];
  for (uint32_t k = s.lengths[i]; k < order; ++k) sum += s.backoffs[(k - 1) * columns + i];
  return sum;
}

}  // namespace detail

// Base-10 logarithm of each word's probability given all words before it. words[0] is only a context if `begins` (it is
// <s>).
//
// Calls take(position, log10, length of the n-gram found) in order.
template <class Take>
void score_words(const Model& model, const uint32_t* words, size_t count, bool begins, Scratch& s, const Take& take) {
  using detail::block, detail::columns;
  const uint32_t order = model.order();
  detail::prepare(order, s);
  std::fill(s.scored.begin(), s.scored.end(), 1);
  for (size_t first = 0; first < count; first += block) {
    const size_t size = std::min(block, count - first);
    // Column 0 is the last position of the block before.
    for (uint32_t k = 0; k < order; ++k) {
      float* const row = s.backoffs.data() + k * columns;
      row[0] = first ? row[block] : 0;
      std::fill(row + 1, row + 1 + size, 0.0f);
    }
    s.active.resize(size);
    for (size_t i = 0; i < size; ++i) s.active[i] = static_cast<uint32_t>(i);
    detail::search(model, words, first, s);
    for (size_t i = begins && !first ? 1 : 0; i < size; ++i) {
      take(first + i, detail::score_at(order, i, s), s.lengths[i]);
    }
  }
}

}  // namespace codeshell::ngram
