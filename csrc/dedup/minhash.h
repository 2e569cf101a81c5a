// Shingles to MinHash signatures (k minima) and band keys.
//
// Lane i of a signature is the minimum over the shingles s of  multiplier_i * low32(s) + high32(s)  mod 2^32. For
// random s, any two lanes are pairwise independent except for the lowest bits that two multipliers share. This costs
// one multiplication per lane and shingle. Multipliers are distinct by construction (a bijection of the lane's number).
// All arithmetic is on integers, so scalar, NEON, AVX2 and AVX-512 code give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simd/cpu.h"

namespace codeshell::dedup {

// Lanes are computed in blocks of this many: eight AVX-512 registers of minima and eight of multipliers.
constexpr size_t lane_block = 128;

// The hash functions of a signature: one multiplier per lane, from the seed.
struct MinHash {
  size_t lanes;
  std::vector<uint32_t> multipliers;  // padded to whole blocks

  MinHash(size_t lanes, uint64_t seed);

  size_t padded() const { return multipliers.size(); }

  // Lowers minima[padded()], which start as 2^32 - 1, to the minima that include some more shingles.
  void update(const uint64_t* shingles, size_t count, simd::Level level, uint32_t* minima) const;
};

// The band keys of one signature[bands * rows]: h = mix64(band + 1); then h = mix64(h ^ v) for each of the band's rows
// v. A key that would be 0 becomes 1, because 0 means "no key". A document without shingles gets only zeros (from the
// caller, who does not call this), and callers must skip it: it is a candidate of nothing.
void band_keys(const uint32_t* signature, size_t bands, size_t rows, simd::Level level, uint64_t* keys);

}  // namespace codeshell::dedup
