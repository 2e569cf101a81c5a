// The model's operations on the CPU: attention, GELU, norm and cross-entropy. Tensors come as addresses, because bf16 has no
// buffer format; the caller (codeshell/ops/cpu.py) holds them and has checked shapes, dtypes and strides.
//
// Every function gives the GIL back while it computes, and takes the number of threads that torch uses.
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "activation/gelu_cpu.h"
#include "attention/attention_cpu.h"
#include "bindings/buffers.h"
#include "loss/cross_entropy_cpu.h"
#include "norm/norm_cpu.h"
#include "product/product_cpu.h"

namespace codeshell::bindings {

namespace {

// An address as a pointer; 0 is null.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The address, and the strides in elements of token and head. Batches are consecutive tokens, so they need no stride of
// their own.
using ViewArgument = std::tuple<std::uintptr_t, std::int64_t, std::int64_t>;
// (sequences + 1,): where each sequence begins among the tokens. A dense batch has equal steps.
using SequenceOffsets = py::array_t<std::int32_t, py::array::c_style>;

attention::View view_of(const ViewArgument& argument) {
  return {at<void>(std::get<0>(argument)), std::get<1>(argument), std::get<2>(argument)};
}

// What the forward and the backward pass share. `tensors`: q, k, v, out; `shape`: heads, kv_heads, dim; `rotary`: the
// addresses of cos, sin and positions, or 0 for q and k that are taken as they are.
attention::Problem attention_problem(const std::array<ViewArgument, 4>& tensors, std::uintptr_t lse, bool bf16,
                                     const SequenceOffsets& query_offsets, const SequenceOffsets& key_offsets,
                                     const std::array<std::int64_t, 3>& shape, float scale, bool causal,
                                     std::int64_t window, const std::array<std::uintptr_t, 3>& rotary) {
  const auto [heads, kv_heads, dim] = shape;
  attention::Problem p;
  p.q = view_of(tensors[0]), p.k = view_of(tensors[1]), p.v = view_of(tensors[2]), p.out = view_of(tensors[3]);
  p.lse = at<float>(lse);
  p.bf16 = bf16;
  p.query_offsets = query_offsets.data();
  p.key_offsets = key_offsets.data();
  p.sequences = query_offsets.size() - 1;
  // All queries: the stride of a head's log-sum-exp, (heads, query_tokens).
  p.query_tokens = p.query_offsets[p.sequences];
  p.heads = heads, p.kv_heads = kv_heads, p.dim = dim;
  p.scale = scale, p.causal = causal, p.window = window;
  p.cos = at<float>(rotary[0]), p.sin = at<float>(rotary[1]), p.positions = at<std::int32_t>(rotary[2]);
  return p;
}

}  // namespace

void bind_cpu(py::module_& module) {
  module.def("attention_forward", [](const std::array<ViewArgument, 4>& tensors, std::uintptr_t lse, bool bf16,
                                     const SequenceOffsets& query_offsets, const SequenceOffsets& key_offsets,
                                     const std::array<std::int64_t, 3>& shape, float scale, bool causal,
                                     std::int64_t window, const std::array<std::uintptr_t, 3>& rotary, int threads) {
    // The arrays of offsets stay alive in the caller's arguments while the GIL is away.
    const auto problem =
        attention_problem(tensors, lse, bf16, query_offsets, key_offsets, shape, scale, causal, window, rotary);
    const py::gil_scoped_release release;
    attention::forward(problem, threads);
  });
  module.def("attention_backward", [](const std::array<ViewArgument, 4>& tensors,
                                      const std::array<ViewArgument, 4>& gradients, std::uintptr_t lse, bool bf16,
                                      const SequenceOffsets& query_offsets, const SequenceOffsets& key_offsets,
                                      const std::array<std::int64_t, 3>& shape, float scale, bool causal,
                                      std::int64_t window, const std::array<std::uintptr_t, 3>& rotary, int threads) {
    auto problem =
        attention_problem(tensors, lse, bf16, query_offsets, key_offsets, shape, scale, causal, window, rotary);
    // Three gradients to fill, and the one that comes in.
    problem.grad_q = view_of(gradients[0]), problem.grad_k = view_of(gradients[1]);
    problem.grad_v = view_of(gradients[2]), problem.grad_out = view_of(gradients[3]);
    const py::gil_scoped_release release;
    attention::backward(problem, threads);
  });
  // Contiguous matrices (rows, columns). Bias, partial and sums are fp32; each may be 0 where there is none.
  module.def(
      "gelu_forward",
      [](std::uintptr_t x, std::uintptr_t bias, std::uintptr_t y, std::int64_t rows, std::int64_t columns, bool bf16,
         int threads) { activation::gelu(at<void>(x), at<float>(bias), at<void>(y), {rows, columns, bf16}, threads); },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "gelu_backward",
      [](std::uintptr_t x, std::uintptr_t bias, std::uintptr_t dy, std::uintptr_t grad, std::uintptr_t partial,
         std::uintptr_t sums, std::int64_t rows, std::int64_t columns, bool bf16, int threads) {
        activation::gelu_backward(at<void>(x), at<float>(bias), at<void>(dy), at<void>(grad), at<float>(partial),
                                  at<float>(sums), {rows, columns, bf16}, threads);
      },
      py::call_guard<py::gil_scoped_release>());
  // How many rows `partial` has.
  module.def("gelu_sum_chunks", &activation::sum_chunks);
  // Products of fp32 matrices. B (k, n) is packed first, from the strides of its rows and columns, into `packed_size`
  // floats; then C (m, n), rows c_row apart, is A (m, k) B, where A has the two strides that are given.
  module.def("product_pays", &product::pays);
  module.def("product_packed_size", &product::packed_size);
  module.def(
      "product_pack",
      [](std::uintptr_t b, std::int64_t row, std::int64_t step, std::int64_t n, std::int64_t k, std::uintptr_t packed,
         int threads) { product::pack(at<float>(b), row, step, n, k, at<float>(packed), threads); },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "product_multiply",
      [](std::uintptr_t a, std::int64_t a_row, std::int64_t a_step, std::uintptr_t packed, std::uintptr_t c,
         std::int64_t c_row, std::uintptr_t bias, bool add, std::int64_t m, std::int64_t n, std::int64_t k,
         int threads) {
        product::multiply(
            {at<float>(a), a_row, a_step, at<float>(packed), at<float>(c), c_row, at<float>(bias), add, m, n, k},
            threads);
      },
      py::call_guard<py::gil_scoped_release>());
  // y (m, n), contiguous, = x (m, k) fp32, rows x_row apart, times the transposed W (n, k), rows w_row apart. `bf16` is
  // the type of W, bias (0: none) and y.
  module.def(
      "product_rows",
      [](std::uintptr_t x, std::int64_t x_row, std::uintptr_t weights, std::int64_t w_row, std::uintptr_t bias,
         std::uintptr_t y, std::int64_t m, std::int64_t n, std::int64_t k, bool bf16, int threads) {
        product::multiply(
            product::Rows{at<float>(x), x_row, at<void>(weights), w_row, at<void>(bias), at<void>(y), m, n, k, bf16},
            threads);
      },
      py::call_guard<py::gil_scoped_release>());
  // Logits (rows, n) become their gradient in place; losses are fp32 (rows,).
  module.def(
      "cross_entropy",
      [](std::uintptr_t logits, std::int64_t rows, std::int64_t n, std::uintptr_t targets, std::int64_t ignore_index,
         float scale, std::uintptr_t losses, bool bf16, int threads) {
        loss::cross_entropy(at<void>(logits), rows, n, at<std::int64_t>(targets), ignore_index, scale,
                            at<float>(losses), bf16, threads);
      },
      py::call_guard<py::gil_scoped_release>());
  // (rows, width). `bf16`: that the stream, the branch and the result are; addresses in the order of norm::Forward and
  // norm::Backward, 0 for what is not there.
  module.def("norm_forward", [](const std::array<std::uintptr_t, 8>& tensors, std::int64_t rows, std::int64_t width,
                                float eps, const std::array<bool, 3>& bf16, int threads) {
    const py::gil_scoped_release release;
    norm::forward({.x = at<void>(tensors[0]),
                   .branch = at<void>(tensors[1]),
                   .stream = at<void>(tensors[2]),
                   .normed = at<void>(tensors[3]),
                   .weight = at<float>(tensors[4]),
                   .bias = at<float>(tensors[5]),
                   .mean = at<float>(tensors[6]),
                   .rstd = at<float>(tensors[7]),
                   .rows = rows,
                   .width = width,
                   .eps = eps,
                   .bf16 = bf16[0],
                   .branch_bf16 = bf16[1],
                   .normed_bf16 = bf16[2]},
                  threads);
  });
  module.def("norm_backward", [](const std::array<std::uintptr_t, 11>& tensors, std::int64_t rows, std::int64_t width,
                                 const std::array<bool, 2>& bf16, int threads) {
    const py::gil_scoped_release release;
    norm::backward({.grad_stream = at<void>(tensors[0]),
                    .grad_normed = at<void>(tensors[1]),
                    .stream = at<void>(tensors[2]),
                    .mean = at<float>(tensors[3]),
                    .rstd = at<float>(tensors[4]),
                    .weight = at<float>(tensors[5]),
                    .grad_x = at<void>(tensors[6]),
                    .grad_branch = at<void>(tensors[7]),
                    .partial = at<float>(tensors[8]),
                    .grad_weight = at<float>(tensors[9]),
                    .grad_bias = at<float>(tensors[10]),
                    .rows = rows,
                    .width = width,
                    .bf16 = bf16[0],
                    .normed_bf16 = bf16[1]},
                   threads);
  });
  module.def("norm_sum_chunks", &norm::sum_chunks);
}

}  // namespace codeshell::bindings
