// The CPU kernels for any processor: vectors of four floats (SSE2, NEON).
// Flags: -ffp-contract=fast (CMakeLists.txt), so that a product and a sum become one instruction where there is one.
#include <cstdint>

#include "cpu/kernels.h"

#define CODESHELL_LANES 4

namespace codeshell::baseline {
namespace {
#include "cpu/vector.inc"
// The kernels, in the order of simd::Kernels.
#include "activation/gelu_cpu.inc"
#include "adamw/adamw_cpu.inc"
#include "attention/attention_cpu.inc"
#include "loss/cross_entropy_cpu.inc"
#include "rotary/rotary_cpu.inc"
}  // namespace

const simd::Kernels kernels{attend,        differentiate, gelu,       gelu_backward,
                            cross_entropy, rotate,        adamw_step, sum_of_squares};

}  // namespace codeshell::baseline
