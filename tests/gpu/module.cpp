// The Python module host_kernels: the bindings of every kernel as codeshell._C has them, run by the host execution.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bindings/gpu.h"
#include "gpu/host/runtime.h"
#include "gpu/types.h"
#include "layer.h"
#include "primitives.h"

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

using bindings::pointer;

void box(const std::string& name, const std::string& element, std::uintptr_t tensor, const std::vector<uint64_t>& sizes,
         const std::vector<uint64_t>& strides, const std::vector<uint32_t>& dimensions, bool swizzle,
         const std::vector<int>& coordinates, std::uintptr_t image) {
  primitives::Box box{name.c_str(), {}, {}, pointer<void>(image)};
  box.shape.element = element == "bf16"   ? gpu::Element::kBf16
                      : element == "fp16" ? gpu::Element::kFp16
                                          : gpu::Element::kFp32;
  box.shape.rank = static_cast<int>(sizes.size());
  box.shape.address = pointer<void>(tensor);
  box.shape.swizzle = swizzle ? gpu::Swizzle::k128 : gpu::Swizzle::kNone;
  std::copy(sizes.begin(), sizes.end(), box.shape.sizes);
  std::copy(strides.begin(), strides.end(), box.shape.strides);
  std::copy(dimensions.begin(), dimensions.end(), box.shape.box);
  std::copy(coordinates.begin(), coordinates.end(), box.coordinates);
  bindings::check("box", primitives::launch_box(box, nullptr));
}

}  // namespace

PYBIND11_MODULE(host_kernels, module) {
  bindings::bind_kernels(module);

  module.def(
      "set_seed", [](uint64_t seed) { gpu::host::options().seed = seed; }, py::arg("seed"),
      "Chooses the order in which warps, lanes and blocks run.");
  module.def(
      "set_multiprocessors", [](int count) { gpu::host::options().multiprocessors = count; }, py::arg("count"),
      "What gpu::multiprocessors() answers; 4 unless set.");
  module.def(
      "set_shared_memory", [](int bytes) { gpu::host::options().shared_memory = bytes; }, py::arg("bytes"),
      "What gpu::shared_memory_per_block() answers; 227 KiB unless set.");
  module.def(
      "set_checks", [](bool on) { gpu::host::options().checks = on; }, py::arg("on"),
      "Whether gpu::check ends a launch, as in a build without NDEBUG; on unless set.");
  module.def(
      "trace",
      [](bool on) {
        gpu::host::options().trace = on;
        gpu::host::options().places.clear();
        gpu::host::options().launches.clear();
      },
      py::arg("on"),
      "Whether launches are noted for `launches`, and their waits, arrivals and commits for `places`; forgets those "
      "noted.");
  module.def(
      "launches",
      [] {
        std::vector<std::pair<std::string, size_t>> all;
        for (const auto& launch : gpu::host::options().launches) all.emplace_back(launch.kernel, launch.dynamic_shared);
        return all;
      },
      "What was noted: each launch's kernel and bytes of dynamic shared memory.");
  module.def(
      "places", [] { return gpu::host::options().places; }, "What was noted, each once, by its place in the source.");
  module.def(
      "leave_out", [](const std::string& place) { gpu::host::options().left_out = place; }, py::arg("place"),
      "Of `places` the one whose calls do nothing from here on; '' is none.");
  module.def(
      "fail_launch", [](int number) { gpu::host::options().fail_launch = number; }, py::arg("number"),
      "Which launch from here on the runtime refuses: 1 is the next one, 0 none.");
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
  module.def("box", &box);
  module.def("gemm", [](const char* variant, int n, bool bf16, char a, char b, std::uintptr_t a_image,
                        std::uintptr_t b_image, std::uintptr_t d) {
    bindings::check("gemm", primitives::launch_gemm({variant, n, bf16, a, b, pointer<const void>(a_image),
                                                     pointer<const void>(b_image), pointer<float>(d)},
                                                    nullptr));
  });
  module.def("pipeline", [](const char* variant, std::uintptr_t source, std::uintptr_t target, int size) {
    bindings::check("pipeline", primitives::launch_pipeline(
                                    {variant, pointer<const float>(source), pointer<float>(target), size}, nullptr));
  });
  module.def("roles", [](const char* variant, std::uintptr_t target) {
    bindings::check("roles", primitives::launch_roles({variant, pointer<int>(target)}, nullptr));
  });
}
