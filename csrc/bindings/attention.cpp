// Attention on a GPU. Tensors come as addresses; the caller (codeshell/ops/attention_cuda.py) holds them and has
// checked that their shapes and strides agree.
#include "attention/attention.h"

#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <vector>

#include "attention/schedule.h"
#include "bindings/gpu.h"

namespace codeshell::bindings {

namespace {

using TensorArgument = std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::int64_t>;
using Shape = std::array<int, 7>;  // batch, queries, keys, longest, heads, kv_heads, dim

AttentionTensor tensor(const TensorArgument& argument) {
  const auto [address, batch, token, head] = argument;
  return {pointer<void>(address), batch, token, head};
}

void check_shape(const Shape& shape) {
  for (const int size : shape) {
    if (size < 1) throw py::value_error("attention: a size is below 1");
  }
  const int heads = shape[4], kv_heads = shape[5], dim = shape[6];
  if (heads % kv_heads || (dim != 64 && dim != 128))
    throw py::value_error("attention: heads must be a multiple of kv_heads, and dim 64 or 128");
}

void forward(const TensorArgument& q, const TensorArgument& k, const TensorArgument& v, const TensorArgument& out,
             std::uintptr_t lse, std::uintptr_t cu_seqlens, const Shape& shape, bool bf16, float scale, bool causal,
             int window, std::uintptr_t stream) {
  check_shape(shape);
  if (!(scale > 0.0f) || window < 0 || (window && !causal))
    throw py::value_error("attention: scale must be above 0, and a window at least 1 and causal");
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  if (cu_seqlens && queries != keys) throw py::value_error("attention: packed queries and keys must be equally many");
  if constexpr (gpu::kHasKernels) {
    check("attention", launch_attention_forward({tensor(q), tensor(k), tensor(v), tensor(out), pointer<float>(lse),
                                                 pointer<const int>(cu_seqlens), bf16, batch, queries, keys, longest,
                                                 heads, kv_heads, dim, scale, causal, window},
                                                pointer<void>(stream)));
  } else {
    raise_no_kernels("attention");
  }
}

std::vector<std::array<int, 7>> tiles(const Shape& shape, bool causal, int window) {
  check_shape(shape);
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  const auto schedule = attention::schedule_of(queries, keys, batch, heads, kv_heads, dim);
  std::vector<std::array<int, 7>> all;
  for (int i = 0; i < attention::tiles(schedule); ++i) {
    const auto tile = attention::tile_of(schedule, i);
    const auto blocks = attention::key_blocks(tile.row_block, queries, keys, causal, window);
    all.push_back(
        {tile.row_block, tile.head, tile.sequence, blocks.begin, blocks.free_begin, blocks.free_end, blocks.end});
  }
  return all;
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention_forward_cuda", &forward, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
             py::arg("lse"), py::arg("cu_seqlens"), py::arg("shape"), py::arg("bf16"), py::arg("scale"),
             py::arg("causal"), py::arg("window"), py::arg("stream"));
  module.def("attention_tiles", &tiles, py::arg("shape"), py::arg("causal"), py::arg("window"));
}

}  // namespace codeshell::bindings
