// A kernel's name from its address.
#pragma once

#include <string>

namespace codeshell::gpu::host {

// Demangled, without parameters: "rotary_forward<bf16, 64>". Kernels have internal linkage as a rule, so the dynamic
// symbols do not know them; this reads the library's own symbol table.
std::string kernel_name(const void* kernel);

}  // namespace codeshell::gpu::host
