// Boosted trees over columns, and the linear head on hashed n-grams of the text: csrc/boosting.
//
// Like all bindings, it checks the caller's arrays under the GIL, then works without it on memory that it borrows.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "bindings/buffers.h"
#include "bindings/quality.h"
#include "boosting/grow.h"
#include "boosting/linear.h"
#include "boosting/ngrams.h"
#include "boosting/sparse.h"
#include "boosting/trees.h"

namespace codeshell::bindings {

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
void check_size(const Array<T>& array, py::ssize_t size, const char* name) {
  if (array.ndim() != 1 || array.size() != size) {
    throw py::value_error(std::string(name) + ": must have " + std::to_string(size) + " elements");
  }
}

template <typename T>
Array<T> take(const std::vector<T>& values) {
  return Array<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

std::unique_ptr<boosting::Trees> make_trees(const Array<int32_t>& feature, const Array<double>& threshold,
                                            const Array<int32_t>& left, const Array<int32_t>& right,
                                            const Array<uint8_t>& missing_left, const Array<int64_t>& roots,
                                            const Array<int32_t>& values, int64_t features) {
  const py::ssize_t nodes = feature.size();
  check_size(feature, nodes, "feature");
  check_size(threshold, nodes, "threshold");
  check_size(left, nodes, "left");
  check_size(right, nodes, "right");
  check_size(missing_left, nodes, "missing_left");
  if (roots.ndim() != 1) throw py::value_error("roots: must be (trees,)");
  if (values.ndim() != 2) throw py::value_error("values: must be (leaves, targets)");
  if (features < 1) throw py::value_error("features: must be 1 or more");
  // std::invalid_argument, which the constructor throws, is a ValueError in Python.
  return std::make_unique<boosting::Trees>(boosting::StoredTrees{
      feature.data(), threshold.data(), left.data(), right.data(), missing_left.data(), static_cast<size_t>(nodes),
      roots.data(), static_cast<size_t>(roots.size()), values.data(), static_cast<size_t>(values.shape(0)),
      static_cast<size_t>(values.shape(1)), static_cast<size_t>(features)});
}

// Returns (documents, targets) int64, in units of 2^-24.
Array<int64_t> sum_trees(const boosting::Trees& trees, const Array<double>& rows) {
  if (rows.ndim() != 2 || rows.shape(1) != static_cast<py::ssize_t>(trees.features())) {
    throw py::value_error("rows: must be (documents, " + std::to_string(trees.features()) + ")");
  }
  Array<int64_t> results({rows.shape(0), static_cast<py::ssize_t>(trees.targets())});
  const double* const data = rows.data();
  const auto count = static_cast<size_t>(rows.shape(0));
  int64_t* const out = results.mutable_data();
  py::gil_scoped_release release;
  trees.sum(data, count, out);
  return results;
}

py::dict grow(const Array<uint8_t>& bins, const Array<uint16_t>& counts, const Array<int8_t>& monotone,
              const Array<double>& targets, const Array<double>& target_weight, const Array<double>& weights,
              const Array<int64_t>& groups, const Array<int64_t>& start, const py::kwargs& options) {
  if (bins.ndim() != 2) throw py::value_error("bins: must be (features, rows)");
  const py::ssize_t features = bins.shape(0), rows = bins.shape(1);
  if (rows < 1 || features < 1) throw py::value_error("bins: must have a row and a column");
  check_size(counts, features, "counts");
  check_size(monotone, features, "monotone");
  if (targets.ndim() != 2 || targets.shape(0) != rows || targets.shape(1) < 1) {
    throw py::value_error("targets: must be (rows, targets)");
  }
  check_size(target_weight, targets.shape(1), "target_weight");
  check_size(weights, rows, "weights");
  check_size(groups, rows, "groups");
  check_size(start, targets.shape(1), "start");
  for (py::ssize_t f = 0; f < features; ++f) {
    if (counts.at(f) < 1 || counts.at(f) > 256) throw py::value_error("counts: must be 1 to 256");
    const uint8_t* const column = bins.data() + f * rows;
    for (py::ssize_t i = 0; i < rows; ++i) {
      if (column[i] >= counts.at(f)) throw py::value_error("bins: beyond the column's count");
    }
  }
  boosting::Settings settings{
      options["trees"].cast<int32_t>(),       options["leaves"].cast<int32_t>(), options["rate"].cast<double>(),
      options["least_weight"].cast<double>(), options["ridge"].cast<double>(),   options["column_share"].cast<double>(),
      options["row_share"].cast<double>(),    options["seed"].cast<uint64_t>(),  options["threads"].cast<int>()};
  if (settings.trees < 0 || settings.leaves < 1 || settings.threads < 1) {
    throw py::value_error("trees, leaves and threads: must be positive");
  }
  const boosting::Binned data{bins.data(), counts.data(), monotone.data(), static_cast<size_t>(rows),
                              static_cast<size_t>(features)};
  const double *const y = targets.data(), *const of_target = target_weight.data(), *const w = weights.data();
  const int64_t *const group = groups.data(), *const first = start.data();
  const auto target_count = static_cast<size_t>(targets.shape(1));
  boosting::Grown grown;
  {
    py::gil_scoped_release release;
    grown = boosting::grow(data, y, target_count, of_target, w, group, first, settings);
  }
  py::dict result;
  result["feature"] = take(grown.feature);
  result["bin"] = take(grown.bin);
  result["left"] = take(grown.left);
  result["right"] = take(grown.right);
  result["missing_left"] = take(grown.missing_left);
  result["roots"] = take(grown.roots);
  result["values"] = take(grown.values).reshape({py::ssize_t{-1}, targets.shape(1)});
  result["gain"] = take(grown.gain);
  return result;
}

// Returns indices (entries,) uint32 (each text's ascending), counts (entries,) uint32 and bounds (texts + 1,) int64.
py::tuple count_ngrams(const py::buffer& data, const Offsets& offsets, int64_t bits, int64_t most_bytes) {
  const TextBatch batch(data, offsets);
  if (bits < 8 || bits > 20) throw py::value_error("bits: must be 8 to 20");
  if (most_bytes < 1) throw py::value_error("most_bytes: must be 1 or more");
  std::vector<uint32_t> indices, counts;
  std::vector<int64_t> bounds{0};
  {
    py::gil_scoped_release release;
    boosting::NgramCounter counter(static_cast<uint32_t>(bits));
    for (size_t i = 0; i < batch.texts.count; ++i) {
      counter.count(batch.texts[i].substr(0, static_cast<size_t>(most_bytes)));
      for (const auto& [index, count] : counter.sorted()) {
        indices.push_back(index);
        counts.push_back(count);
      }
      bounds.push_back(static_cast<int64_t>(indices.size()));
    }
  }
  return py::make_tuple(take(indices), take(counts), take(bounds));
}

// Returns (texts, targets) float64: the sums of the weights over the length of the text's vector.
Array<double> score_ngrams(const py::buffer& data, const Offsets& offsets, int64_t bits, int64_t most_bytes,
                           const Array<uint16_t>& rarity, const Array<int16_t>& weights) {
  const TextBatch batch(data, offsets);
  if (bits < 8 || bits > 20) throw py::value_error("bits: must be 8 to 20");
  if (most_bytes < 1) throw py::value_error("most_bytes: must be 1 or more");
  const py::ssize_t buckets = py::ssize_t{1} << bits;
  check_size(rarity, buckets, "rarity");
  if (weights.ndim() != 2 || weights.shape(0) != buckets) throw py::value_error("weights: must be (2^bits, targets)");
  Array<double> results({static_cast<py::ssize_t>(batch.texts.count), weights.shape(1)});
  double* const out = results.mutable_data();
  const auto targets = static_cast<size_t>(weights.shape(1));
  const uint16_t* const rare = rarity.data();
  const int16_t* const weight = weights.data();
  {
    py::gil_scoped_release release;
    boosting::NgramCounter counter(static_cast<uint32_t>(bits));
    for (size_t i = 0; i < batch.texts.count; ++i) {
      counter.count(batch.texts[i].substr(0, static_cast<size_t>(most_bytes)));
      counter.score(rare, weight, targets, out + i * targets);
    }
  }
  return results;
}

// Returns (rows, targets) float64.
Array<double> linear_score(const Array<double>& rows, const Array<double>& centre, const Array<double>& spread,
                           const Array<double>& weights, const Array<double>& start, double farthest) {
  if (rows.ndim() != 2) throw py::value_error("rows: must be (documents, columns)");
  const py::ssize_t columns = rows.shape(1);
  check_size(centre, columns, "centre");
  check_size(spread, columns, "spread");
  if (weights.ndim() != 2 || weights.shape(0) != columns) {
    throw py::value_error("weights: must be (columns, targets)");
  }
  check_size(start, weights.shape(1), "start");
  Array<double> results({rows.shape(0), weights.shape(1)});
  const boosting::LinearScore score{centre.data(),
                                    spread.data(),
                                    weights.data(),
                                    start.data(),
                                    static_cast<size_t>(columns),
                                    static_cast<size_t>(weights.shape(1)),
                                    farthest};
  const double* const in = rows.data();
  const auto count = static_cast<size_t>(rows.shape(0));
  double* const out = results.mutable_data();
  py::gil_scoped_release release;
  boosting::score(score, in, count, out);
  return results;
}

// A matrix of sparse rows: entries bounds[i] .. bounds[i + 1] of `columns` and `values` are row i's.
struct Sparse {
  const uint32_t* columns;
  const double* values;
  const int64_t* bounds;
  size_t rows;

  Sparse(const Array<uint32_t>& columns_of, const Array<double>& values_of, const Array<int64_t>& bounds_of,
         py::ssize_t width) {
    check_size(values_of, columns_of.size(), "values");
    if (bounds_of.ndim() != 1 || bounds_of.size() < 1) throw py::value_error("bounds: must be (rows + 1,)");
    columns = columns_of.data();
    values = values_of.data();
    bounds = bounds_of.data();
    rows = static_cast<size_t>(bounds_of.size() - 1);
    if (bounds[0] != 0 || bounds[rows] != columns_of.size()) throw py::value_error("bounds: must span the entries");
    for (size_t i = 0; i < rows; ++i) {
      if (bounds[i] > bounds[i + 1]) throw py::value_error("bounds: must not fall");
    }
    for (py::ssize_t e = 0; e < columns_of.size(); ++e) {
      if (columns[e] >= static_cast<size_t>(width)) throw py::value_error("columns: beyond the matrix");
    }
  }
};

// Returns the product (rows, targets) of sparse rows and a dense matrix (width, targets).
Array<double> sparse_product(const Array<uint32_t>& columns, const Array<double>& values, const Array<int64_t>& bounds,
                             const Array<double>& dense) {
  if (dense.ndim() != 2) throw py::value_error("dense: must be (width, targets)");
  const Sparse matrix(columns, values, bounds, dense.shape(0));
  Array<double> result({static_cast<py::ssize_t>(matrix.rows), dense.shape(1)});
  const auto targets = static_cast<size_t>(dense.shape(1));
  const double* const in = dense.data();
  double* const out = result.mutable_data();
  py::gil_scoped_release release;
  boosting::product(matrix.columns, matrix.values, matrix.bounds, matrix.rows, in, targets, out);
  return result;
}

// Returns the product (width, targets) of the transposed sparse rows and a dense matrix (rows, targets).
Array<double> sparse_transposed(const Array<uint32_t>& columns, const Array<double>& values,
                                const Array<int64_t>& bounds, const Array<double>& dense, int64_t width) {
  if (width < 1) throw py::value_error("width: must be 1 or more");
  const Sparse matrix(columns, values, bounds, width);
  if (dense.ndim() != 2 || dense.shape(0) != static_cast<py::ssize_t>(matrix.rows)) {
    throw py::value_error("dense: must be (rows, targets)");
  }
  Array<double> result({static_cast<py::ssize_t>(width), dense.shape(1)});
  const auto targets = static_cast<size_t>(dense.shape(1));
  const double* const in = dense.data();
  double* const out = result.mutable_data();
  std::fill_n(out, static_cast<size_t>(width) * targets, 0.0);
  py::gil_scoped_release release;
  boosting::transposed(matrix.columns, matrix.values, matrix.bounds, matrix.rows, in, targets, out);
  return result;
}

}  // namespace

void bind_boosting(py::module_& module) {
  module.attr("leaf_bits") = boosting::leaf_bits;
  py::class_<boosting::Trees>(module, "Trees", "An ensemble that is checked and laid out for evaluation.")
      .def(py::init(&make_trees), py::arg("feature").noconvert(), py::arg("threshold").noconvert(),
           py::arg("left").noconvert(), py::arg("right").noconvert(), py::arg("missing_left").noconvert(),
           py::arg("roots").noconvert(), py::arg("values").noconvert(), py::arg("features"))
      .def("sum", &sum_trees, py::arg("rows").noconvert(), "Sums of leaves (documents, targets), in units of 2^-24.");
  module.def("grow", &grow, py::arg("bins").noconvert(), py::arg("counts").noconvert(), py::arg("monotone").noconvert(),
             py::arg("targets").noconvert(), py::arg("target_weight").noconvert(), py::arg("weights").noconvert(),
             py::arg("groups").noconvert(), py::arg("start").noconvert(),
             "Grow an ensemble on binned columns; see csrc/boosting/grow.h.");
  module.def("count_ngrams", &count_ngrams, py::arg("data"), py::arg("offsets"), py::arg("bits"), py::arg("most_bytes"),
             "Hashed n-grams of all texts as sparse rows; see csrc/boosting/ngrams.h.");
  module.def("score_ngrams", &score_ngrams, py::arg("data"), py::arg("offsets"), py::arg("bits"), py::arg("most_bytes"),
             py::arg("rarity").noconvert(), py::arg("weights").noconvert(),
             "The linear head on hashed n-grams; see csrc/boosting/ngrams.h.");
  module.def("linear_score", &linear_score, py::arg("rows").noconvert(), py::arg("centre").noconvert(),
             py::arg("spread").noconvert(), py::arg("weights").noconvert(), py::arg("start").noconvert(),
             py::arg("farthest"), "A linear score on standardised columns; see csrc/boosting/linear.h.");
  module.def("sparse_product", &sparse_product, py::arg("columns").noconvert(), py::arg("values").noconvert(),
             py::arg("bounds").noconvert(), py::arg("dense").noconvert(), "Sparse rows times a dense matrix.");
  module.def("sparse_transposed", &sparse_transposed, py::arg("columns").noconvert(), py::arg("values").noconvert(),
             py::arg("bounds").noconvert(), py::arg("dense").noconvert(), py::arg("width"),
             "The transposed sparse rows times a dense matrix.");
}

}  // namespace codeshell::bindings
