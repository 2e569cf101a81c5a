// The table of the floating-point CPU kernels: compiled once per instruction set (kernels_*.cpp) and chosen at run time.
// Each operation declares what it needs (its CpuKernels) and asks for it by cpu_kernels(), which kernels.cpp defines; so
// this folder includes the operations, and they do not know it.
#pragma once

#include "activation/gelu_cpu.h"
#include "adamw/adamw_cpu.h"
#include "attention/attention_cpu.h"
#include "int8/int8_cpu.h"
#include "loss/cross_entropy_cpu.h"
#include "norm/norm_cpu.h"
#include "product/product_cpu.h"
#include "rotary/rotary_cpu.h"

namespace codeshell::cpu {

struct Kernels {
  activation::CpuKernels activation;
  adamw::CpuKernels adamw;
  attention::CpuKernels attention;
  int8::CpuKernels int8;
  loss::CpuKernels loss;
  norm::CpuKernels norm;
  product::CpuKernels product;
  rotary::CpuKernels rotary;
};

}  // namespace codeshell::cpu

// One table per instruction set. baseline is for any processor; the other two exist on x86-64 only.
namespace codeshell::avx512 {
extern const cpu::Kernels kernels;
}
namespace codeshell::avx2 {
extern const cpu::Kernels kernels;
}
namespace codeshell::baseline {
extern const cpu::Kernels kernels;
}
