// What the fuzz targets share: a check that ends the process, and the reading of an input.
//
// An input is a header of a few bytes, which choose options, and a body. Bytes that are not there are zeros, so every
// input means something. tests/dedup/test_fuzz.py reads the same format: keep the two alike.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "dedup/hash.h"
#include "simd/cpu.h"

namespace codeshell::fuzz {

inline void require_that(bool condition, const char* what, int line) {
  if (condition) return;
  std::fprintf(stderr, "line %d: not true: %s\n", line, what);
  std::abort();
}
#define REQUIRE(condition) codeshell::fuzz::require_that(condition, #condition, __LINE__)

class Input {
 public:
  Input(const uint8_t* data, size_t size, size_t header)
      : data_(data), size_(size), body_(data + std::min(header, size)), body_size_(size - std::min(header, size)) {}

  uint8_t operator[](size_t i) const { return i < size_ ? data_[i] : 0; }
  const uint8_t* body() const { return body_; }
  size_t body_size() const { return body_size_; }

  // The body over and over.
  uint8_t around(size_t i) const { return body_size_ ? body_[i % body_size_] : 0; }

 private:
  const uint8_t* const data_;
  const size_t size_;
  const uint8_t* const body_;
  const size_t body_size_;
};

// Scalar code is the reference; a bit of the input chooses what is held against it.
inline simd::Level wide(bool less) { return std::min(less ? simd::Level::avx2 : simd::Level::avx512, simd::level()); }

}  // namespace codeshell::fuzz
