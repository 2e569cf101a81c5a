// Where the checks that -fsanitize compiles into the kernels report. Kernels are built with the sanitizer's checks and
// without its library: these functions take the library's place and end the launch as every other error does.
// Misaligned vector accesses, static arrays read or written out of range, and integer arithmetic that C++ leaves
// undefined (an index that overflowed) are found so. A check's data begins with its place in the source.

#include <cstdint>
#include <string>

#include "gpu/host/runtime.h"

namespace {

// The layouts of GCC's and LLVM's runtime, as far as they are read here.
struct Place {
  const char* file;
  uint32_t line;
  uint32_t column;
};

struct TypeMismatch {
  Place place;
  const void* type;
  unsigned char log_alignment;
  unsigned char kind;
};

// Ends the launch with what is wrong, and the line.
[[noreturn]] void report(const Place& place, const std::string& what) {
  const std::string file = place.file ? place.file : "?";
  const std::string name = file.substr(file.rfind('/') + 1);
  codeshell::gpu::host::fail_at(what, name + ":" + std::to_string(place.line));
}

}  // namespace

// The names that compilers call.
extern "C" {

void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, uintptr_t address) {
  if (!address) report(data->place, "null pointer");
  report(data->place, "misaligned address, not a multiple of " + std::to_string(1u << data->log_alignment));
}

void __ubsan_handle_out_of_bounds(const Place* place, uintptr_t index) {
  report(*place, "index " + std::to_string(static_cast<intptr_t>(index)) + " out of an array's range");
}

// Overflows and shifts also pass their operands, which the message leaves out.
void __ubsan_handle_add_overflow(const Place* place, uintptr_t, uintptr_t) { report(*place, "integer overflow"); }
void __ubsan_handle_sub_overflow(const Place* place, uintptr_t, uintptr_t) { report(*place, "integer overflow"); }
void __ubsan_handle_mul_overflow(const Place* place, uintptr_t, uintptr_t) { report(*place, "integer overflow"); }
void __ubsan_handle_negate_overflow(const Place* place, uintptr_t) { report(*place, "integer overflow"); }
void __ubsan_handle_divrem_overflow(const Place* place, uintptr_t, uintptr_t) { report(*place, "division by zero"); }
void __ubsan_handle_shift_out_of_bounds(const Place* place, uintptr_t, uintptr_t) {
  report(*place, "shift by the type's width or more");
}
}
