// The SIGN step: one pass over a document's text makes everything that the rest of the deduper needs of it.
//
// A document's shingles (shingles.h) become
//   - its signature: the minima of minhash.h, 32 bits per lane;
//   - band keys: two documents must share one to be candidates (minhash.h);
//   - a sketch: the low byte of every lane, padded with zero bytes to a multiple of 64. The share of equal bytes
//     estimates the Jaccard; on average it is (1 - J) / 256 too high;
//   - a fingerprint: a hash of 128 bits of the multiset of shingles, so that equal documents, and documents that differ
//     only in separators, are found without a comparison;
//   - their number.
#pragma once

#include <cstdint>

#include "dedup/minhash.h"
#include "dedup/shingling.h"
#include "dedup/texts.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

// Where each result goes; null for a result that is not needed.
struct SignOutput {
  uint32_t* lanes = nullptr;         // [count][lanes]; a document without shingles has all lanes 2^32 - 1
  uint64_t* keys = nullptr;          // [count][bands]; 0: no key
  uint8_t* sketches = nullptr;       // [count][sketch_width(lanes)]
  uint64_t* fingerprints = nullptr;  // [count][2]
  uint32_t* counts = nullptr;        // [count]: shingles with repetitions; 2^32 - 1 for that many or more
};

constexpr size_t sketch_width(size_t lanes) { return (lanes + 63) / 64 * 64; }

// `bands` divides minhash.lanes; only the keys depend on it. The result depends on neither `level` nor `threads`.
void sign(const Texts& texts, const Shingling& shingling, const MinHash& minhash, size_t bands, simd::Level level,
          unsigned threads, const SignOutput& out);

}  // namespace codeshell::dedup
