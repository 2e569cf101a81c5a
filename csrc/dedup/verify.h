// The exact Jaccard of pairs of documents, from their shingle sets.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dedup/sets.h"
#include "dedup/workers.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

// How many values two sets share, given as ascending distinct values. Returns early, with a count below `needed`, once
// `needed` is out of reach. So a result of at least `needed` is exact, at every level.
size_t intersection(const uint64_t* a, size_t a_size, const uint64_t* b, size_t b_size, size_t needed,
                    simd::Level level);

// |A and B| / |A or B|; 0 for two empty sets.
inline double jaccard(size_t shared, size_t a_size, size_t b_size) {
  const size_t all = a_size + b_size - shared;
  return all ? static_cast<double>(shared) / static_cast<double>(all) : 0.0;
}

// The least number of shared values with which two sets of these sizes reach the threshold, by `jaccard` with its
// rounding; more than the smaller set has if no number reaches it.
size_t needed_shared(size_t a_size, size_t b_size, double threshold);

// Fills out[count] with the Jaccards of the edges, (count, 2) positions: exact from `threshold` on, and 0 for any that
// is below it (so the threshold 0 asks for all). If edges are sorted by their first document, its set is read only
// once. Returns false if `stop` ended the work. Throws std::invalid_argument for a document that has no set, and
// FileError.
bool verify(const Sets& sets, const uint32_t* edges, size_t count, double threshold, simd::Level level,
            unsigned threads, const Stop& stop, double* out);

}  // namespace codeshell::dedup
