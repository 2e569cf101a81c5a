// Products of fp32 matrices on the CPU: C = A B, C += A B, or C = A B + bias, with B packed once for all rows of A.
//
// For training on processors where torch's library spends a fifth of a product on copying its operands (MKL on AMD:
// docs/decisions.md). A is read where it lies, rows or columns first; B is copied into panels of kColumns columns, whose
// rows the register kernel then reads one after the other. Every element of C is summed by one thread, over blocks of
// kDepth terms in order, so its bits depend neither on `threads` nor on the other elements.
#pragma once

#include <cstdint>

#include "product/rows_cpu.h"

namespace codeshell::product {

// The depth of a block: its panel of B, 16 KB with AVX2, stays in the L1 cache.
constexpr std::int64_t kDepth = 256;

// C (m, n), row i at c + i * c_row. A (m, k): element (i, t) at a[i * a_row + t * a_step], where one of the two strides
// is 1. B (k, n) as `pack` leaves it. bias: (n), added to the result; null is none. `add` adds to what C holds.
struct Product {
  const float* a;
  std::int64_t a_row, a_step;
  const float* b;
  float* c;
  std::int64_t c_row;
  const float* bias;
  bool add;
  std::int64_t m, n, k;
};

// What is compiled once per instruction set (product_cpu.inc); csrc/cpu chooses.
struct CpuKernels {
  long columns;  // of a panel
  // Rows [first, last) of all of C's columns in panels [panel, end); `scratch` has room for kScratch floats.
  void (*multiply)(const Product&, long first, long last, long panel, long end, float* scratch);
  // B (k, n) into panels: terms [first, last) where its rows are contiguous, `row` apart; or one panel where its columns
  // are, `step` apart.
  void (*pack_terms)(const float* b, long row, long n, long k, long first, long last, float* packed);
  void (*pack_panel)(const float* b, long step, long n, long k, long panel, float* packed);
  // Rows [first, last) of x with panels [panel, end) of W (rows_cpu.h), whose type the name says.
  void (*rows_fp32)(const Rows&, long first, long last, long panel, long end);
  void (*rows_bf16)(const Rows&, long first, long last, long panel, long end);
};
const CpuKernels& cpu_kernels();

// Rows of C for which a part of A is packed: 22 strips of 6 rows, 132 KB at a depth of 256, which stay in the L2 cache.
constexpr std::int64_t kBlockRows = 132;

// Those 22 strips, with a cache line after each.
constexpr std::int64_t kScratch = kBlockRows * kDepth + kBlockRows / 6 * 16;

// Floats of a packed B (k, n).
std::int64_t packed_size(std::int64_t n, std::int64_t k);

// Element (t, j) of B is at b[t * row + j * step], and one of the two strides is 1.
void pack(const float* b, std::int64_t row, std::int64_t step, std::int64_t n, std::int64_t k, float* packed,
          int threads);

void multiply(const Product& product, int threads);

// Whether this processor is one where these products were measured to be faster than torch's.
bool pays();

}  // namespace codeshell::product
