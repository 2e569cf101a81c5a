#include "bindings/buffers.h"

#include <algorithm>

namespace codeshell::bindings {

namespace {

simd::Level parse_level(const std::string& name) {
  using simd::Level;
  if (name == "scalar") return Level::scalar;
  if (name == "neon") return Level::neon;
  if (name == "avx2") return Level::avx2;
  // Empty asks for the highest of this processor, to which `highest_level` limits every name.
  if (name == "avx512" || name.empty()) return Level::avx512;
  throw py::value_error("level: '" + name + "' is none of scalar, neon, avx2, avx512");
}

}  // namespace

simd::Level highest_level(const std::string& name) { return std::min(parse_level(name), simd::level()); }

void check_positive(int64_t value, const char* name) {
  if (value < 1 || value > INT32_MAX) throw py::value_error(std::string(name) + ": must be between 1 and 2^31 - 1");
}

}  // namespace codeshell::bindings
