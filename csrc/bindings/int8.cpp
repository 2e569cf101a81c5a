// Products with int8 weights, as the submodule `_C.int8`. Tensors come as addresses; the caller (codeshell/ops/int8.py)
// holds them and has checked shapes, dtypes and strides. Every function gives the GIL back while it computes.
#include <pybind11/pybind11.h>

#include "bindings/buffers.h"
#include "int8/int8_cpu.h"

namespace codeshell::bindings {

namespace {

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

void bind_int8(py::module_& module) {
  module.attr("MOST_COLUMNS") = int8::kMostColumns;
  module.attr("PANEL") = int8::kPanel;
  module.attr("CHUNK") = int8::kChunk;
  module.attr("BLOCK") = int8::kBlock;
  module.def("packed_bytes", &int8::packed_bytes);
  module.def("workspace_bytes", &int8::workspace_bytes);
  module.def(
      "quantize",
      [](std::uintptr_t rows, std::int64_t first, std::int64_t last, std::int64_t k, std::uintptr_t weights,
         std::uintptr_t scales, int threads) {
        int8::quantize(at<float>(rows), first, last, k, at<std::int8_t>(weights), at<float>(scales), threads);
      },
      py::call_guard<py::gil_scoped_release>());
  // x (m, k), rows x_row apart; weights and scales of `quantize`, n rows; bias may be 0 (none).
  module.def(
      "multiply",
      [](std::uintptr_t x, std::int64_t x_row, std::uintptr_t weights, std::uintptr_t scales, std::uintptr_t bias,
         std::uintptr_t y, std::int64_t m, std::int64_t n, std::int64_t k, std::uintptr_t workspace, int threads) {
        int8::multiply({.x = at<float>(x),
                        .x_row = x_row,
                        .weights = at<std::int8_t>(weights),
                        .scales = at<float>(scales),
                        .bias = at<float>(bias),
                        .y = at<float>(y),
                        .m = m,
                        .n = n,
                        .k = k,
                        .workspace = at<void>(workspace)},
                       threads);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "gather",
      [](std::uintptr_t weights, std::uintptr_t scales, std::int64_t n, std::int64_t k, std::uintptr_t rows,
         std::int64_t count, std::uintptr_t out, int threads) {
        return int8::gather(at<std::int8_t>(weights), at<float>(scales), n, k, at<std::int64_t>(rows), count,
                            at<float>(out), threads);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace codeshell::bindings
