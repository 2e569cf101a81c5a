// The floating-point kernels of the CPU, compiled once per instruction set (kernels_*.cpp) and chosen at run time.
#pragma once

#include <cstdint>

#include "adamw/adamw_cpu.h"
#include "attention/attention_cpu.h"
#include "rotary/rotary.h"

namespace codeshell::simd {

struct Kernels {
  // attention/attention_cpu.inc: one (sequence, key/value head).
  void (*attend)(const attention::Problem&, long sequence, long kv, float* scratch);
  void (*differentiate)(const attention::Problem&, long sequence, long kv, float* scratch);
  // activation/gelu_cpu.inc: y = gelu(x), and grad = dy * gelu'(x); n elements of fp32 or bf16.
  void (*gelu)(const void* x, void* y, long n, bool bf16);
  void (*gelu_backward)(const void* x, const void* dy, void* grad, long n, bool bf16);
  // loss/cross_entropy_cpu.inc: one row of logits becomes its gradient (softmax - one-hot) * scale; returns the loss.
  float (*cross_entropy)(void* logits, long n, long target, float scale, bool bf16, float* scratch);
  // rotary/rotary_cpu.inc: tokens [first, last); `sums` (heads * dim) is added to, or null.
  void (*rotate)(const rotary::Arguments&, long first, long last, float* sums);
  // adamw/adamw_cpu.inc: one step of a piece of one parameter; the sum of the squares of a piece of one gradient.
  void (*adamw)(const adamw::Span&, const adamw::Scheme&, const adamw::Coefficients&);
  double (*sum_of_squares)(const void* gradient, long n, adamw::Type type);
};

// Those of simd::level().
const Kernels& kernels();

}  // namespace codeshell::simd

namespace codeshell::avx512 {
extern const simd::Kernels kernels;
}
namespace codeshell::avx2 {
extern const simd::Kernels kernels;
}
namespace codeshell::baseline {
extern const simd::Kernels kernels;
}
