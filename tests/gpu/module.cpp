// The Python module host_kernels: the bindings of every kernel as codeshell._C has them, run by the host execution.

#include <pybind11/pybind11.h>

#include "bindings/gpu.h"
#include "gpu/host/runtime.h"
#include "layer.h"

namespace py = pybind11;
using namespace codeshell;

PYBIND11_MODULE(host_kernels, module) {
  bindings::bind_copy(module);

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
}
