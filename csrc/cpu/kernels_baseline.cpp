// The CPU kernels for any processor: vectors of 4 floats, which are one register of SSE2 or NEON.
// Flags: -ffp-contract=fast (CMakeLists.txt), so that a product and a sum become one instruction where there is one.
#include <cstdint>

#include "cpu/kernels.h"

#define CODESHELL_LANES 4
#define CODESHELL_LEVEL baseline
#include "cpu/level.inc"
