// The step and the gradient norm over a table of tensors in this process's memory. Results do not depend on `threads`.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "adamw/adamw.h"

namespace codeshell::adamw {

// A piece of one tensor, as the kernels take it (adamw_cpu.inc).
struct Span {
  void *param, *gradient, *exp_avg, *exp_avg_sq;
  float* master;
  long size;
  std::uint32_t first;  // index of its first element, modulo 2^32
  Keys keys;
  bool write_gradient;
};

// What is compiled once per instruction set (adamw_cpu.inc); csrc/cpu chooses.
struct CpuKernels {
  // One step of a piece of one parameter.
  void (*step)(const Span&, const Scheme&, const Coefficients&);
  // The sum of the squares of a piece of one gradient.
  double (*sum_of_squares)(const void* gradient, long n, Type type);
};
const CpuKernels& cpu_kernels();

// What tensors share that have been updated equally often.
struct Prepared {
  std::uint64_t step;
  Coefficients coefficients;
};

struct Table {
  std::vector<Tensor> tensors;
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> tasks;        // chunks [tasks[i], tasks[i + 1]) are one task of the CPU
  std::vector<const Prepared*> prepared;  // of each tensor, during a step

  explicit Table(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& streams);
};

// One step of every tensor that has a gradient, while their addresses are read: with 10,000 small tensors that takes as
// long as the arithmetic. read(first, last) fills in the tensors [first, last), on this thread, and returns the first
// of them that does not fit (last: all do). The tensors before it are updated and no others. `all_read` is called once
// after the last read, before this thread works too. Neither must throw. Nothing is called if found_inf says no.
void step_cpu(Table& table, const Scheme& scheme, const Settings& settings, int threads,
              const std::function<std::int64_t(std::int64_t first, std::int64_t last)>& read,
              const std::function<void()>& all_read);

// The sum of the squares of all gradients in fp64, in a fixed order.
double sum_of_squares_cpu(const Table& table, Type gradient, int threads);

}  // namespace codeshell::adamw
