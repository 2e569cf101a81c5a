// From the counts of the highest order to the counts of every order, in one pass in suffix order.
//
// An n-gram below the highest order counts how many different words stand before it ("adjusted count"); one that begins
// with <s>, before which nothing can stand, counts how often it occurs. In suffix order all n-grams that end with the
// same words follow one another, so that it takes one open n-gram for each order.
#pragma once

#include <array>
#include <vector>

#include "ngram/count.h"

namespace codeshell::ngram {

// In the count of a record: the n-gram is pruned.
inline constexpr uint64_t pruned_mark = uint64_t{1} << 63;

// Takes the n-grams of each order above 1, ascending; of order 1, counts by id.
template <class Key>
class Adjuster {
 public:
  // Unigrams are written to unigrams[id], which several adjusters share: each has the ids of its own keys.
  Adjuster(Packing packing, const std::vector<uint64_t>& prune, std::vector<uint64_t>& unigrams, Storage& storage)
      : order_(packing.order), bits_(packing.bits), prune_(prune), unigrams_(unigrams) {
    for (int n = 0; n <= order_; ++n) spools.push_back(std::make_unique<Spool<Counted<Key>>>(storage));
  }

  // The next key of the highest order.
  void add(const Counted<Key>& full) {
    const int valid = valid_orders(full.key), same = open_ ? equal_words(full.key, last_) : 0;
    // Close what ends here. What both keys begin with is valid in both.
    for (; open_ > same; --open_) close(open_);
    // What continues has occurred more often; the longest of it has one more word before it.
    for (int n = 1; n <= same; ++n) occurs_[at(n)] += full.count;
    if (same) ++adjusted_[at(same)];
    // Open the rest: seen after one word, or at the beginning of documents, where each time counts.
    for (open_ = same; open_ < std::min(valid, order_ - 1);) {
      ++open_;
      adjusted_[at(open_)] = open_ == valid ? full.count : 1;
      occurs_[at(open_)] = full.count;
    }
    last_ = full.key;
    if (valid == order_) put(order_, full.key, full.count, full.count);
  }

  void finish() {
    for (; open_ > 0; --open_) close(open_);
  }

  std::vector<std::unique_ptr<Spool<Counted<Key>>>> spools;  // by order; none for 0 and 1
  std::array<OrderSummary, max_trained_order + 1> summaries{};

 private:
  static size_t at(int n) { return static_cast<size_t>(n); }
  // Digit i of a key of the highest order, from the last word.
  uint32_t digit(Key key, int i) const {
    return static_cast<uint32_t>(key >> (bits_ * static_cast<unsigned>(order_ - 1 - i))) & ((1u << bits_) - 1);
  }

  // How many orders the key has n-grams of: up to the first <s> from the right.
  int valid_orders(Key key) const {
    int n = 1;
    while (n < order_ && digit(key, n - 1) != begin_id) ++n;
    return n;
  }

  int equal_words(Key a, Key b) const {
    int n = 0;
    while (n < open_ && digit(a, n) == digit(b, n)) ++n;
    return n;
  }

  void close(int n) { put(n, last_ >> (bits_ * static_cast<unsigned>(order_ - n)), adjusted_[at(n)], occurs_[at(n)]); }

  void put(int n, Key key, uint64_t count, uint64_t occurs) {
    OrderSummary& summary = summaries[at(n)];
    const bool pruned = n > 1 && occurs <= prune_[at(n - 1)];
    ++summary.ngrams;
    summary.kept += !pruned;
    if (count < summary.with_count.size()) ++summary.with_count[count];
    if (n == 1)
      unigrams_[static_cast<size_t>(key)] = count;
    else
      spools[at(n)]->append({key, pruned ? count | pruned_mark : count});
  }

  int order_;
  unsigned bits_;
  const std::vector<uint64_t>& prune_;
  std::vector<uint64_t>& unigrams_;
  int open_ = 0;  // orders 1 … open_ have an open n-gram: the last words of `last_`
  Key last_ = 0;
  std::array<uint64_t, max_trained_order + 1> adjusted_{}, occurs_{};
};

}  // namespace codeshell::ngram
