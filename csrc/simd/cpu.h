// Which instruction set to run. Code for several sets is compiled into one library (no -march=native) and chosen
// here once, at run time; every level must give identical bits where the result is an integer.
#pragma once

#include <string>

namespace codeshell::simd {

enum class Level { scalar, neon, avx2, avx512 };

// The widest level that this processor supports. CODESHELL_SIMD=scalar|avx2|avx512 lowers it (never raises it), for
// tests and for finding a fault; it is read once.
Level level();

std::string level_name();

}  // namespace codeshell::simd
