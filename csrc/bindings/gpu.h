// What the bindings of kernels share. Each is compiled three times: with CUDA, without (the names are there and say how
// the package was built), and against the host execution of the tests.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "gpu/launch.h"

namespace codeshell::bindings {

namespace py = pybind11;

// One function an operation; each lives in the file of its name.
void bind_adamw(py::module_& module);
void bind_attention(py::module_& module);
void bind_copy(py::module_& module);
void bind_decode(py::module_& module);
void bind_rotary(py::module_& module);

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// RuntimeError with the kernel's name for what launch_<op> returned.
inline void check(const char* op, gpu::Error error) {
  if (error) throw std::runtime_error(std::string(op) + ": CUDA says: " + error);
}

[[noreturn]] inline void raise_no_kernels(const char* op) {
  throw std::runtime_error(std::string(op) +
                           ": codeshell was built without CUDA (no nvcc, or CODESHELL_CUDA=0); install it again "
                           "where nvcc is on PATH, with CODESHELL_CUDA=1");
}

}  // namespace codeshell::bindings
