// The SIGN step: everything that the rest of the deduper needs of a document, from one pass over its text.
//
// A document's shingles (shingles.h) become
//   - its signature: the minima of minhash.h, 32 bits a lane;
//   - band keys, of which two documents must share one to be candidates (minhash.h);
//   - a sketch: the low byte of every lane, padded with zero bytes to whole 64: the share of equal bytes estimates the
//     Jaccard, 1/256 of the difference too high;
//   - a fingerprint: 128 bits of the multiset of shingles, so that equal documents, and those that differ in nothing
//     but separators, are found without a comparison;
//   - their number.
#pragma once

#include <cstdint>

#include "dedup/minhash.h"
#include "dedup/shingling.h"
#include "dedup/texts.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

// Where to put what; null where it is not wanted.
struct SignOutput {
  uint32_t* lanes = nullptr;         // [count][lanes]; a document without shingles has all lanes 2^32 - 1
  uint64_t* keys = nullptr;          // [count][bands]; 0: no key
  uint8_t* sketches = nullptr;       // [count][sketch_width(lanes)]
  uint64_t* fingerprints = nullptr;  // [count][2]
  uint32_t* counts = nullptr;        // [count]: shingles with repetitions; 2^32 - 1 for that many or more
};

constexpr size_t sketch_width(size_t lanes) { return (lanes + 63) / 64 * 64; }

// `bands` divides minhash.lanes; it matters for keys only. The result depends on neither `level` nor `threads`.
void sign(const Texts& texts, const Shingling& shingling, const MinHash& minhash, size_t bands, simd::Level level,
          unsigned threads, const SignOutput& out);

}  // namespace codeshell::dedup
