// Shingles to MinHash signatures (k minima) and band keys.
//
// Lane i of a signature is the minimum over the shingles s of  multiplier_i * low32(s) + high32(s)  mod 2^32. For
// random s, any two lanes are pairwise independent but for the lowest bits that two multipliers share, at the price of
// one multiplication; multipliers are distinct by construction (a bijection of the lane's number). Integer arithmetic
// only: scalar, NEON, AVX2 and AVX-512 code give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simd/cpu.h"

namespace codeshell::dedup {

// Lanes are computed in blocks of this many: eight AVX-512 registers of minima and eight of multipliers.
constexpr size_t lane_block = 128;

struct MinHash {
  size_t lanes;
  std::vector<uint32_t> multipliers;  // padded to whole blocks

  MinHash(size_t lanes, uint64_t seed);

  size_t padded() const { return multipliers.size(); }

  // Lowers minima[padded()], which start as 2^32 - 1, by some more shingles.
  void update(const uint64_t* shingles, size_t count, simd::Level level, uint32_t* minima) const;
};

// The keys of one signature[bands * rows]: h = mix64(band + 1); for each of the band's rows v: h = mix64(h ^ v); 1
// instead of 0, for key 0 means "no key". A document without shingles has only those (the caller's matter): it is a
// candidate of nothing.
void band_keys(const uint32_t* signature, size_t bands, size_t rows, simd::Level level, uint64_t* keys);

}  // namespace codeshell::dedup
