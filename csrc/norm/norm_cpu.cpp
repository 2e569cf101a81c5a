// Residual and LayerNorm on the CPU: which thread does which rows. norm_cpu.inc has the arithmetic.
#include "norm/norm_cpu.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "simd/parallel.h"

namespace codeshell::norm {

namespace {

// Elements of one task: a few dozen microseconds, against about one for handing it out.
constexpr std::int64_t kTask = 1 << 16;

// Rows in one partial sum of the gradients of weight and bias: enough that adding up the partial sums costs little, few
// enough that a sum of fp32 keeps its accuracy. And the most partial sums that there are: work for any number of cores.
constexpr std::int64_t kRowsOfChunk = 32, kMostChunks = 64;

// Columns that one task adds up: a page of floats.
constexpr std::int64_t kSumColumns = 1024;

// Tasks of whole rows: work(first, last).
template <class F>
void by_rows(std::int64_t rows, std::int64_t width, int threads, F&& work) {
  const std::int64_t task = std::max<std::int64_t>(1, kTask / std::max<std::int64_t>(1, width));
  simd::parallel_for(threads, (rows + task - 1) / task, [&](std::int64_t i) {
    work(static_cast<long>(i * task), static_cast<long>(std::min(rows, (i + 1) * task)));
  });
}

}  // namespace

std::int64_t sum_chunks(std::int64_t rows) {
  return std::clamp((rows + kRowsOfChunk - 1) / kRowsOfChunk, std::int64_t{1}, kMostChunks);
}

void forward(const Forward& call, int threads) {
  by_rows(call.rows, call.width, threads, [&](long first, long last) { cpu_kernels().forward(call, first, last); });
}

void backward(const Backward& call, int threads) {
  if (!call.partial) {
    by_rows(call.rows, call.width, threads,
            [&](long first, long last) { cpu_kernels().backward(call, first, last, nullptr); });
    return;
  }
  // Each chunk of rows sums into a row of its own, then runs of columns add these in order.
  const std::int64_t chunks = sum_chunks(call.rows), columns = 2 * call.width;
  simd::parallel_for(threads, chunks, [&](std::int64_t i) {
    float* sums = call.partial + i * columns;
    std::fill_n(sums, columns, 0.0f);
    cpu_kernels().backward(call, call.rows * i / chunks, call.rows * (i + 1) / chunks, sums);
  });
  simd::parallel_for(threads, (columns + kSumColumns - 1) / kSumColumns, [&](std::int64_t task) {
    const std::int64_t first = task * kSumColumns, count = std::min(kSumColumns, columns - first);
    std::array<float, kSumColumns> sums{};
    for (std::int64_t i = 0; i < chunks; ++i) {
      const float* partial = call.partial + i * columns + first;
      for (std::int64_t j = 0; j < count; ++j) sums[static_cast<std::size_t>(j)] += partial[j];
    }
    // Columns of the weight, then those of the bias; a task may have some of both.
    for (std::int64_t j = 0; j < count; ++j) {
      const std::int64_t column = first + j;
      (column < call.width ? call.grad_weight + column : call.grad_bias + (column - call.width))[0] =
          sums[static_cast<std::size_t>(j)];
    }
  });
}

}  // namespace codeshell::norm
