// From band keys to candidate pairs: documents with an equal key are a group, and the pairs of a group whose sketches
// agree enough are candidates.
//
// Grouping needs equal keys side by side, not in order, and keys are hashes with uniform bits. So the records
// (key, document) pass through:
//
//   records --bits 0-7--> 256 partitions --bits 8-15--> 256 buckets --next bits--> cells --key--> groups
//             by thread    one per task                 in the L1/L2 cache         of a few records
//
// The two passes are radix partitions of 12-byte records with 256 streams, whose write positions stay in the
// first-level cache. Within a bucket records are counted by their next bits; a record that is alone in its cell, as
// most are, is done. Bits are counted from the lowest.
//
// A group of g documents takes at most g * largest / 2 comparisons of sketches if it is small, and g * leaders if it is
// large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dedup/sketch.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

// Which documents take part: one flag or one bit each (the lowest first). Exactly one of the two is given.
struct Chosen {
  const bool* flags;
  const uint8_t* bits;
  size_t count;

  bool operator[](uint32_t document) const {
    return flags ? flags[document] : bits[document >> 3] >> (document & 7) & 1;
  }
};

struct GroupOptions {
  size_t lanes;
  uint32_t least;         // equal bytes of a candidate pair
  uint32_t sure;          // equal bytes of a pair that surely reaches the threshold
  uint32_t largest;       // documents of a group whose pairs are all compared
  uint32_t leaders;       // leaders of a larger group
  uint32_t leader_edges;  // edges of one document to the leaders of one group
};

struct GroupCounts {
  uint64_t groups = 0;         // of two or more documents
  uint64_t largest_group = 0;  // documents
  uint64_t large_groups = 0;   // of more than `largest`
  uint64_t pairs_compared = 0;
};

struct GroupResult {
  std::vector<uint64_t> edges;  // later rank << 32 | earlier rank; ascending, distinct
  std::vector<uint32_t> heavy;  // documents of larger groups that no leader absorbed; ascending, distinct
  GroupCounts counts;
};

// Record i is (keys[i], documents[i]); records come in any order, and the key 0 is "no key". `rank` holds the places of
// the documents in the keep order, or is null for their own order. `sketches` may be null: then every pair is a
// candidate, and a larger group gives each of its documents an edge to each of the first `leaders` (this costs as much
// per document as a group of 2 * leaders with all pairs).
//
// Otherwise the documents of a larger group are taken in rank order. Each is compared with the leaders so far and gets
// edges to those with at least `least` equal bytes (to `leader_edges` of them; see Neighbours). If one reaches `sure`,
// the document is absorbed. If none does, it is `heavy`, and it becomes a leader itself while there is room.
//
// The result does not depend on the order of the records, on `threads` or on `level`. Memory beyond the input and the
// result: 12 bytes per record that takes part, and some megabytes per thread. Throws std::invalid_argument for a
// document beyond `chosen`, and whatever Sketches::read throws.
GroupResult group_edges(const uint64_t* keys, const uint32_t* documents, size_t count, const Chosen& chosen,
                        const uint32_t* rank, const Sketches* sketches, const GroupOptions& options, simd::Level level,
                        unsigned threads);

// Sorts ascending and removes repetitions.
void sort_unique(std::vector<uint64_t>& values);

}  // namespace codeshell::dedup
