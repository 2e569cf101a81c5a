#include "boosting/grow.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "boosting/trees.h"
#include "simd/parallel.h"

namespace codeshell::boosting {

namespace {

constexpr double unit = 1.0 / (1 << leaf_bits);

// SplitMix64's finaliser.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// 64 bits for a draw: the seed, the number of the tree, what is drawn, and of what kind.
uint64_t draw(uint64_t seed, uint64_t tree, uint64_t which, uint64_t kind) {
  return mix(mix(mix(mix(seed + 0x9E3779B97F4A7C15u) ^ tree) ^ kind) ^ which);
}

struct Split {
  double gain = 0;
  int32_t feature = -1;
  int32_t bin = 0;
  bool missing_left = false;
};

// A leaf of the tree that is growing: its documents are order[begin .. end).
struct Leaf {
  size_t begin, end;
  int32_t node;
  // No target's prediction may leave these bounds, or a monotone column would be broken further down.
  double low, high;
  Split best;
};

class Grower {
 public:
  Grower(const Binned& data, const double* targets, size_t target_count, const double* target_weight,
         const double* weights, const int64_t* groups, const int64_t* start, const Settings& settings)
      : data_(data),
        targets_(targets),
        count_(target_count),
        target_weight_(target_weight),
        weights_(weights),
        groups_(groups),
        settings_(settings),
        sums_(data.rows * target_count),
        residuals_(data.rows * target_count),
        order_(data.rows) {
    for (size_t i = 0; i < data.rows; ++i) {
      for (size_t t = 0; t < count_; ++t) sums_[i * count_ + t] = start[t];
    }
    grown_.gain.assign(data.features, 0);
  }

  Grown run() {
    for (int32_t t = 0; t < settings_.trees; ++t) tree(static_cast<uint64_t>(t));
    return std::move(grown_);
  }

 private:
  void tree(uint64_t number) {
    // Residuals of what the trees so far predict.
    for (size_t i = 0; i < data_.rows; ++i) {
      for (size_t t = 0; t < count_; ++t) {
        const size_t at = i * count_ + t;
        residuals_[at] = targets_[at] - static_cast<double>(sums_[at]) * unit;
      }
    }
    choose(number);
    if (taken_ == 0) return;
    const size_t first = grown_.feature.size();
    grown_.roots.push_back(static_cast<int64_t>(first));
    constexpr double infinite = std::numeric_limits<double>::infinity();
    std::vector<Leaf> leaves{{0, taken_, add_node(), -infinite, infinite, {}}};
    find_split(leaves[0]);
    // Best first: the split with the largest gain, the earlier leaf among equals.
    while (leaves.size() < static_cast<size_t>(settings_.leaves)) {
      size_t best = 0;
      for (size_t i = 1; i < leaves.size(); ++i) {
        if (leaves[i].best.gain > leaves[best].best.gain) best = i;
      }
      if (leaves[best].best.feature < 0) break;
      Leaf right = split(leaves[best]);
      find_split(leaves[best]);
      find_split(right);
      leaves.push_back(right);
    }
    for (const Leaf& leaf : leaves) finish(leaf);
    // Also the documents that were not drawn get the tree's correction.
    for (size_t i = 0; i < data_.rows; ++i) apply(first, i);
  }

  // Draws the columns and documents of a tree.
  void choose(uint64_t number) {
    columns_.clear();
    std::vector<std::pair<uint64_t, uint32_t>> drawn;
    for (size_t f = 0; f < data_.features; ++f) {
      if (data_.counts[f] > 1) drawn.emplace_back(draw(settings_.seed, number, f, 1), static_cast<uint32_t>(f));
    }
    std::sort(drawn.begin(), drawn.end());
    const auto most = static_cast<size_t>(std::ceil(settings_.column_share * static_cast<double>(drawn.size())));
    drawn.resize(std::min(drawn.size(), std::max<size_t>(most, 1)));
    for (const auto& [key, feature] : drawn) columns_.push_back(feature);
    std::sort(columns_.begin(), columns_.end());
    // A document is in if its group's draw lies below the share of 2^64; a share of 1 takes all.
    const double limit = settings_.row_share * 18446744073709551616.0;
    taken_ = 0;
    for (size_t i = 0; i < data_.rows; ++i) {
      const auto bits = static_cast<double>(draw(settings_.seed, number, static_cast<uint64_t>(groups_[i]), 2));
      if (settings_.row_share >= 1 || bits < limit) order_[taken_++] = static_cast<uint32_t>(i);
    }
  }

  int32_t add_node() {
    grown_.feature.push_back(-1);
    grown_.bin.push_back(0);
    grown_.left.push_back(0);
    grown_.right.push_back(0);
    grown_.missing_left.push_back(0);
    return static_cast<int32_t>(grown_.feature.size() - 1);
  }

  // Squared error that a leaf with these sums takes away, over the targets that count.
  double score(const double* sums, double weight) const {
    double total = 0;
    for (size_t t = 0; t < count_; ++t) total += target_weight_[t] * sums[t] * sums[t];
    return total / (weight + settings_.ridge);
  }

  // Sums of residuals (and at the end of weights) of a leaf's documents by bin of a column.
  void histogram(const Leaf& leaf, size_t feature, std::vector<double>& sums) const {
    const size_t width = count_ + 1;
    sums.assign(data_.counts[feature] * width, 0);
    const uint8_t* const bins = data_.bins + feature * data_.rows;
    for (size_t k = leaf.begin; k < leaf.end; ++k) {
      const size_t i = order_[k];
      double* const sum = sums.data() + bins[i] * width;
      const double weight = weights_[i];
      for (size_t t = 0; t < count_; ++t) sum[t] += weight * residuals_[i * count_ + t];
      sum[count_] += weight;
    }
  }

  Split best_of(const Leaf& leaf, size_t feature) const {
    std::vector<double> sums;
    histogram(leaf, feature, sums);
    const size_t width = count_ + 1, bins = data_.counts[feature];
    std::vector<double> total(width), left(width), right(width);
    for (size_t b = 0; b < bins; ++b) {
      for (size_t t = 0; t < width; ++t) total[t] += sums[b * width + t];
    }
    const double before = score(total.data(), total[count_]);
    const bool any_missing = sums[count_] > 0;
    Split best;
    // Without missing values one pass will do, and those of later documents go to the larger side.
    for (const bool missing_left : {false, true}) {
      if (missing_left && !any_missing) break;
      std::fill(left.begin(), left.end(), 0);
      if (missing_left) std::copy_n(sums.begin(), width, left.begin());
      for (size_t b = 1; b + 1 < bins + (missing_left ? 0 : any_missing); ++b) {
        for (size_t t = 0; t < width; ++t) left[t] += sums[b * width + t];
        for (size_t t = 0; t < width; ++t) right[t] = total[t] - left[t];
        if (left[count_] < settings_.least_weight || right[count_] < settings_.least_weight) continue;
        const double gain = score(left.data(), left[count_]) + score(right.data(), right[count_]) - before;
        // A gain that is only rounding would make empty splits of constant residuals.
        if (gain <= best.gain || gain <= 1e-9 * before + 1e-12 || breaks(feature, left, right)) continue;
        best = {gain, static_cast<int32_t>(feature), static_cast<int32_t>(b),
                any_missing ? missing_left : left[count_] >= right[count_]};
      }
    }
    return best;
  }

  // Whether a split makes the prediction fall where it must rise, or the reverse.
  bool breaks(size_t feature, const std::vector<double>& left, const std::vector<double>& right) const {
    const int sign = data_.monotone[feature];
    if (sign == 0) return false;
    for (size_t t = 0; t < count_; ++t) {
      const double low = left[t] / (left[count_] + settings_.ridge);
      const double high = right[t] / (right[count_] + settings_.ridge);
      if (target_weight_[t] > 0 && sign * (high - low) < 0) return true;
    }
    return false;
  }

  void find_split(Leaf& leaf) const {
    leaf.best = {};
    if (leaf.end - leaf.begin < 2) return;
    // Each column is looked at by one thread; then the best is taken in the order of the columns.
    std::vector<Split> found(columns_.size());
    const auto look = [&](int64_t c) {
      found[static_cast<size_t>(c)] = best_of(leaf, columns_[static_cast<size_t>(c)]);
    };
    // A small leaf is done before a second thread has woken up.
    const bool large = (leaf.end - leaf.begin) * columns_.size() > 200000;
    simd::parallel_for(large ? settings_.threads : 1, static_cast<int64_t>(columns_.size()), look);
    for (const Split& split : found) {
      if (split.feature >= 0 && split.gain > leaf.best.gain) leaf.best = split;
    }
  }

  bool goes_left(const Split& split, size_t row) const {
    const uint8_t bin = data_.bins[static_cast<size_t>(split.feature) * data_.rows + row];
    return bin == 0 ? split.missing_left : bin <= split.bin;
  }

  // Splits a leaf: it keeps the left part, the right one is returned.
  Leaf split(Leaf& leaf) {
    const Split split = leaf.best;
    const auto begin = order_.begin() + static_cast<ptrdiff_t>(leaf.begin);
    const auto end = order_.begin() + static_cast<ptrdiff_t>(leaf.end);
    // Stable, so that sums are always taken in the order of the documents.
    const auto middle = std::stable_partition(begin, end, [&](uint32_t row) { return goes_left(split, row); });
    const auto node = static_cast<size_t>(leaf.node);
    const int32_t left = add_node(), right = add_node();
    grown_.feature[node] = split.feature;
    grown_.bin[node] = split.bin;
    grown_.left[node] = left;
    grown_.right[node] = right;
    grown_.missing_left[node] = split.missing_left;
    grown_.gain[static_cast<size_t>(split.feature)] += split.gain;
    const auto cut = static_cast<size_t>(middle - order_.begin());
    Leaf other{cut, leaf.end, right, leaf.low, leaf.high, {}};
    leaf.end = cut;
    leaf.node = left;
    // On a monotone column all that is below the two sides stays apart at the middle of their means (of the target that
    // counts; a bound is kept for one).
    const int sign = data_.monotone[static_cast<size_t>(split.feature)];
    if (sign != 0) {
      const double between = (mean(leaf) + mean(other)) / 2;
      (sign > 0 ? leaf.high : leaf.low) = between;
      (sign > 0 ? other.low : other.high) = between;
    }
    return other;
  }

  // The correction of a leaf for the target that counts most, within its bounds.
  double mean(const Leaf& leaf) const {
    const auto main = static_cast<size_t>(std::max_element(target_weight_, target_weight_ + count_) - target_weight_);
    double sum = 0, weight = 0;
    for (size_t k = leaf.begin; k < leaf.end; ++k) {
      sum += weights_[order_[k]] * residuals_[order_[k] * count_ + main];
      weight += weights_[order_[k]];
    }
    return std::clamp(sum / (weight + settings_.ridge), leaf.low, leaf.high);
  }

  // Writes the values of a leaf.
  void finish(const Leaf& leaf) {
    const auto main = static_cast<size_t>(std::max_element(target_weight_, target_weight_ + count_) - target_weight_);
    std::vector<double> sums(count_);
    double weight = 0;
    for (size_t k = leaf.begin; k < leaf.end; ++k) {
      const size_t i = order_[k];
      weight += weights_[i];
      for (size_t t = 0; t < count_; ++t) sums[t] += weights_[i] * residuals_[i * count_ + t];
    }
    grown_.left[static_cast<size_t>(leaf.node)] = static_cast<int32_t>(grown_.values.size() / count_);
    for (size_t t = 0; t < count_; ++t) {
      double value = sums[t] / (weight + settings_.ridge);
      if (t == main) value = std::clamp(value, leaf.low, leaf.high);
      // A leaf of more than 64 points does not occur with scores of 0 to 5, and must not overflow with others.
      const double rounded = std::nearbyint(settings_.rate * value / unit);
      grown_.values.push_back(static_cast<int32_t>(std::clamp(rounded, -1073741824.0, 1073741824.0)));
    }
  }

  void apply(size_t root, size_t row) {
    size_t at = root;
    while (grown_.feature[at] >= 0) {
      const Split split{0, grown_.feature[at], grown_.bin[at], grown_.missing_left[at] != 0};
      at = static_cast<size_t>(goes_left(split, row) ? grown_.left[at] : grown_.right[at]);
    }
    const int32_t* const values = grown_.values.data() + static_cast<size_t>(grown_.left[at]) * count_;
    for (size_t t = 0; t < count_; ++t) sums_[row * count_ + t] += values[t];
  }

  const Binned& data_;
  const double* const targets_;
  const size_t count_;
  const double* const target_weight_;
  const double* const weights_;
  const int64_t* const groups_;
  const Settings& settings_;
  std::vector<int64_t> sums_;
  std::vector<double> residuals_;
  std::vector<uint32_t> order_;
  size_t taken_ = 0;
  std::vector<uint32_t> columns_;
  Grown grown_;
};

}  // namespace

Grown grow(const Binned& data, const double* targets, size_t target_count, const double* target_weight,
           const double* weights, const int64_t* groups, const int64_t* start, const Settings& settings) {
  return Grower(data, targets, target_count, target_weight, weights, groups, start, settings).run();
}

}  // namespace codeshell::boosting
