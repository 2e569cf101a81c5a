// AdamW: tables of tensors read from Python's lists, the step and the gradient norm over them, on the CPU and by CUDA.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <optional>
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

// Where the objects of a tensor were at the last reading: they are fetched into the cache ahead of the next. Only a
// hint: they may have moved, or be gone.
struct Whereabouts {
  const void *param, *gradient, *gradient_object;
};

struct BoundTable : Table {
  using Table::Table;
  std::vector<Whereabouts> whereabouts = std::vector<Whereabouts>(tensors.size());
};

// `object`: an address inside torch's tensor object, of some 200 bytes, as a Glance has it.
void prefetch_object(const void* object) {
  constexpr int kBefore = 80, kLine = 64, kLines = 4;
  for (int line = 0; line < kLines; ++line)
    __builtin_prefetch(static_cast<const char*>(object) - kBefore + line * kLine);
}

// The address of a tensor, or false where it is not `dtype`, `size` elements, contiguous and where it must be.
bool read(PyObject* object, const Expected& expected, DType dtype, std::int64_t size, void** address,
          const void** whereabouts = nullptr) {
  py::object held;
  if (expected.local) {
    held = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().local));
    if (!held) {
      PyErr_Clear();
    } else {
      object = held.ptr();
    }
  }
  const Glance g = glance_at(object);
  *address = g.data;
  if (whereabouts) *whereabouts = g.object;
  return g.contiguous && g.size == size && g.dtype == dtype && g.cuda == expected.cuda &&
         (!g.cuda || g.device == expected.device);
}

// The state's tensors by name: as they are met in the dict, which is in torch's order, without looking each name up.
struct StateEntries {
  PyObject *step = nullptr, *exp_avg = nullptr, *exp_avg_sq = nullptr, *master = nullptr;

  explicit StateEntries(PyObject* state) {
    const Names& n = names();
    const auto find = [&](PyObject* name) -> PyObject*& {
      return name == n.step ? step : name == n.exp_avg ? exp_avg : name == n.exp_avg_sq ? exp_avg_sq : master;
    };
    Py_ssize_t position = 0;
    PyObject *key, *value;
    while (PyDict_Next(state, &position, &key, &value))
      if (key == n.step || key == n.exp_avg || key == n.exp_avg_sq || key == n.master) find(key) = value;
    for (PyObject* name : {n.step, n.exp_avg, n.exp_avg_sq, n.master})  // Equal names that are other objects.
      if (PyObject*& entry = find(name); !entry) entry = PyDict_GetItemWithError(state, name);
  }
};

// Where a table's addresses come from: lists as long as it is.
struct Source {
  const py::list &params, &states;
  const py::object& gradients;  // a list, or None: each parameter's own
  Expected expected;

  void check(const Table& table) const {
    const auto count = static_cast<Py_ssize_t>(table.tensors.size());
    if (PyList_GET_SIZE(params.ptr()) != count || PyList_GET_SIZE(states.ptr()) != count ||
        (!gradients.is_none() && (!PyList_Check(gradients.ptr()) || PyList_GET_SIZE(gradients.ptr()) != count)))
      throw py::value_error("params, gradients, states: must be lists as long as the table");
  }
};

// Fills in the addresses of tensor i; false if one of its arrays does not fit.
bool read_tensor(BoundTable& table, const Source& source, std::size_t i) {
  constexpr std::size_t kAhead = 16;
  PyObject** const params = reinterpret_cast<PyListObject*>(source.params.ptr())->ob_item;
  if (i + kAhead < table.tensors.size()) {
    const Whereabouts& ahead = table.whereabouts[i + kAhead];
    __builtin_prefetch(params[i + kAhead]);
    prefetch_object(ahead.param);
    __builtin_prefetch(ahead.gradient);
    prefetch_object(ahead.gradient_object);
  }
  const Expected& expected = source.expected;
  const DType moment = dtype_of(expected.scheme.moment);
  Whereabouts& whereabouts = table.whereabouts[i];
  adamw::Tensor now{};
  now.size = table.tensors[i].size, now.stream = table.tensors[i].stream;
  PyObject* const parameter = params[i];
  const auto grad = source.gradients.is_none()
                        ? py::reinterpret_steal<py::object>(PyObject_GetAttr(parameter, names().grad))
                        : py::reinterpret_borrow<py::object>(PyList_GET_ITEM(source.gradients.ptr(), i));
  if (!grad) throw py::error_already_set();
  if (!grad.is_none()) {
    PyObject* const state = PyList_GET_ITEM(source.states.ptr(), i);
    if (!PyDict_Check(state)) return false;
    const StateEntries entries(state);
    const auto part = [&](PyObject* found, DType dtype, std::int64_t size, auto** address) {
      return found && found != Py_None && read(found, expected, dtype, size, reinterpret_cast<void**>(address));
    };
    whereabouts.gradient = grad.ptr();
    if (!read(parameter, expected, dtype_of(expected.scheme.param), now.size, &now.param, &whereabouts.param) ||
        !read(grad.ptr(), expected, dtype_of(expected.scheme.gradient), now.size, &now.gradient,
              &whereabouts.gradient_object) ||
        !part(entries.exp_avg, moment, now.size, &now.exp_avg) ||
        !part(entries.exp_avg_sq, moment, now.size, &now.exp_avg_sq) ||
        !part(entries.step, DType::fp32, 1, &now.step) ||
        (expected.scheme.master && !part(entries.master, DType::fp32, now.size, &now.master)))
      return false;
    // An empty tensor's address may be null, which would say that there is no gradient: its step counts all the same.
    if (!now.gradient && now.size == 0) now.gradient = now.step;
  }
  table.tensors[i] = now;
  return true;
}

// Fills the addresses in; returns -1 where they are those that the table had, -2 where some differ, and else the number
// of the first tensor that does not fit.
std::int64_t refresh(BoundTable& table, const py::list& params, const py::object& gradients, const py::list& states,
                     const SchemeArgument& scheme, int device, bool local) {
  const Source source{params, states, gradients, {scheme_of(scheme), device >= 0, device, local}};
  source.check(table);
  bool same = true;
  for (std::size_t i = 0; i < table.tensors.size(); ++i) {
    const adamw::Tensor old = table.tensors[i];
    if (!read_tensor(table, source, i)) return static_cast<std::int64_t>(i);
    same = same && std::memcmp(&old, &table.tensors[i], sizeof old) == 0;
  }
  return same ? -1 : -2;
}

// Whether two sequences of objects are the same objects; the first may be a dict, of which it is the values.
bool same_objects(const py::object& objects, const py::list& others) {
  const auto count = py::len(others);
  if (py::len(objects) != count) return false;
  if (!PyDict_Check(objects.ptr())) {
    const py::list list = objects;
    for (std::size_t i = 0; i < count; ++i)
      if (PyList_GET_ITEM(list.ptr(), i) != PyList_GET_ITEM(others.ptr(), i)) return false;
    return true;
  }
  Py_ssize_t position = 0;
  PyObject* value;
  for (Py_ssize_t i = 0; PyDict_Next(objects.ptr(), &position, nullptr, &value); ++i)
    if (value != PyList_GET_ITEM(others.ptr(), i)) return false;
  return true;
}

// Has autograd know that the tensors [first, last) are written, those that have a gradient.
void mark_written(const Table& table, const py::list& tensors, std::int64_t first, std::int64_t last,
                  const py::object& increment_version) {
  py::list written;
  for (std::int64_t i = first; i < last; ++i)
    if (table.tensors[static_cast<std::size_t>(i)].gradient) written.append(tensors[static_cast<std::size_t>(i)]);
  if (!written.empty()) increment_version(written);
}

// A step on the CPU over the addresses that the tensors have now. Returns the number of the first tensor that does not
// fit, or -1: those before it are updated, no others.
std::int64_t step_here(BoundTable& table, const py::list& params, const py::object& gradients, const py::list& states,
                       const py::list& written, const py::object& increment_version, const SchemeArgument& scheme,
                       const SettingsArgument& settings, bool local, int threads) {
  const Source source{params, states, gradients, {scheme_of(scheme), false, 0, local}};
  source.check(table);
  if (py::len(written) != table.tensors.size()) throw py::value_error("written: must be a list as long as the table");
  const Settings values = settings_of(settings);
  std::int64_t unfit = -1;
  std::exception_ptr error;
  std::optional<py::gil_scoped_release> release;
  const auto fits = [&](std::int64_t i) {
    try {
      return read_tensor(table, source, static_cast<std::size_t>(i));
    } catch (...) {
      return false;  // The caller looks at it again, and then meets the error.
    }
  };
  const auto read = [&](std::int64_t first, std::int64_t last) {
    std::int64_t i = first;
    while (i < last && fits(i)) ++i;
    if (i < last) unfit = i;
    try {
      mark_written(table, written, first, i, increment_version);
    } catch (...) {
      error = std::current_exception();
      return first;
    }
    return i;
  };
  step_cpu(table, source.expected.scheme, values, threads, read, [&] { release.emplace(); });
  release.reset();
  if (error) std::rethrow_exception(error);
  return unfit;
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
  py::class_<BoundTable>(module, "AdamWTable", py::module_local())
      .def(py::init<const std::vector<std::int64_t>&, const std::vector<std::int64_t>&>(), py::arg("sizes"),
           py::arg("streams"))
      .def("refresh", &refresh)
      .def("tensors",
           [](const BoundTable& t) { return bytes_of(t.tensors.data(), t.tensors.size() * sizeof(adamw::Tensor)); })
      .def("chunks",
           [](const BoundTable& t) { return bytes_of(t.chunks.data(), t.chunks.size() * sizeof(adamw::Chunk)); })
      .def("step_cpu", &step_here)
      .def("sum_of_squares_cpu", [](const BoundTable& table, const std::string& gradient, int threads) {
        const Type type = type_named(gradient);
        const py::gil_scoped_release release;
        return sum_of_squares_cpu(table, type, threads);
      });
  module.def("same_objects", &same_objects);
  module.def("adamw_step_cuda", &step_cuda);
  module.def("gradient_norm_cuda", &norm_cuda);
}

}  // namespace codeshell::bindings
