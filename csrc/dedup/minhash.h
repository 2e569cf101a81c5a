// Shingles to MinHash signatures (k minima) and band keys.
//
// Lane i of a signature is the minimum over the shingles s of  multiplier_i * low32(s) + high32(s)  mod 2^32. For
// random s, any two lanes are pairwise independent but for the lowest bits that two multipliers share, at the price of
// one multiplication; multipliers are distinct by construction (a bijection of the lane's number). Integer arithmetic
// only: scalar, AVX2 and AVX-512 give the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "dedup/texts.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

// Lanes are computed in blocks of this many: eight AVX-512 registers of minima and eight of multipliers.
constexpr size_t lane_block = 128;

struct MinHash {
  uint32_t ngram;
  size_t lanes;
  std::vector<uint32_t> multipliers;  // padded to whole blocks

  MinHash(uint32_t ngram, size_t lanes, uint64_t seed);

  // Fills out[count][lanes]. A document without shingles has all lanes 2^32 - 1.
  void sign(const Texts& texts, simd::Level level, unsigned threads, uint32_t* out) const;
};

// A band's key: h = mix64(band + 1); for each of its rows v: h = mix64(h ^ v). Key 0 means "no key": a document without
// shingles has only those, and is a candidate of nothing. Fills out[count][bands] from signatures[count][bands * rows].
void band_keys(const uint32_t* signatures, size_t count, size_t bands, size_t rows, uint64_t* out);

}  // namespace codeshell::dedup
