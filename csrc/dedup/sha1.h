// SHA-1 (FIPS 180-4) of many short strings, as the hash functions of datasketch use it: the first eight bytes of the
// digest as a little-endian number (sha1_hash64); its low half is sha1_hash32. Not for security.
//
// With AVX-512, sixteen strings at once, one per lane. Otherwise one by one, with the processor's SHA instructions if
// it has them, else in plain C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simd/cpu.h"

namespace codeshell::dedup {

class Sha1 {
 public:
  explicit Sha1(simd::Level level);

  // out[i] is the hash of the string bytes[begins[i] .. ends[i]).
  void hash(const char* bytes, const int64_t* begins, const int64_t* ends, size_t count, uint64_t* out);

 private:
  void hash_lanes(const char* bytes, const int64_t* begins, const int64_t* ends, size_t count, uint64_t* out);

  using Compress = void (*)(uint32_t* state, const uint8_t* block);
  const Compress compress_;
  const bool lanes_;
  std::vector<uint32_t> waiting_[4];  // strings of 1, 2, 3, 4 blocks, until there are sixteen
};

}  // namespace codeshell::dedup
