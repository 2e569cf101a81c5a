// int8 weights on the CPU: quantisation, the sharing of a product between threads, and its floating-point part, all of
// it compiled once and with -ffp-contract=off, so that every processor rounds in the same places. The integer part is in
// int8_cpu.inc.
#include "int8/int8_cpu.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "simd/parallel.h"

namespace codeshell::int8 {

namespace {

constexpr std::int32_t kInfinity = 0x7f800000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t padded(std::int64_t k) { return ceil_div(k, kChunk) * kChunk; }
std::int64_t blocks_of(std::int64_t k) { return ceil_div(k, kBlock); }

// The largest magnitude as the bits of a float, which are in the order of the magnitudes; NaN and infinity come last.
std::int32_t largest_bits(const float* x, std::int64_t n) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::int32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

float as_float(std::int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// To the nearest integer, ties to even, for magnitudes below 2^31: the sum leaves no room for a fraction.
std::int64_t rounded(double x) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = x + kMagic;
  std::int64_t bits;
  std::memcpy(&bits, &shifted, 8);
  return static_cast<std::int32_t>(bits);
}

// One row of x as int16, and the scale of each block. In fp64 no quotient overflows, whatever the magnitudes.
void round_row(const float* x, std::int64_t k, std::int16_t* values, double* scales) {
  for (std::int64_t first = 0; first < k; first += kBlock) {
    const std::int64_t n = std::min(kBlock, k - first);
    const std::int32_t largest = largest_bits(x + first, n);
    double& scale = scales[first / kBlock];
    if (largest >= kInfinity || largest == 0) {
      scale = largest ? kNan : 0.0;
      std::fill_n(values + first, n, std::int16_t{0});
      continue;
    }
    scale = static_cast<double>(as_float(largest)) / 32767.0;
    const double inverse = 32767.0 / static_cast<double>(as_float(largest));
    for (std::int64_t i = 0; i < n; ++i)
      values[first + i] = static_cast<std::int16_t>(rounded(static_cast<double>(x[first + i]) * inverse));
  }
  std::fill_n(values + k, padded(k) - k, std::int16_t{0});
}

// The sums of a task, for kTokens rows of x: panels * blocks of kPanel. 48 KB.
constexpr std::int64_t kSums = 256;
static_assert(kMostColumns / kBlock <= kSums);
// Bytes of W that a task reads: enough to hide its start, few enough to balance and to stay in the L2 cache.
constexpr std::int64_t kTaskBytes = 64 << 10;
// Rows of x in a task of a long product.
constexpr std::int64_t kTaskRows = 8 * kTokens;

// y of one row of x and the rows of W in panels [panel, end): the blocks in their order, in fp64.
void finish(const Product& p, std::int64_t row, std::int64_t panel, std::int64_t end, const double* x_scales,
            const std::int32_t* sums, std::int64_t tokens, std::int64_t blocks) {
  for (std::int64_t at = panel; at < end; ++at, sums += blocks * tokens * kPanel) {
    double total[kPanel] = {};
    for (std::int64_t b = 0; b < blocks; ++b)
      for (std::int64_t j = 0; j < kPanel; ++j)
        total[j] += x_scales[b] * static_cast<double>(sums[b * tokens * kPanel + j]);
    const std::int64_t first = at * kPanel, n = std::min(kPanel, p.n - first);
    for (std::int64_t j = 0; j < n; ++j) {
      const double value = total[j] * static_cast<double>(p.scales[first + j]);
      p.y[row * p.n + first + j] = static_cast<float>(p.bias ? value + static_cast<double>(p.bias[first + j]) : value);
    }
  }
}

}  // namespace

std::size_t workspace_bytes(std::int64_t m, std::int64_t k) {
  return static_cast<std::size_t>(m * (blocks_of(k) * 8 + padded(k) * 2));
}

std::size_t packed_bytes(std::int64_t n, std::int64_t k) {
  return static_cast<std::size_t>(ceil_div(n, kPanel) * kPanel * padded(k));
}

void multiply(const Product& p, int threads) {
  const std::int64_t columns = padded(p.k), blocks = blocks_of(p.k), panels = ceil_div(p.n, kPanel);
  // The workspace: scales (m, blocks), then x as int16 (m, columns).
  auto* x_scales = static_cast<double*>(p.workspace);
  auto* x = reinterpret_cast<std::int16_t*>(x_scales + p.m * blocks);
  simd::parallel_for(threads, ceil_div(p.m, kTokens), [&](std::int64_t task) {
    for (std::int64_t row = task * kTokens; row < std::min(p.m, (task + 1) * kTokens); ++row)
      round_row(p.x + row * p.x_row, p.k, x + row * columns, x_scales + row * blocks);
  });
  // A task is some panels and up to kTaskRows rows of x, which go over the panels kTokens at a time.
  const std::int64_t height = std::clamp<std::int64_t>(kTaskBytes / std::max<std::int64_t>(1, columns * kPanel), 1,
                                                       kSums / std::max<std::int64_t>(1, blocks));
  const std::int64_t wide = ceil_div(panels, height);
  simd::parallel_for(threads, wide * ceil_div(p.m, kTaskRows), [&](std::int64_t task) {
    std::int32_t sums[kSums * kTokens * kPanel];
    const std::int64_t panel = task % wide * height, end = std::min(panels, panel + height);
    const std::int64_t last = std::min(p.m, (task / wide + 1) * kTaskRows);
    for (std::int64_t row = task / wide * kTaskRows; row < last; row += kTokens) {
      const std::int64_t tokens = std::min(kTokens, last - row);
      cpu_kernels().multiply(p.weights + panel * kPanel * columns, static_cast<long>(end - panel), x + row * columns,
                             static_cast<long>(tokens), static_cast<long>(columns), sums);
      for (std::int64_t i = 0; i < tokens; ++i)
        finish(p, row + i, panel, end, x_scales + (row + i) * blocks, sums + i * kPanel, tokens, blocks);
    }
  });
}

void quantize(const float* rows, std::int64_t first, std::int64_t last, std::int64_t k, std::int8_t* weights,
              float* scales, int threads) {
  const std::int64_t columns = padded(k);
  simd::parallel_for(threads, ceil_div(last - first, kPanel), [&](std::int64_t task) {
    std::int8_t* panel = weights + (first + task * kPanel) * columns;
    std::fill_n(panel, kPanel * columns, std::int8_t{0});
    for (std::int64_t j = 0; j < kPanel && first + task * kPanel + j < last; ++j) {
      const float* row = rows + (task * kPanel + j) * k;
      float& scale = scales[first + task * kPanel + j];
      const std::int32_t largest = largest_bits(row, k);
      if (largest >= kInfinity) {
        scale = as_float(largest);
        continue;
      }
      scale = static_cast<float>(static_cast<double>(as_float(largest)) / 127.0);
      // Also a row so small that its scale rounds to 0 becomes 0.
      if (scale == 0.0f) continue;
      for (std::int64_t i = 0; i < k; ++i) {
        // A scale that is subnormal may be rounded by more than half a step of 127.
        const std::int64_t value = rounded(static_cast<double>(row[i]) / static_cast<double>(scale));
        panel[(i / kChunk * kPanel + j) * kChunk + i % kChunk] =
            static_cast<std::int8_t>(std::clamp<std::int64_t>(value, -127, 127));
      }
    }
  });
}

bool gather(const std::int8_t* weights, const float* scales, std::int64_t n, std::int64_t k, const std::int64_t* rows,
            std::int64_t count, float* out, int threads) {
  for (std::int64_t at = 0; at < count; ++at)
    if (rows[at] < 0 || rows[at] >= n) return false;
  const std::int64_t columns = padded(k);
  constexpr std::int64_t kRows = 64;
  simd::parallel_for(threads, ceil_div(count, kRows), [&](std::int64_t task) {
    for (std::int64_t at = task * kRows; at < std::min(count, (task + 1) * kRows); ++at) {
      const std::int64_t row = rows[at];
      const std::int8_t* panel = weights + row / kPanel * kPanel * columns;
      const float scale = scales[row];
      for (std::int64_t chunk = 0; chunk < k; chunk += kChunk) {
        const std::int8_t* from = panel + chunk * kPanel + row % kPanel * kChunk;
        for (std::int64_t i = 0; i < std::min(kChunk, k - chunk); ++i)
          out[at * k + chunk + i] = static_cast<float>(from[i]) * scale;
      }
    }
  });
  return true;
}

}  // namespace codeshell::int8
