// The gradient of the cross-entropy over rows of logits on a GPU. codeshell/ops/loss.py calls it and has checked shapes,
// dtypes and devices; addresses come as integers.
#include "bindings/gpu.h"
#include "gpu/launch.h"
#include "loss/softmax_gradient.h"

namespace codeshell::bindings {

namespace {

using loss::SoftmaxGradient, loss::Type;

// By the names of torch; ValueError for another one.
Type type_named(const std::string& dtype) {
  if (dtype == "float32") return Type::fp32;
  if (dtype == "bfloat16") return Type::bf16;
  if (dtype == "float16") return Type::fp16;
  throw py::value_error("softmax_gradient: dtype '" + dtype + "' is none of float32, bfloat16, float16");
}

int splits(std::int64_t rows, std::int64_t vocabulary, const std::string& dtype) {
  const int bytes = type_named(dtype) == Type::fp32 ? 4 : 2;
  if constexpr (gpu::kHasKernels) {
    return loss::softmax_gradient_splits(rows, vocabulary, bytes, gpu::multiprocessors());
  } else {
    raise_no_kernels("softmax_gradient");
  }
}

void launch(std::uintptr_t logits, std::int64_t row_stride, std::int64_t rows, std::int64_t vocabulary,
            const std::string& dtype, std::uintptr_t targets, std::int64_t ignore_index, std::uintptr_t scale,
            std::uintptr_t losses, std::uintptr_t partials, int splits, std::uintptr_t stream) {
  const Type type = type_named(dtype);
  // What the kernel counts on, and what would make it write where it must not.
  if (rows < 0 || vocabulary < 0 || vocabulary > loss::kMostTokens || (rows > 1 && row_stride < vocabulary))
    throw py::value_error("softmax_gradient: logits (" + std::to_string(rows) + ", " + std::to_string(vocabulary) +
                          ") with rows " + std::to_string(row_stride) +
                          " apart: rows must not overlap, and have at most 2^30 elements");
  if (splits < 1 || splits > 32 || (splits > 1 && !partials))
    throw py::value_error("softmax_gradient: " + std::to_string(splits) +
                          " splits: there are 1 to 32, and more than one needs the workspace");
  if (logits % (type == Type::fp32 ? 4 : 2))
    throw py::value_error("softmax_gradient: the address of the logits is not a multiple of an element's size");
  if constexpr (gpu::kHasKernels) {
    check("softmax_gradient",
          loss::launch_softmax_gradient({pointer<void>(logits), row_stride, pointer<const std::int64_t>(targets),
                                         pointer<float>(losses), pointer<const float>(scale), 1.0f,
                                         pointer<float>(partials), rows, vocabulary, ignore_index, splits, type},
                                        pointer<void>(stream)),
          [&] { return "logits (" + std::to_string(rows) + ", " + std::to_string(vocabulary) + "), " + dtype; });
  } else {
    raise_no_kernels("softmax_gradient");
  }
}

}  // namespace

void bind_loss(py::module_& module) {
  module.def("softmax_gradient_cuda", &launch, py::arg("logits"), py::arg("row_stride"), py::arg("rows"),
             py::arg("vocabulary"), py::arg("dtype"), py::arg("targets"), py::arg("ignore_index"), py::arg("scale"),
             py::arg("losses"), py::arg("partials"), py::arg("splits"), py::arg("stream"));
  module.def("softmax_gradient_splits", &splits, py::arg("rows"), py::arg("vocabulary"), py::arg("dtype"));
}

}  // namespace codeshell::bindings
