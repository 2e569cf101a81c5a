// CPSJoin (Christiani, Pagh, Sivertsen, "Scalable and Robust Set Similarity Join", arXiv 1707.06814): candidate pairs
// without band keys, for documents of which too many share their keys (licence headers, templates), or for all.
//
// A sketch is the set {(lane, byte)}; the share of elements that two of them have in common estimates the Jaccard. The
// search starts with the set S of all documents. If |S| <= limit, it compares all pairs. Otherwise it chooses
// 1 / threshold lanes in expectation, by a hash of the path that led here, splits S by the byte of each lane, and
// continues with every part. A pair at the threshold stays together in one part in expectation, at any depth, while
// other pairs are separated. `repetitions` independent trees make up for bad luck.
//
//                     S = all documents
//            lane 17 /                \ lane 3        1 / threshold lanes
//         byte 0 .. byte 255    byte 0 .. byte 255    256 parts each
//           |          |          |          |
//        <= limit   > limit    <= limit   > limit     small parts: all pairs; others: sets of the next level
//
// What differs from the paper, and why:
// - BRUTEFORCE in the paper takes every document whose average similarity to S exceeds (1 - eps) threshold, and
//   compares it with all of S: quadratic in a dense S. Here a sample of S shows whether some document surely resembles
//   at least a quarter of it. If so, the documents that resemble it leave S as a cluster. In a small cluster all pairs
//   are compared; in a larger one each document is compared with the earliest members. So the cost is proportional to
//   the output.
// - Each document has a budget of comparisons and splits, the same in every repetition. The tree is walked level by
//   level: small parts, whose documents share a rare value, come before the deep ones, whose documents only share a
//   template. So the budget leaves out the deep ones.
// - A level holds at most `copies` times the documents: where more would survive, the expected number of lanes falls
//   towards 1. So memory is linear too.
// - 1 / threshold lanes are rounded to a neighbouring integer at random (not drawn from a binomial: less variance), the
//   lanes of the roots differ between repetitions, and a lane in which S does not vary is passed over.
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

// Joins the documents positions[0 .. count) of `sketches` (null: 0 .. count - 1). Their places in the keep order are
// rank[0 .. count), all distinct (null: the positions themselves). The result does not depend on the order of the
// documents, on `threads` or on `level`. Memory: count * (lanes + width + 8 * neighbours) bytes, and up to 50 * count
// per thread. The sketches are not copied if they are in memory, all of them take part, and they are in the order of
// rank. Throws std::invalid_argument for equal ranks, and whatever Sketches::read throws.
CpsJoinResult cpsjoin(const Sketches& sketches, const uint32_t* positions, const uint32_t* rank, size_t count,
                      const CpsJoinOptions& options, simd::Level level, unsigned threads);

}  // namespace codeshell::dedup
