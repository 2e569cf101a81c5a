// Each operation is rounded by itself: CMakeLists.txt compiles this file without contraction, so that the bits are the
// same on every machine.
#include "boosting/linear.h"

namespace codeshell::boosting {

void score(const LinearScore& s, const double* in, size_t rows, double* out) {
  for (size_t i = 0; i < rows; ++i) {
    double* const sum = out + i * s.targets;
    for (size_t t = 0; t < s.targets; ++t) sum[t] = s.start[t];
    for (size_t c = 0; c < s.columns; ++c) {
      const double scaled = (in[i * s.columns + c] - s.centre[c]) / s.spread[c];
      double value = scaled < -s.farthest ? -s.farthest : scaled > s.farthest ? s.farthest : scaled;
      if (value != value) value = 0;
      const double* const weight = s.weights + c * s.targets;
      for (size_t t = 0; t < s.targets; ++t) sum[t] += value * weight[t];
    }
  }
}

}  // namespace codeshell::boosting
