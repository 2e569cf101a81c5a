// What the bindings of operations with CUDA kernels share. Each of them is compiled in three ways: with CUDA; without
// it, where the names exist and say how the package was built; and against the host execution of the tests.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "gpu/launch.h"

namespace codeshell::bindings {

namespace py = pybind11;

// One function for each operation; it lives in the file of its name.
void bind_adamw(py::module_& module);
void bind_attention(py::module_& module);
void bind_copy(py::module_& module);
void bind_decode(py::module_& module);
void bind_loss(py::module_& module);
void bind_rotary(py::module_& module);

// All of them, for the two modules that have the kernels: codeshell._C, and host_kernels of the tests.
inline void bind_kernels(py::module_& module) {
  bind_adamw(module);
  bind_attention(module);
  bind_copy(module);
  bind_decode(module);
  bind_loss(module);
  bind_rotary(module);
}

// Whether this build holds the kernels that Hopper alone can run (CODESHELL_HOPPER_KERNELS in csrc/kernels.cmake). The
// others are in every build with CUDA, whatever GPUs it is for.
#if defined(CODESHELL_WITHOUT_HOPPER_KERNELS)
inline constexpr bool kHasHopperKernels = false;
#else
inline constexpr bool kHasHopperKernels = gpu::kHasKernels;
#endif

// Tensors reach the bindings as integers, because torch's headers are not there when this is built.
template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Raises RuntimeError with the operation's name where launch_<op> returned an error; call() is what it was called with.
inline void check(const char* op, gpu::Error error) {
  if (error) throw std::runtime_error(std::string(op) + ": " + error);
}
template <class Call>
void check(const char* op, gpu::Error error, const Call& call) {
  if (error) throw std::runtime_error(std::string(op) + " of " + call() + ": " + error);
}

[[noreturn]] inline void raise_no_kernels(const char* op) {
  throw std::runtime_error(std::string(op) +
                           (gpu::kHasKernels
                                ? ": codeshell was built without this kernel (CODESHELL_ARCHITECTURES left sm_90a "
                                  "out); install it again with CODESHELL_ARCHITECTURES=all"
                                : ": codeshell was built without CUDA (no nvcc, or CODESHELL_CUDA=0); install it again "
                                  "where nvcc is on PATH, with CODESHELL_CUDA=1"));
}

}  // namespace codeshell::bindings
