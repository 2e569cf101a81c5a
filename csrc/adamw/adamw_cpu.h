// The step and the gradient norm over a table of tensors in this process's memory. Results do not depend on `threads`.
#pragma once

#include <cstdint>
#include <vector>

#include "adamw/adamw.h"

namespace codeshell::adamw {

// A piece of one tensor, as the kernels of simd::Kernels take it (adamw_cpu.inc).
struct Span {
  void *param, *gradient, *exp_avg, *exp_avg_sq;
  float* master;
  long size;
  std::uint32_t first;  // index of its first element, modulo 2^32
  Keys keys;
  bool write_gradient;
};

struct Table {
  std::vector<Tensor> tensors;
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> tasks;  // chunks [tasks[i], tasks[i + 1]) are one task of the CPU

  explicit Table(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& streams);
};

// One step of every tensor that has a gradient; false if found_inf said no.
bool step_cpu(const Table& table, const Scheme& scheme, const Settings& settings, int threads);

// The sum of the squares of all gradients, each in fp32 within 1,024 elements and in fp64 above, in a fixed order.
double sum_of_squares_cpu(const Table& table, Type gradient, int threads);

}  // namespace codeshell::adamw
