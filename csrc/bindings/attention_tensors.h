// How Python hands a tensor to the attention kernels: attention.cpp and decode.cpp read it alike.
//
// The calls of these kernels are checked in Python (codeshell/ops/attention_call.py, codeshell/ops/decode.py), in one
// place and in one wording. An address cannot be checked here, so the bindings trust their callers with the sizes too.
#pragma once

#include <pybind11/stl.h>

#include <initializer_list>
#include <string>
#include <tuple>

#include "attention/attention.h"
#include "bindings/gpu.h"

namespace codeshell::bindings {

// The address, and the strides in elements of batch (or page), token and head. The last dimension is contiguous.
using TensorArgument = std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::int64_t>;

inline AttentionTensor tensor(const TensorArgument& argument) {
  const auto [address, batch, token, head] = argument;
  return {pointer<void>(address), batch, token, head};
}

// "(2, 300, 8, 64)", for messages.
inline std::string shape_text(std::initializer_list<int> sizes) {
  std::string text;
  for (const int size : sizes) text += (text.empty() ? "(" : ", ") + std::to_string(size);
  return text + ")";
}

}  // namespace codeshell::bindings
