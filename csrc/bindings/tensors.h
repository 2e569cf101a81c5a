// Tensors as the bindings of kernels see them: address, shape, strides, dtype and device, read without torch's headers.
//
// A call of a small kernel costs what its arguments cost. Reading a tensor's attributes from Python takes about a
// microsecond per tensor, so a type that offers the C functions of DLPack's exchange protocol (torch 2.10 and later do;
// https://dmlc.github.io/dlpack/latest/c_api.html) is read through those, in tens of nanoseconds, and other types by
// their attributes. For the same reason these functions take their arguments as an array (METH_FASTCALL) and not
// through pybind11's conversions.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace codeshell::bindings {

namespace py = pybind11;

enum class DType : std::uint8_t { fp16, bf16, fp32, fp64, int32, int64, other };

// A tensor while the caller holds it. Strides count elements.
struct Tensor {
  static constexpr int kMostDimensions = 8;

  void* data = nullptr;
  int dimensions = 0;
  std::int64_t shape[kMostDimensions] = {};
  std::int64_t strides[kMostDimensions] = {};
  DType dtype = DType::other;
  bool cuda = false;
  int device = 0;  // among the CUDA devices

  std::int64_t size(int from_last) const { return shape[dimensions - from_last]; }
  std::int64_t stride(int from_last) const { return strides[dimensions - from_last]; }
  bool on_same_device(const Tensor& other) const { return cuda == other.cuda && device == other.device; }
};

// Reads argument `name` as a tensor; ValueError for one on another kind of device or with too many dimensions,
// TypeError for an object that is no tensor.
Tensor tensor_of(PyObject* object, const char* name);

// What is read of each tensor in a long list: no copy of shape and strides, and nothing for messages.
struct Glance {
  void* data;
  std::int64_t size;   // elements
  const void* object;  // an address inside torch's tensor object, or null
  DType dtype;
  bool contiguous;
  bool cuda;
  int device;
};

Glance glance_at(PyObject* object);

// Whether a tensor may be the real or imaginary part of a complex one: all its strides are even. Others have no negative
// bit, as torch's public functions set it; to know that from the strides is four times as fast as to ask `is_neg`.
bool may_be_part_of_complex(PyObject* object);

// For messages: "(2, 9, 4, 32)", "float32", "cuda:0".
std::string shape_text(const Tensor& tensor);
const char* dtype_text(DType dtype);
std::string device_text(const Tensor& tensor);

std::int64_t integer_of(PyObject* object, const char* name);
bool truth_of(PyObject* object);

// Turns the exception that is being handled into Python's; call it in a catch block.
void set_python_error() noexcept;

// A Python function that takes exactly `count` positional arguments; `function` returns a new reference.
template <PyObject* (*function)(PyObject* const*), int count>
PyObject* fast_call(PyObject*, PyObject* const* arguments, Py_ssize_t given) noexcept {
  if (given != count) {
    PyErr_Format(PyExc_TypeError, "takes %d positional arguments, not %zd", count, given);
    return nullptr;
  }
  try {
    return function(arguments);
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

// Adds such a function to the module; `name` and `doc` must be literals, because Python keeps their addresses.
void define_fast(py::module_& module, const char* name, PyObject* (*call)(PyObject*, PyObject* const*, Py_ssize_t),
                 const char* doc);

}  // namespace codeshell::bindings
