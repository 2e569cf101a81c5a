// Products of sparse rows with dense matrices of a few columns, for the training of the linear head. Sums are taken in
// the order of the entries, so that a model does not depend on a library of linear algebra or its threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace codeshell::boosting {

// out (rows, targets) = matrix (rows, width) * in (width, targets).
inline void product(const uint32_t* columns, const double* values, const int64_t* bounds, size_t rows, const double* in,
                    size_t targets, double* out) {
  for (size_t i = 0; i < rows; ++i) {
    double* const sum = out + i * targets;
    for (size_t t = 0; t < targets; ++t) sum[t] = 0;
    for (int64_t e = bounds[i]; e < bounds[i + 1]; ++e) {
      const double* const row = in + size_t{columns[e]} * targets;
      for (size_t t = 0; t < targets; ++t) sum[t] += values[e] * row[t];
    }
  }
}

// out (width, targets) += matrix^T (width, rows) * in (rows, targets).
inline void transposed(const uint32_t* columns, const double* values, const int64_t* bounds, size_t rows,
                       const double* in, size_t targets, double* out) {
  for (size_t i = 0; i < rows; ++i) {
    const double* const row = in + i * targets;
    for (int64_t e = bounds[i]; e < bounds[i + 1]; ++e) {
      double* const sum = out + size_t{columns[e]} * targets;
      for (size_t t = 0; t < targets; ++t) sum[t] += values[e] * row[t];
    }
  }
}

}  // namespace codeshell::boosting
