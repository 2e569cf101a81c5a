// Discounts from counts of counts; what each context gives away; and the interpolation of the orders.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ngram/adjust.h"
#include "ngram/count.h"
#include "ngram/runs.h"
#include "ngram/trainer.h"

namespace codeshell::ngram {

// An n-gram's own share of its probability, and what its context leaves to the shorter n-gram.
template <class Key>
struct Weighted {
  Key key;  // suffix order
  float own, rest;
};

// What a context leaves to shorter n-grams: its backoff, not yet a logarithm.
template <class Key>
struct Backoff {
  Key key;  // of the context, suffix order
  float rest;
};

// The probability of an n-gram, for the longer ones.
template <class Key>
struct Probability {
  Key key;
  double value;
};

// Chen and Goodman's equation 26: D_i = i − (i + 1) Y n_{i+1} / n_i with Y = n_1 / (n_1 + 2 n_2). Small closed
// vocabularies have no n-grams of some counts; then the fallback.
inline void set_discounts(OrderSummary& summary) {
  const auto n = [&](size_t i) { return static_cast<double>(summary.with_count[i]); };
  bool usable = summary.with_count[1] && summary.with_count[2] && summary.with_count[3];
  for (size_t i = 1; usable && i < 4; ++i) {
    const double y = n(1) / (n(1) + 2 * n(2)), number = static_cast<double>(i);
    summary.discount[i] = number - (number + 1) * y * n(i + 1) / n(i);
    usable = summary.discount[i] >= 0 && summary.discount[i] <= number;
  }
  if (!usable) summary.discount = {0, 0.5, 1, 1.5};
  summary.fallback = !usable;
}

inline double discount_of(const OrderSummary& summary, uint64_t count) {
  return summary.discount[static_cast<size_t>(std::min<uint64_t>(count, 3))];
}

// The share of a context's counts that goes to shorter n-grams: its n-grams' discounts, and all of the pruned ones.
class Remainder {
 public:
  void add(uint64_t marked) {
    const uint64_t count = marked & ~pruned_mark;
    total_ += count;
    if (marked & pruned_mark)
      pruned_ += count;
    else
      ++kinds_[static_cast<size_t>(std::min<uint64_t>(count, 3))];
  }
  double total() const { return static_cast<double>(total_); }
  double share(const OrderSummary& summary) const {
    double sum = static_cast<double>(pruned_);
    for (size_t i = 1; i < 4; ++i) sum += summary.discount[i] * static_cast<double>(kinds_[i]);
    return sum / total();
  }

 private:
  uint64_t total_ = 0, pruned_ = 0;
  std::array<uint64_t, 4> kinds_{};
};

// A key of `order` digits in context order: the context in suffix order, then the last word; and back.
template <class Key>
Key to_context_order(Key key, int order, unsigned bits) {
  const unsigned top = bits * static_cast<unsigned>(order - 1);
  return (key & ((Key{1} << top) - 1)) << bits | key >> top;
}
template <class Key>
Key to_suffix_order(Key key, int order, unsigned bits) {
  const unsigned top = bits * static_cast<unsigned>(order - 1);
  return (key & ((Key{1} << bits) - 1)) << top | key >> bits;
}

// Segments one after another.
template <class Record>
class Chain {
 public:
  explicit Chain(std::vector<Segment<Record>> segments) : segments_(std::move(segments)) { open(); }
  bool done() const { return !reader_ || reader_->done(); }
  const Record& operator*() const { return **reader_; }
  void next() {
    reader_->next();
    if (reader_->done()) open();
  }

 private:
  void open() {
    while (at_ < segments_.size()) {
      reader_ = std::make_unique<Reader<Record>>(segments_[at_++]);
      if (!reader_->done()) return;
    }
  }
  std::vector<Segment<Record>> segments_;
  size_t at_ = 0;
  std::unique_ptr<Reader<Record>> reader_;
};

}  // namespace codeshell::ngram
