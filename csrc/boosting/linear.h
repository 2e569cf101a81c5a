// A linear score on columns; codeshell/boosting/linear.py says what it is.
#pragma once

#include <cstddef>

namespace codeshell::boosting {

struct LinearScore {
  const double* centre;   // (columns,)
  const double* spread;   // (columns,)
  const double* weights;  // (columns, targets)
  const double* start;    // (targets,)
  size_t columns, targets;
  double farthest;  // a standardised value lies within this distance of 0
};

// out (rows, targets): the start, then the columns in order, each standardised value times its weights. A value that is
// missing (NaN) counts as the mean. in (rows, columns).
void score(const LinearScore& s, const double* in, size_t rows, double* out);

}  // namespace codeshell::boosting
