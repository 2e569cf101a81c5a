// One-permutation sketches (Li, Owen & Zhang, "One Permutation Hashing", NIPS 2012): a second, sharper look at pairs
// that agree by their MinHash bytes, before their whole sets are read.
//
// One hash function cuts the hashes of a set into `bins` ranges; a byte of the sketch is a fingerprint of the smallest
// hash in its range, 0 if there is none. Where either of two sets has a hash, the smallest of their union is as likely
// as any other of the union's hashes; it is of both sets with probability J, and then the bytes are equal. So of
// `filled` bins those equal are at least a draw of `filled` out of the union without replacement: hypergeometric, which
// is sharper than `filled` MinHash lanes, and exact once every hash has a bin of its own. Against 126 MinHash bytes:
// for sets of 700, a standard deviation of .011 instead of .041, and one pass over the shingles makes all of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dedup/sketch.h"
#include "dedup/workers.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

constexpr size_t bins = 1024;  // bytes of a sketch

// Of shingles in any order, repeated or not; `out` has `bins` bytes.
void bin_sketch(const uint64_t* shingles, size_t count, uint8_t* out);

struct Agreement {
  uint32_t filled = 0;  // bins where either has a hash
  uint32_t equal = 0;   // of these, the equal ones
};
// Of `count` bins, a multiple of 32.
using Agree = Agreement (*)(const uint8_t* a, const uint8_t* b, size_t count);
// The same at every level.
Agree agree(simd::Level level);

// Whether two sets may have a Jaccard of `threshold`, by what was seen of all bins or of some. `shingles`: how many
// both have, with or without repetitions. Four standard deviations are allowed: a pair that has just the threshold is
// refused with a probability below 1e-4.
bool may_reach(const Agreement& seen, uint64_t shingles, double threshold);

// keep[e]: may the documents of edge e reach the threshold, by each quarter of the bins that was looked at? Edges:
// (count, 2) numbers of `sketches` (of width `bins`) and of shingles[]. Edges in the order of their first document read
// it once. Returns false if `stop` ended it. Throws std::invalid_argument for a document out of range, and what
// Sketches::read throws.
bool sharpen(const Sketches& sketches, const uint32_t* shingles, const uint32_t* edges, size_t count, double threshold,
             simd::Level level, unsigned threads, const Stop& stop, bool* keep);

}  // namespace codeshell::dedup
