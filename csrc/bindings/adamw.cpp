// AdamW: tables of tensors read from Python's lists, the step and the gradient norm over them, on the CPU and by CUDA.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <tuple>

#include "adamw/adamw_cpu.h"
#include "bindings/gpu.h"
#include "bindings/tensors.h"

namespace codeshell::bindings {

namespace {

using adamw::Scheme, adamw::Settings, adamw::Table, adamw::Type;

// (parameter, gradient, moment) as "float32" …, master, stochastic.
using SchemeArgument = std::tuple<std::string, std::string, std::string, bool, bool>;
// lr, betas, eps, weight_decay; seed, maximize; addresses of lr, grad_scale, found_inf, factor, or 0.
using SettingsArgument =
    std::tuple<double, double, double, double, double, std::uint64_t, bool, std::array<std::uintptr_t, 4>>;

Type type_named(const std::string& name) {
  if (name == "float32") return Type::fp32;
  if (name == "bfloat16") return Type::bf16;
  if (name == "float16") return Type::fp16;
  throw py::value_error("dtype: '" + name + "' is none of float32, bfloat16, float16");
}

Scheme scheme_of(const SchemeArgument& argument) {
  const Scheme s{type_named(std::get<0>(argument)), type_named(std::get<1>(argument)),
                 type_named(std::get<2>(argument)), std::get<3>(argument), std::get<4>(argument)};
  const bool gradient = s.gradient == s.param || s.gradient == Type::fp32;
  const bool moment =
      s.moment == s.param || s.moment == Type::fp32 || (s.param == Type::fp32 && s.moment == Type::bf16);
  const bool rounding = (!s.master || (s.param != Type::fp32 && (s.param == Type::bf16 || s.moment == Type::fp32))) &&
                        !(s.stochastic && s.param == Type::fp16);
  if (!gradient || !moment || !rounding)
    throw py::value_error("scheme: no kernel for parameters in " + std::get<0>(argument) + ", gradients in " +
                          std::get<1>(argument) + ", moments in " + std::get<2>(argument) +
                          (s.master ? ", with master weights" : "") + (s.stochastic ? ", rounded stochastically" : ""));
  return s;
}

Settings settings_of(const SettingsArgument& argument) {
  const auto [lr, beta1, beta2, eps, weight_decay, seed, maximize, addresses] = argument;
  const auto at = [&](int i) { return pointer<const float>(addresses[static_cast<std::size_t>(i)]); };
  return {lr,       beta1, beta2, eps,   weight_decay, std::log(beta1), std::log(beta2), seed,
          maximize, at(0), at(1), at(2), at(3)};
}

DType dtype_of(Type type) { return type == Type::fp32 ? DType::fp32 : type == Type::bf16 ? DType::bf16 : DType::fp16; }

// What every tensor of a table must be.
struct Expected {
  Scheme scheme;
  bool cuda;
  int device;
  bool local;  // tensors may be DTensors: read their `_local_tensor`
};

struct Names {
  PyObject *grad, *local, *step, *exp_avg, *exp_avg_sq, *master;
};

const Names& names() {
  static const Names interned{PyUnicode_InternFromString("grad"),       PyUnicode_InternFromString("_local_tensor"),
                              PyUnicode_InternFromString("step"),       PyUnicode_InternFromString("exp_avg"),
                              PyUnicode_InternFromString("exp_avg_sq"), PyUnicode_InternFromString("master_param")};
  return interned;
}

// The address of a tensor, or false where it is not `dtype`, `size` elements, contiguous and where it must be.
bool read(PyObject* object, const Expected& expected, DType dtype, std::int64_t size, void** address) {
  py::object held;
  if (expected.local) {
    held = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().local));
    if (!held) {
      PyErr_Clear();
    } else {
      object = held.ptr();
    }
  }
  const Tensor t = tensor_of(object, "tensor");
  std::int64_t next = 1;
  for (int i = t.dimensions; i-- > 0;) {
    if (t.shape[i] != 1 && t.strides[i] != next && size) return false;
    next *= t.shape[i];
  }
  *address = t.data;
  return next == size && t.dtype == dtype && t.cuda == expected.cuda && (!t.cuda || t.device == expected.device);
}

// Fills the addresses in; returns -1 where they are those that the table had, -2 where some differ, and else the number
// of the first tensor that does not fit.
std::int64_t refresh(Table& table, const py::list& params, const py::object& gradients, const py::list& states,
                     const SchemeArgument& scheme, int device, bool local) {
  const Expected expected{scheme_of(scheme), device >= 0, device, local};
  const auto count = static_cast<Py_ssize_t>(table.tensors.size());
  const bool own = gradients.is_none();
  if (PyList_GET_SIZE(params.ptr()) != count || PyList_GET_SIZE(states.ptr()) != count ||
      (!own && (!PyList_Check(gradients.ptr()) || PyList_GET_SIZE(gradients.ptr()) != count)))
    throw py::value_error("params, gradients, states: must be lists as long as the table");
  const DType param = dtype_of(expected.scheme.param), gradient = dtype_of(expected.scheme.gradient),
              moment = dtype_of(expected.scheme.moment);
  bool same = true;
  for (Py_ssize_t i = 0; i < count; ++i) {
    adamw::Tensor& old = table.tensors[static_cast<std::size_t>(i)];
    adamw::Tensor now{};
    now.size = old.size, now.stream = old.stream;
    PyObject* const parameter = PyList_GET_ITEM(params.ptr(), i);
    const auto grad = own ? py::reinterpret_steal<py::object>(PyObject_GetAttr(parameter, names().grad))
                          : py::reinterpret_borrow<py::object>(PyList_GET_ITEM(gradients.ptr(), i));
    if (!grad) throw py::error_already_set();
    if (!grad.is_none()) {
      PyObject* const state = PyList_GET_ITEM(states.ptr(), i);
      if (!PyDict_Check(state)) return i;
      const auto part = [&](PyObject* name, DType dtype, std::int64_t size, auto** address) {
        PyObject* const found = PyDict_GetItemWithError(state, name);
        if (!found || found == Py_None) return false;
        return read(found, expected, dtype, size, reinterpret_cast<void**>(address));
      };
      if (!read(parameter, expected, param, now.size, &now.param) ||
          !read(grad.ptr(), expected, gradient, now.size, &now.gradient) ||
          !part(names().exp_avg, moment, now.size, &now.exp_avg) ||
          !part(names().exp_avg_sq, moment, now.size, &now.exp_avg_sq) ||
          !part(names().step, DType::fp32, 1, &now.step) ||
          (expected.scheme.master && !part(names().master, DType::fp32, now.size, &now.master)))
        return i;
      // An empty tensor's address may be null, which would say that there is no gradient: its step counts all the same.
      if (!now.gradient && now.size == 0) now.gradient = now.step;
    }
    same = same && std::memcmp(&old, &now, sizeof now) == 0;
    old = now;
  }
  return same ? -1 : -2;
}

py::bytes bytes_of(const void* data, std::size_t size) { return {static_cast<const char*>(data), size}; }

// Addresses on the device of a table's tensors and chunks, and of the zeroed counter.
using DeviceTable = std::tuple<std::uintptr_t, std::int64_t, std::uintptr_t, std::int64_t, std::uintptr_t>;

void step_cuda(const DeviceTable& table, const SchemeArgument& scheme, const SettingsArgument& settings,
               std::uintptr_t stream) {
  const auto [tensors, tensor_count, chunks, chunk_count, finished] = table;
  const adamw::StepArguments arguments{pointer<const adamw::Tensor>(tensors),
                                       tensor_count,
                                       pointer<const adamw::Chunk>(chunks),
                                       chunk_count,
                                       pointer<unsigned int>(finished),
                                       scheme_of(scheme),
                                       settings_of(settings)};
  if constexpr (gpu::kHasKernels) {
    check("adamw", launch_adamw(arguments, pointer<void>(stream)));
  } else {
    raise_no_kernels("adamw");
  }
}

void norm_cuda(const DeviceTable& table, const std::string& gradient, std::uintptr_t partials, std::uintptr_t sums,
               int slot, int slot_count, float max_norm, std::uintptr_t result, std::uintptr_t stream) {
  const auto [tensors, tensor_count, chunks, chunk_count, finished] = table;
  const adamw::NormArguments arguments{pointer<const adamw::Tensor>(tensors),
                                       pointer<const adamw::Chunk>(chunks),
                                       chunk_count,
                                       pointer<unsigned int>(finished),
                                       type_named(gradient),
                                       pointer<double>(partials),
                                       pointer<double>(sums),
                                       slot,
                                       slot_count,
                                       max_norm,
                                       pointer<float>(result)};
  if constexpr (gpu::kHasKernels) {
    check("gradient_norm", launch_gradient_norm(arguments, pointer<void>(stream)));
  } else {
    raise_no_kernels("gradient_norm");
  }
}

}  // namespace

void bind_adamw(py::module_& module) {
  py::class_<Table>(module, "AdamWTable", py::module_local())
      .def(py::init<const std::vector<std::int64_t>&, const std::vector<std::int64_t>&>(), py::arg("sizes"),
           py::arg("streams"))
      .def("refresh", &refresh)
      .def("all_have_gradients",
           [](const Table& t) {
             return std::all_of(t.tensors.begin(), t.tensors.end(),
                                [](const auto& x) { return x.gradient != nullptr; });
           })
      .def("tensors",
           [](const Table& t) { return bytes_of(t.tensors.data(), t.tensors.size() * sizeof(adamw::Tensor)); })
      .def("chunks", [](const Table& t) { return bytes_of(t.chunks.data(), t.chunks.size() * sizeof(adamw::Chunk)); })
      .def("step_cpu",
           [](const Table& table, const SchemeArgument& scheme, const SettingsArgument& settings, int threads) {
             const Scheme s = scheme_of(scheme);
             const Settings t = settings_of(settings);
             const py::gil_scoped_release release;
             return step_cpu(table, s, t, threads);
           })
      .def("sum_of_squares_cpu", [](const Table& table, const std::string& gradient, int threads) {
        const Type type = type_named(gradient);
        const py::gil_scoped_release release;
        return sum_of_squares_cpu(table, type, threads);
      });
  module.def("adamw_step_cuda", &step_cuda);
  module.def("gradient_norm_cuda", &norm_cuda);
}

}  // namespace codeshell::bindings
