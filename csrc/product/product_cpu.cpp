// Products on the CPU: cuts C into tasks; product_cpu.inc has the arithmetic.
#include "product/product_cpu.h"

#include <algorithm>
#include <memory>

#include "simd/cpu.h"
#include "simd/parallel.h"

namespace codeshell::product {

namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Rows of the smallest task: 8 strips.
constexpr std::int64_t kFewestRows = 48;
// Terms of B that one task packs.
constexpr std::int64_t kTerms = 128;

// Strips of A in the order in which the kernel reads it, one for each thread of the process.
float* scratch() {
  static thread_local const std::unique_ptr<float[]> room(new float[kScratch]);
  return room.get();
}

}  // namespace

std::int64_t packed_size(std::int64_t n, std::int64_t k) {
  const std::int64_t columns = cpu_kernels().columns;
  return ceil_div(n, columns) * columns * k;
}

void pack(const float* b, std::int64_t row, std::int64_t step, std::int64_t n, std::int64_t k, float* packed,
          int threads) {
  const auto n_ = static_cast<long>(n), k_ = static_cast<long>(k);
  if (step == 1) {
    simd::parallel_for(threads, ceil_div(k, kTerms), [&](std::int64_t task) {
      cpu_kernels().pack_terms(b, static_cast<long>(row), n_, k_, static_cast<long>(task * kTerms),
                               static_cast<long>(std::min(k, (task + 1) * kTerms)), packed);
    });
    return;
  }
  simd::parallel_for(threads, ceil_div(n, cpu_kernels().columns), [&](std::int64_t panel) {
    cpu_kernels().pack_panel(b, static_cast<long>(step), n_, k_, static_cast<long>(panel), packed);
  });
}

void multiply(const Product& p, int threads) {
  const std::int64_t panels = ceil_div(p.n, cpu_kernels().columns);
  // Rows of a task: as many as a thread has, up to two blocks, because a task reads all of B. Where A is read in place,
  // blocks as small as its part of the L2 cache balance better.
  const std::int64_t most = p.a_step == 1 ? kBlockRows : 2 * kBlockRows;
  const std::int64_t height = std::clamp<std::int64_t>(ceil_div(ceil_div(p.m, threads), 6) * 6, kFewestRows, most);
  // Columns are shared, too, where there are fewer blocks of rows than threads. How C is cut changes no bit.
  const std::int64_t blocks = ceil_div(p.m, height);
  const std::int64_t group = ceil_div(panels, std::min(panels, ceil_div(threads, blocks)));
  const std::int64_t groups = ceil_div(panels, group);
  simd::parallel_for(threads, blocks * groups, [&](std::int64_t task) {
    const std::int64_t first = task / groups * height, panel = task % groups * group;
    cpu_kernels().multiply(p, static_cast<long>(first), static_cast<long>(std::min(p.m, first + height)),
                           static_cast<long>(panel), static_cast<long>(std::min(panels, panel + group)), scratch());
  });
}

bool pays() {
#if defined(__x86_64__)
  return simd::level() == simd::Level::avx2 && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

}  // namespace codeshell::product
