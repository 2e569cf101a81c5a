// CPSJoin (Christiani, Pagh, Sivertsen, "Scalable and Robust Set Similarity Join", arXiv 1707.06814): candidate pairs
// without band keys, for documents of which too many share their keys (licence headers, templates), or for all.
//
// A sketch is the set {(lane, byte)}; two of them have in common the share of bytes that estimates the Jaccard. From
// the set S of all documents: if |S| <= limit, compare all pairs; otherwise take 1 / threshold lanes in expectation, by
// a hash of the path that led here, split S by the byte of each, and go on with every part. A pair at the threshold
// stays together in one part in expectation, whatever the depth, while others are separated; `repetitions` independent
// trees make up for bad luck.
//
// What differs from the paper, and why:
// - BRUTEFORCE there compares with all of S every document whose average similarity to S exceeds (1 - eps) threshold:
//   quadratic in a dense S. Here a sample of S shows whether some document resembles at least a quarter of it surely;
//   then those that do leave S as a cluster: all pairs of a small one, and of a larger one each document with the
//   earliest members. So the cost is proportional to the output.
// - Each document has a budget of comparisons and splits, the same in every repetition. The tree is walked level by
//   level: the small parts, where a rare value was shared, come before the deep ones, in which documents only share a
//   template, and it is those that the budget leaves out.
// - A level holds at most `copies` times the documents: the expected number of lanes falls towards 1 where more would
//   survive. So memory is linear too.
// - 1 / threshold lanes are rounded to a neighbouring integer at random (not binomial: less variance), those of the
//   roots differ between repetitions, and a lane in which S does not vary is passed over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dedup/sketch.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

struct CpsJoinOptions {
  size_t lanes;
  double threshold;  // Jaccard, in (0, 1]
  uint32_t least;    // equal bytes of a candidate pair
  uint32_t sure;     // equal bytes of a pair that surely reaches the threshold
  uint64_t seed;
  uint32_t repetitions;
  uint32_t limit;       // documents of a set whose pairs are all compared
  uint32_t neighbours;  // candidates of one document; see Neighbours
  uint32_t budget;      // comparisons and splits of one document in all repetitions
};

struct CpsJoinCounts {
  uint64_t compared = 0;   // pairs; at most budget * documents
  uint64_t splits = 0;     // documents put into the part of a lane; compared + splits <= budget * documents
  uint64_t clusters = 0;   // dense parts
  uint64_t exhausted = 0;  // documents that met the end of their budget
  uint64_t depth = 0;      // levels of the deepest tree
};

struct CpsJoinResult {
  std::vector<uint64_t> edges;  // later rank << 32 | earlier rank; ascending, distinct
  CpsJoinCounts counts;
};

// Documents positions[0 .. count) (null: 0 .. count - 1) of `sketches`, whose places in the keep order are rank[0 ..
// count), distinct (null: the positions themselves). The result does not depend on the order of the documents, on
// `threads` or on `level`. Memory: count * (lanes + width + 8 * neighbours) bytes, and up to 50 * count a thread; no
// second copy of the sketches if they are in memory, all are wanted and in the order of rank. Throws
// std::invalid_argument for equal ranks, and what Sketches::read throws.
CpsJoinResult cpsjoin(const Sketches& sketches, const uint32_t* positions, const uint32_t* rank, size_t count,
                      const CpsJoinOptions& options, simd::Level level, unsigned threads);

}  // namespace codeshell::dedup
