// Training of boosted regression trees on columns that are cut into bins (Friedman 2001; histograms and best-first
// growth as in LightGBM, Ke et al. 2017), for squared error and several targets at once.
//
// Each tree is grown on the residuals: it splits the leaf whose split takes away most squared error, until it has
// `leaves` leaves. A split looks at the sums of residuals and weights by bin of each column. Documents without a value
// (bin 0) try both sides. All targets share the splits; `target_weight` says how much each counts in choosing them.
//
// Every sum is taken in the order of the documents, each column's on one thread, and chance is a hash. So the trees are
// the same for any number of threads. What a tree adds to the prediction is rounded to units of 2^-24 before the next
// one is grown: training sees exactly what evaluation will give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace codeshell::boosting {

struct Binned {
  const uint8_t* bins;     // (features, rows); bin 0 holds what is missing
  const uint16_t* counts;  // (features,): bins of each column, bin 0 included; at most 256
  const int8_t* monotone;  // (features,): 1 the prediction must not fall as the column rises, -1 not rise, 0 free
  size_t rows;
  size_t features;
};

struct Settings {
  int32_t trees;
  int32_t leaves;       // of a tree at most
  double rate;          // share of a tree's correction that is applied
  double least_weight;  // of the documents of a leaf
  double ridge;         // weight of imagined documents with residual 0 in each leaf
  double column_share;  // of the columns, drawn for each tree
  double row_share;     // of the documents (or groups), drawn for each tree
  uint64_t seed;
  int threads;
};

struct Grown {
  // As in StoredTrees, but `threshold` is a bin: it and those below it go left.
  std::vector<int32_t> feature, bin, left, right;
  std::vector<uint8_t> missing_left;
  std::vector<int64_t> roots;
  std::vector<int32_t> values;
  std::vector<double> gain;  // (features,): squared error that the splits on each column took away
};

// Grows an ensemble.
//   targets        (rows, target_count)
//   target_weight  (target_count,), not all 0
//   weights        (rows,), positive
//   groups         (rows,): documents of one group are drawn together
//   start          (target_count,): the prediction before the first tree, in units of 2^-24
Grown grow(const Binned& data, const double* targets, size_t target_count, const double* target_weight,
           const double* weights, const int64_t* groups, const int64_t* start, const Settings& settings);

}  // namespace codeshell::boosting
