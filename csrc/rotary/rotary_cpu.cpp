// Rotary embedding on the CPU: which thread does which tokens. rotary_cpu.inc has the arithmetic.
#include "rotary/rotary_cpu.h"

#include <algorithm>
#include <vector>

#include "gpu/types.h"
#include "simd/parallel.h"

namespace codeshell::rotary {

namespace {

// Bytes of one task: a few dozen microseconds, against about one for handing it out.
constexpr std::int64_t kTaskBytes = 1 << 18;

// Columns of the bias gradient that one task sums: a page of floats.
constexpr std::int64_t kSumColumns = 1024;

// A bias of 16 bits to fp32, once per call.
template <class T>
void widen(const void* from, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = gpu::to_float(static_cast<const T*>(from)[i]);
}

// Runs of tokens, each of about kTaskBytes.
void rotate_in_tasks(const Arguments& a, int threads) {
  const std::int64_t tokens = a.batch * a.seq;
  const std::int64_t token_bytes = a.heads * a.dim * (a.type == Type::fp32 ? 4 : 2);
  const std::int64_t task = std::max<std::int64_t>(1, kTaskBytes / std::max<std::int64_t>(1, token_bytes));
  simd::parallel_for(threads, (tokens + task - 1) / task, [&](std::int64_t i) {
    cpu_kernels().rotate(a, i * task, std::min(tokens, (i + 1) * task), nullptr);
  });
}

// With the bias's gradient: each chunk of tokens sums into a row of its own, then runs of columns add the rows in
// order. The chunks follow from the number of tokens alone, so the bits do not depend on `threads`.
void rotate_and_sum(const Arguments& a, int threads) {
  const std::int64_t tokens = a.batch * a.seq, width = a.heads * a.dim, chunks = sum_chunks(tokens);
  simd::parallel_for(threads, chunks, [&](std::int64_t i) {
    float* partial = a.partial_sums + i * width;
    std::fill_n(partial, width, 0.0f);
    cpu_kernels().rotate(a, tokens * i / chunks, tokens * (i + 1) / chunks, partial);
  });
  // Now by columns: every task reads its columns of all rows.
  simd::parallel_for(threads, (width + kSumColumns - 1) / kSumColumns, [&](std::int64_t task) {
    const std::int64_t first = task * kSumColumns, columns = std::min(kSumColumns, width - first);
    float* sums = a.sums + first;
    std::fill_n(sums, columns, 0.0f);
    for (std::int64_t i = 0; i < chunks; ++i) {
      const float* partial = a.partial_sums + i * width + first;
      for (std::int64_t j = 0; j < columns; ++j) sums[j] += partial[j];
    }
  });
}

}  // namespace

void rotate(const Arguments& arguments, int threads) {
  Arguments a = arguments;
  // The kernels take the bias in fp32.
  std::vector<float> bias;
  if (a.bias && a.bias_type != Type::fp32) {
    bias.resize(static_cast<std::size_t>(a.heads * a.dim));
    const auto n = static_cast<std::int64_t>(bias.size());
    a.bias_type == Type::bf16 ? widen<gpu::bf16>(a.bias, bias.data(), n) : widen<gpu::fp16>(a.bias, bias.data(), n);
    a.bias = bias.data();
    a.bias_type = Type::fp32;
  }
  return a.sums ? rotate_and_sum(a, threads) : rotate_in_tasks(a, threads);
}

}  // namespace codeshell::rotary
