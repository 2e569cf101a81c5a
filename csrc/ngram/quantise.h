// Eight-bit codes of floats: a codebook that is close to a set of values, made of a histogram, so that it needs neither
// the values in memory nor in any order.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ngram/format.h"

namespace codeshell::ngram {

struct Codebook {
  std::array<float, codes> values{};  // rising; those that are not used repeat the last
  uint32_t used = 0;

  // The code of the nearest value; of two that are as near, the lower one.
  uint8_t code(float value) const;
};

class Histogram {
 public:
  Histogram() : counts_(bins) {}
  void add(float value) { ++counts_[bin(value)]; }
  // At most `size` values whose squared distance to the values added is small: Lloyd's algorithm from quantiles. The
  // result depends on the multiset of values alone. With `with_zero`, 0 is among them, for it is exact and common.
  Codebook codebook(uint32_t size, bool with_zero) const;

 private:
  // The upper 20 bits of a float: sign, exponent and 11 bits of the mantissa, a relative step of 2^-11.
  static constexpr uint32_t shift = 12;
  static constexpr size_t bins = size_t{1} << (32 - shift);
  static size_t bin(float value);
  static double middle(size_t bin);
  std::vector<uint64_t> counts_;
};

}  // namespace codeshell::ngram
