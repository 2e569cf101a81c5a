// Rotary embedding on the CPU: the part that is compiled once per instruction set. The call itself is in rotary.h.
#pragma once

#include "rotary/rotary.h"

namespace codeshell::rotary {

// csrc/cpu chooses; rotary_cpu.inc has the arithmetic.
struct CpuKernels {
  // Tokens [first, last); what they hold is also added to `sums` (heads * dim), unless that is null.
  void (*rotate)(const Arguments&, long first, long last, float* sums);
};
const CpuKernels& cpu_kernels();

}  // namespace codeshell::rotary
