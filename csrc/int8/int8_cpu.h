// Products with int8 weights on the CPU: y = x W^T + bias, for models whose time goes into reading W from memory. A row
// of W is int8 with one fp32 scale; x is fp32 and is rounded on the way to int16, with one scale for each kBlock of its
// columns. The products of a block are then summed in integers, which is exact: no order, number of lanes, number of
// threads and no other row of x changes a bit of y. What is left of rounding is two quantisations, and fp64 sums.
//
// Layout of W (n, k): panels of kPanel rows; in a panel, chunks of kChunk columns; in a chunk, the kPanel rows one after
// the other. So a thread reads one stream of memory, in the order in which it lies. Rows and columns are padded with 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace codeshell::int8 {

constexpr std::int64_t kPanel = 4;
constexpr std::int64_t kChunk = 32;
// Columns whose products one int32 can hold: 512 * 128 * 32767 is below 2^31.
constexpr std::int64_t kBlock = 512;
// Columns at most: more than any model has. It bounds the sums that a task keeps on its stack.
constexpr std::int64_t kMostColumns = 1 << 17;

// What is compiled once per instruction set (int8_cpu.inc); csrc/cpu chooses. The integer part alone is there: it is the
// same whatever computes it.
struct CpuKernels {
  // Sums of products, int32 (panels, blocks, tokens, kPanel), of whole panels and of x as int16 (tokens, columns).
  // `columns` is a multiple of kChunk, `tokens` is at most kTokens.
  void (*multiply)(const std::int8_t* weights, long panels, const std::int16_t* x, long tokens, long columns,
                   std::int32_t* sums);
};
const CpuKernels& cpu_kernels();

// Rows of x that a task multiplies with a panel, one panel after the other.
constexpr std::int64_t kTokens = 12;

// y (m, n), contiguous, = x (m, k), rows x_row apart, with W (n, k). bias: (n), null is none. A block of x that holds a
// NaN or an infinity makes its row of y NaN. `workspace` has workspace_bytes(m, k), aligned to 8.
struct Product {
  const float* x;
  std::int64_t x_row;
  const std::int8_t* weights;
  const float* scales;
  const float* bias;
  float* y;
  std::int64_t m, n, k;
  void* workspace;
};
void multiply(const Product& product, int threads);
std::size_t workspace_bytes(std::int64_t m, std::int64_t k);

// Bytes of the int8 values of W (n, k), with their padding.
std::size_t packed_bytes(std::int64_t n, std::int64_t k);

// Rows [first, last) of W from fp32 `rows` (last - first, k), contiguous; `first` is a multiple of kPanel, and so is
// `last` unless it is n. The scale of a row is its largest magnitude over 127. A row with a NaN or an infinity gets that
// as its scale, and zeros.
void quantize(const float* rows, std::int64_t first, std::int64_t last, std::int64_t k, std::int8_t* weights,
              float* scales, int threads);

// Rows of W (n, k) by their numbers, as fp32 (count, k). False, and nothing is written, if one is not in [0, n).
bool gather(const std::int8_t* weights, const float* scales, std::int64_t n, std::int64_t k, const std::int64_t* rows,
            std::int64_t count, float* out, int threads);

}  // namespace codeshell::int8
