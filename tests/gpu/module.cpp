// The Python module host_kernels: the bindings of every kernel as codeshell._C has them, run by the host execution.

#include <pybind11/pybind11.h>

#include "bindings/gpu.h"
#include "gpu/host/runtime.h"
#include "gpu/types.h"
#include "layer.h"

namespace py = pybind11;
using namespace codeshell;

namespace {

template <class T>
void widen(std::uintptr_t source, std::uintptr_t target, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    bindings::pointer<float>(target)[i] = gpu::to_float(bindings::pointer<const T>(source)[i]);
}

template <class T>
void narrow(std::uintptr_t source, std::uintptr_t target, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    bindings::pointer<T>(target)[i] = gpu::from_float<T>(bindings::pointer<const float>(source)[i]);
}

}  // namespace

PYBIND11_MODULE(host_kernels, module) {
  bindings::bind_adamw(module);
  bindings::bind_copy(module);
  bindings::bind_rotary(module);

  module.def(
      "set_seed", [](uint64_t seed) { gpu::host::options().seed = seed; }, py::arg("seed"),
      "Chooses the order in which warps, lanes and blocks run.");
  module.def(
      "set_multiprocessors", [](int count) { gpu::host::options().multiprocessors = count; }, py::arg("count"),
      "What gpu::multiprocessors() answers; 4 unless set.");
  module.def(
      "layer",
      [](const char* name, std::uintptr_t source, std::uintptr_t target, int64_t size, int threads) {
        bindings::check(name, layer::launch_layer({name, bindings::pointer<const float>(source),
                                                   bindings::pointer<float>(target), size, threads},
                                                  nullptr));
      },
      py::arg("name"), py::arg("source"), py::arg("target"), py::arg("size"), py::arg("threads") = 32);
  module.def("to_float", [](std::uintptr_t source, std::uintptr_t target, int64_t count, bool bf16) {
    bf16 ? widen<gpu::bf16>(source, target, count) : widen<gpu::fp16>(source, target, count);
  });
  module.def("from_float", [](std::uintptr_t source, std::uintptr_t target, int64_t count, bool bf16) {
    bf16 ? narrow<gpu::bf16>(source, target, count) : narrow<gpu::fp16>(source, target, count);
  });
}
