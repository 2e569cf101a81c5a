// Products of rows with a weight as torch keeps it, on the CPU: y = x W^T + bias, for models that generate. W (n, k) is
// fp32 or bf16, and is read from memory once for all rows of x, where it lies: nothing is packed or copied. So a few rows
// cost about what one does, which in torch's product of few rows they do not (docs/kernels/rows.md).
//
// An element of y is one sum in fp32 in an order that k alone decides: its bits depend neither on `threads` nor on m, n
// or the other rows. So a text does not depend on how its prompt was cut into passes.
#pragma once

#include <cstdint>

namespace codeshell::product {

// Terms of a block. Its panel of W, 16 KB in fp32, stays in the L1 cache while all rows of x pass by. An element of y is
// the sum of its blocks in their order.
constexpr std::int64_t kRowsDepth = 1024;
// Rows of W in a panel, and rows of x that a task multiplies with a panel at most.
constexpr std::int64_t kRowsPanel = 4, kRowsOfTask = 96;

// y (m, n), row i at y + i * n; x (m, k) fp32, row i at x + i * x_row; W (n, k), row j at weights + j * w_row. y and bias
// (n) have the type of W. bias: null is none.
struct Rows {
  const float* x;
  std::int64_t x_row;
  const void* weights;
  std::int64_t w_row;
  const void* bias;
  void* y;
  std::int64_t m, n, k;
  bool bf16;
};

void multiply(const Rows& rows, int threads);

}  // namespace codeshell::product
