#include "ngram/quantise.h"

#include <algorithm>
#include <bit>

namespace codeshell::ngram {

uint8_t Codebook::code(float value) const {
  const auto end = values.begin() + used;
  const auto above = std::lower_bound(values.begin(), end, value);
  if (above == values.begin()) return 0;
  if (above == end) return static_cast<uint8_t>(used - 1);
  const auto i = static_cast<size_t>(above - values.begin());
  const double down = static_cast<double>(value) - values[i - 1], up = static_cast<double>(values[i]) - value;
  return static_cast<uint8_t>(up < down ? i : i - 1);
}

// The bits of a float as a number that rises with it.
size_t Histogram::bin(float value) {
  const auto bits = std::bit_cast<uint32_t>(value == 0 ? 0.0f : value);
  return (bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u)) >> shift;
}

double Histogram::middle(size_t bin) {
  const auto mapped = static_cast<uint32_t>(bin << shift | size_t{1} << (shift - 1));
  return std::bit_cast<float>(mapped ^ (mapped >> 31 ? 0x80000000u : 0xFFFFFFFFu));
}

Codebook Histogram::codebook(uint32_t size, bool with_zero) const {
  // Prefix sums over the bins in use: position, weight, weight times position.
  std::vector<double> place, weight{0}, moment{0};
  for (size_t i = 0; i < bins; ++i) {
    if (!counts_[i] || (with_zero && i == bin(0))) continue;
    place.push_back(middle(i));
    weight.push_back(weight.back() + static_cast<double>(counts_[i]));
    moment.push_back(moment.back() + static_cast<double>(counts_[i]) * place.back());
  }
  const uint32_t limit = with_zero ? size - 1 : size;
  std::vector<double> centres;
  if (place.size() <= limit) {
    centres = place;
  } else {
    // Quantiles first: as many values in each cell.
    std::vector<size_t> cuts(limit + 1);
    for (uint32_t c = 0; c <= limit; ++c) {
      const double target = weight.back() * c / limit;
      cuts[c] = static_cast<size_t>(std::lower_bound(weight.begin(), weight.end(), target) - weight.begin());
    }
    cuts[limit] = place.size();
    for (int round = 0; round < 50; ++round) {
      // Each cell's mean; empty cells vanish.
      centres.clear();
      for (uint32_t c = 0; c < limit; ++c) {
        const double mass = weight[cuts[c + 1]] - weight[cuts[c]];
        if (mass > 0) centres.push_back((moment[cuts[c + 1]] - moment[cuts[c]]) / mass);
      }
      // Each place belongs to the nearest mean. Cells that vanished leave the end of the list empty.
      for (uint32_t c = 1; c < limit; ++c) {
        if (c >= centres.size()) {
          cuts[c] = place.size();
          continue;
        }
        const double border = (centres[c - 1] + centres[c]) / 2;
        cuts[c] = static_cast<size_t>(std::upper_bound(place.begin(), place.end(), border) - place.begin());
      }
    }
  }
  if (with_zero) centres.push_back(0);
  Codebook book;
  std::vector<float> rounded(centres.begin(), centres.end());
  if (rounded.empty()) rounded.push_back(0);
  std::sort(rounded.begin(), rounded.end());
  rounded.erase(std::unique(rounded.begin(), rounded.end()), rounded.end());
  book.used = static_cast<uint32_t>(rounded.size());
  for (size_t i = 0; i < codes; ++i) book.values[i] = rounded[std::min(i, rounded.size() - 1)];
  return book;
}

}  // namespace codeshell::ngram
