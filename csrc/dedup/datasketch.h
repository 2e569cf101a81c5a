// Signatures equal, bit for bit, to those of the Python package datasketch (2.0). The caller passes in the
// permutations.
//
//   scheme    lane k = the minimum over the set of                          lanes     m
//   --------  ------------------------------------------------------------  --------  -----------------------------
//   legacy    ((a_k * h + b_k mod 2^64) mod (2^61 - 1)) mod 2^32            64 bits
//   affine32  a_k * m(h) + b_k mod 2^32                                     32 bits   MurmurHash3's 32-bit finaliser
//   affine64  a_k * m(h) + b_k mod 2^64                                     64 bits   MurmurHash3's 64-bit finaliser
//
// In legacy the product wraps before the prime is taken, as it does in datasketch: this is no universal hashing, but it
// gives the same numbers.
//
// h is the first 4 or 8 bytes of the SHA-1 of the shingle's bytes, little endian, which is datasketch's default. Lanes
// begin at 2^32 - 1 (legacy, affine32) or 2^64 - 1 (affine64); a set without elements keeps these values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dedup/shingling.h"
#include "dedup/texts.h"
#include "dedup/workers.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

enum class SketchScheme : uint8_t { legacy, affine32, affine64 };

// The permutations of a scheme: a[k], b[k] for lane k.
struct Datasketch {
  SketchScheme scheme;
  size_t permutations;
  bool wide;  // h has 64 bits; never with affine32
  // Padded to whole blocks of the kernels; only the low halves count for affine32.
  std::vector<uint64_t> a, b;

  Datasketch(SketchScheme scheme, const uint64_t* a, const uint64_t* b, size_t permutations, bool wide);

  // Writes the lanes of a set of hash values: uint64_t out[permutations], or uint32_t for affine32. The hashes
  // are overwritten.
  void minima(uint64_t* hashes, size_t count, simd::Level level, void* out) const;

  size_t lane_bytes() const { return scheme == SketchScheme::affine32 ? 4 : 8; }
};

// Fills out[texts.count][permutations]. Returns false if `stop` ended the work.
bool sketch_texts(const Texts& texts, const Shingling& shingling, const Datasketch& datasketch, simd::Level level,
                  unsigned threads, const Stop& stop, uint8_t* out);

// The same for sets of strings: set i has the tokens [sets[i], sets[i + 1]).
bool sketch_sets(const Texts& tokens, const int64_t* sets, size_t count, const Datasketch& datasketch,
                 simd::Level level, unsigned threads, const Stop& stop, uint8_t* out);

// The same for sets of ready hash values: set i has values[sets[i] .. sets[i + 1]).
bool sketch_hashes(const uint64_t* values, const int64_t* sets, size_t count, const Datasketch& datasketch,
                   simd::Level level, unsigned threads, const Stop& stop, uint8_t* out);

}  // namespace codeshell::dedup
