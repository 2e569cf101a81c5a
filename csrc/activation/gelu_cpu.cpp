// Bias and GELU on the CPU: shares a matrix between threads; gelu_cpu.inc has the arithmetic.
#include "activation/gelu_cpu.h"

#include <algorithm>

#include "simd/parallel.h"

namespace codeshell::activation {

namespace {

// Elements of one task: a few dozen microseconds, against about one for handing it out.
constexpr std::int64_t kTask = 1 << 16;
// Columns of one task of the backward pass: their sums, 8 KB, stay in the L1 cache.
constexpr std::int64_t kColumns = 2048;
// Fewer rows in a chunk would make the partial sums a larger part of the traffic than 3 %.
constexpr std::int64_t kFewestRows = 32;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t rows_of_chunk(std::int64_t columns) {
  return std::max(kFewestRows, kTask / std::max<std::int64_t>(1, std::min(columns, kColumns)));
}

}  // namespace

std::int64_t sum_chunks(std::int64_t rows, std::int64_t columns) { return ceil_div(rows, rows_of_chunk(columns)); }

// Each task is a run of elements, wherever rows begin in it; so a single row is shared, too. Kernels take addresses, so
// runs start at a number of bytes.
void gelu(const void* x, const float* bias, void* y, Shape shape, int threads) {
  const std::int64_t n = shape.rows * shape.columns, size = shape.bf16 ? 2 : 4;
  simd::parallel_for(threads, ceil_div(n, kTask), [&](std::int64_t task) {
    const std::int64_t end = std::min(n, (task + 1) * kTask);
    for (std::int64_t at = task * kTask; at < end;) {
      // Up to the end of the row; without a bias rows do not matter.
      const std::int64_t column = bias ? at % shape.columns : 0;
      const std::int64_t m = bias ? std::min(end - at, shape.columns - column) : end - at;
      cpu_kernels().gelu(static_cast<const char*>(x) + at * size, bias ? bias + column : nullptr,
                         static_cast<char*>(y) + at * size, static_cast<long>(m), shape.bf16);
      at += m;
    }
  });
}

void gelu_backward(const void* x, const float* bias, const void* dy, void* grad, float* partial, float* sums,
                   Shape shape, int threads) {
  const std::int64_t size = shape.bf16 ? 2 : 4, columns = shape.columns;
  const std::int64_t high = rows_of_chunk(columns), chunks = sum_chunks(shape.rows, columns);
  const std::int64_t blocks = ceil_div(columns, kColumns);
  // A task is a chunk of rows in a block of columns; its sums are a part of the chunk's row of `partial`.
  simd::parallel_for(threads, chunks * blocks, [&](std::int64_t task) {
    const std::int64_t chunk = task / blocks, first = task % blocks * kColumns;
    const std::int64_t m = std::min(kColumns, columns - first), end = std::min(shape.rows, (chunk + 1) * high);
    float* own = sums ? partial + chunk * columns + first : nullptr;
    if (own) std::fill_n(own, m, 0.0f);
    for (std::int64_t row = chunk * high; row < end; ++row) {
      const std::int64_t at = (row * columns + first) * size;
      cpu_kernels().gelu_backward(static_cast<const char*>(x) + at, bias ? bias + first : nullptr,
                                  static_cast<const char*>(dy) + at, static_cast<char*>(grad) + at, own,
                                  static_cast<long>(m), shape.bf16);
    }
  });
  if (!sums) return;
  // The chunks in order, for every column by one thread.
  simd::parallel_for(threads, blocks, [&](std::int64_t block) {
    const std::int64_t first = block * kColumns, m = std::min(kColumns, columns - first);
    std::fill_n(sums + first, m, 0.0f);
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* row = partial + chunk * columns + first;
      for (std::int64_t j = 0; j < m; ++j) sums[first + j] += row[j];
    }
  });
}

}  // namespace codeshell::activation
