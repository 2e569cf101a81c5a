// Products of rows on the CPU: cuts y into tasks; rows_cpu.inc has the arithmetic.
#include "product/rows_cpu.h"

#include <algorithm>

#include "product/product_cpu.h"
#include "simd/parallel.h"

namespace codeshell::product {

namespace {

// Bytes of W that a task reads: enough to hide its start, few enough to balance.
constexpr std::int64_t kTaskBytes = 96 << 10;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

void multiply(const Rows& p, int threads) {
  const std::int64_t panels = ceil_div(p.n, kRowsPanel);
  const std::int64_t panel_bytes = std::max<std::int64_t>(1, p.k) * kRowsPanel * (p.bf16 ? 2 : 4);
  const std::int64_t group = std::max<std::int64_t>(1, kTaskBytes / panel_bytes);
  const std::int64_t groups = ceil_div(panels, group);
  simd::parallel_for(threads, groups * ceil_div(p.m, kRowsOfTask), [&](std::int64_t task) {
    const std::int64_t first = task / groups * kRowsOfTask, panel = task % groups * group;
    const auto multiply_task = p.bf16 ? cpu_kernels().rows_bf16 : cpu_kernels().rows_fp32;
    multiply_task(p, static_cast<long>(first), static_cast<long>(std::min(p.m, first + kRowsOfTask)),
                  static_cast<long>(panel), static_cast<long>(std::min(panels, panel + group)));
  });
}

}  // namespace codeshell::product
