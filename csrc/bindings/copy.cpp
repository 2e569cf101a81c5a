// The copy of device memory. Benchmarks use it as the floor of what is memory-bound: a plain kernel that reads and
// writes 16 bytes at a time, compiled by the same compiler as the kernels that are compared with it.
#include "copy/copy.h"

#include "bindings/gpu.h"

namespace codeshell::bindings {

void bind_copy(py::module_& module) {
  module.def(
      "copy_cuda",
      [](std::uintptr_t source, std::uintptr_t target, std::int64_t bytes, std::uintptr_t stream) {
        // Every access of the kernel is of 16 bytes, so unaligned addresses would fault.
        if (bytes < 0 || source % 16 || target % 16)
          throw py::value_error("copy: source and target must be 16-byte aligned and bytes not negative");
        if constexpr (gpu::kHasKernels) {
          check("copy", launch_copy({pointer<const void>(source), pointer<void>(target), bytes}, pointer<void>(stream)),
                [&] { return std::to_string(bytes) + " bytes"; });
        } else {
          raise_no_kernels("copy");
        }
      },
      py::arg("source"), py::arg("target"), py::arg("bytes"), py::arg("stream"),
      "Copies device memory at the speed of a plain kernel: the floor that benchmarks compare with.");
}

}  // namespace codeshell::bindings
