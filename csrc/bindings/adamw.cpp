// AdamW: tables of tensors read from Python's lists, the step and the gradient norm over them, on the CPU and by CUDA.
//
// A model has hundreds of parameters, and most are small: reading their addresses costs as much as updating them. So a
// table is made once; a step reads the addresses again (gradients are new tensors after zero_grad) without calling any
// Python function for them, and on the CPU it reads ahead while other threads compute.
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

// (parameter, gradient, moment) as "float32" and so on; whether there are master weights; stochastic rounding.
using SchemeArgument = std::tuple<std::string, std::string, std::string, bool, bool>;
// lr, both betas, eps, weight_decay; seed, maximize; the addresses of lr, grad_scale, found_inf and factor, each 0
// where there is none.
using SettingsArgument =
    std::tuple<double, double, double, double, double, std::uint64_t, bool, std::array<std::uintptr_t, 4>>;

Type type_named(const std::string& name) {
  if (name == "float32") return Type::fp32;
  if (name == "bfloat16") return Type::bf16;
  if (name == "float16") return Type::fp16;
  throw py::value_error("dtype: '" + name + "' is none of float32, bfloat16, float16");
}

// ValueError for a combination of dtypes that no kernel is compiled for.
Scheme scheme_of(const SchemeArgument& argument) {
  const Scheme s{type_named(std::get<0>(argument)), type_named(std::get<1>(argument)),
                 type_named(std::get<2>(argument)), std::get<3>(argument), std::get<4>(argument)};
  // Gradients come in the parameter's dtype or fp32. Moments also in bf16 for fp32 parameters. Master weights are for
  // 16-bit parameters (fp16 ones with fp32 moments), and only bf16 is rounded stochastically.
  const bool gradient = s.gradient == s.param || s.gradient == Type::fp32;
  const bool moment =
      s.moment == s.param || s.moment == Type::fp32 || (s.param == Type::fp32 && s.moment == Type::bf16);
  // Master weights of fp32 would be the parameters themselves.
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
  // The logarithms of the betas are for the bias corrections, which every tensor's step number enters.
  const auto at = [&](int i) { return pointer<const float>(addresses[static_cast<std::size_t>(i)]); };
  return {lr,       beta1, beta2, eps,   weight_decay, std::log(beta1), std::log(beta2), seed,
          maximize, at(0), at(1), at(2), at(3)};
}

DType dtype_of(Type type) { return type == Type::fp32 ? DType::fp32 : type == Type::bf16 ? DType::bf16 : DType::fp16; }

// What every tensor of a table must be, for its address to be used.
struct Expected {
  Scheme scheme;
  bool cuda;
  int device;
  bool local;  // tensors may be DTensors, whose `_local_tensor` is read
};

// The attribute and state names as Python's interned strings: a dict's keys are compared by address.
struct Names {
  PyObject *grad, *local, *step, *exp_avg, *exp_avg_sq, *master;
};

const Names& names() {
  static const Names interned{PyUnicode_InternFromString("grad"),       PyUnicode_InternFromString("_local_tensor"),
                              PyUnicode_InternFromString("step"),       PyUnicode_InternFromString("exp_avg"),
                              PyUnicode_InternFromString("exp_avg_sq"), PyUnicode_InternFromString("master_param")};
  return interned;
}

// Where the objects of a tensor were at the last reading. They are fetched into the cache before the next one. This is
// only a hint: they may have moved, or be gone.
struct Whereabouts {
  const void *param, *gradient, *gradient_object;
};

struct BoundTable : Table {
  using Table::Table;
  std::vector<Whereabouts> whereabouts = std::vector<Whereabouts>(tensors.size());
};

// `object` is an address inside torch's tensor object, which has some 200 bytes, as a Glance gives it.
void prefetch_object(const void* object) {
  constexpr int kBefore = 80, kLine = 64, kLines = 4;
  for (int line = 0; line < kLines; ++line)
    __builtin_prefetch(static_cast<const char*>(object) - kBefore + line * kLine);
}

// Reads the address of a tensor; false unless it has the dtype, `size` contiguous elements, and the device of its
// table.
bool read(PyObject* object, const Expected& expected, DType dtype, std::int64_t size, void** address,
          const void** whereabouts = nullptr) {
  py::object held;
  if (expected.local) {
    held = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().local));
    if (!held) {
      PyErr_Clear();  // a plain tensor among DTensors, such as `step`
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

// The state's tensors by name. The dict is walked once, as that costs less than four look-ups; names that are equal but
// not the interned objects (of a state that was loaded) are looked up afterwards.
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
    for (PyObject* name : {n.step, n.exp_avg, n.exp_avg_sq, n.master})
      if (PyObject*& entry = find(name); !entry) entry = PyDict_GetItemWithError(state, name);
  }
};

// Where a table's addresses come from: Python lists with an entry for each of its tensors.
struct Source {
  const py::list &params, &states;
  const py::object& gradients;  // a list, or None: the `grad` of each parameter
  Expected expected;

  void check(const Table& table) const {
    const auto count = static_cast<Py_ssize_t>(table.tensors.size());
    if (PyList_GET_SIZE(params.ptr()) != count || PyList_GET_SIZE(states.ptr()) != count ||
        (!gradients.is_none() && (!PyList_Check(gradients.ptr()) || PyList_GET_SIZE(gradients.ptr()) != count)))
      throw py::value_error("params, gradients, states: must be lists as long as the table");
  }
};

// Fills in the addresses of tensor i; false if one of its arrays does not fit. A parameter without a gradient fits: its
// addresses are null, and the step passes over it.
bool read_tensor(BoundTable& table, const Source& source, std::size_t i) {
  // Ask for the objects of a later tensor: each reading below would otherwise wait for memory several times.
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
  // The state may be absent as long as there is no gradient.
  if (!grad.is_none()) {
    PyObject* const state = PyList_GET_ITEM(source.states.ptr(), i);
    if (!PyDict_Check(state)) return false;
    // An entry fits if it is there, in the moments' dtype, and as large as the parameter; `step` has one element.
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
    // A null gradient means that there is none, but an empty tensor may have a null address too. Its step still counts,
    // so it gets an address that is not null and that nothing is read from.
    if (!now.gradient && now.size == 0) now.gradient = now.step;
  }
  table.tensors[i] = now;
  return true;
}

// Fills in all addresses. Returns -1 where the table had these addresses already, -2 where some differ (a GPU then
// needs the table again), and else the number of the first tensor that does not fit.
std::int64_t refresh(BoundTable& table, const py::list& params, const py::object& gradients, const py::list& states,
                     const SchemeArgument& scheme, int device, bool local) {
  const Source source{params, states, gradients, {scheme_of(scheme), device >= 0, device, local}};
  source.check(table);
  // Compared as bytes: an adamw::Tensor is eight words without padding.
  bool same = true;
  for (std::size_t i = 0; i < table.tensors.size(); ++i) {
    const adamw::Tensor old = table.tensors[i];
    if (!read_tensor(table, source, i)) return static_cast<std::int64_t>(i);
    same = same && std::memcmp(&old, &table.tensors[i], sizeof old) == 0;
  }
  return same ? -1 : -2;
}

// Whether two sequences hold the same objects in the same order. The first may be a dict: then its values are compared.
bool same_objects(const py::object& objects, const py::list& others) {
  // Addresses are compared and nothing is called, so this costs nanoseconds per object.
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

// Tells autograd that the tensors [first, last) are written, as far as they have a gradient: a backward pass through an
// old value of a parameter must fail.
void mark_written(const Table& table, const py::list& tensors, std::int64_t first, std::int64_t last,
                  const py::object& increment_version) {
  py::list written;
  for (std::int64_t i = first; i < last; ++i)
    if (table.tensors[static_cast<std::size_t>(i)].gradient) written.append(tensors[static_cast<std::size_t>(i)]);
  if (!written.empty()) increment_version(written);
}

// A step on the CPU over the addresses that the tensors have now. Returns -1, or the number of the first tensor that
// does not fit: then the tensors before it are updated and no others.
//
// The step asks `read` for the addresses of a range of tensors, on the calling thread alone, while other threads update
// those that it has. Only when all are read does the calling thread give the GIL back, and compute with the others.
std::int64_t step_here(BoundTable& table, const py::list& params, const py::object& gradients, const py::list& states,
                       const py::list& written, const py::object& increment_version, const SchemeArgument& scheme,
                       const SettingsArgument& settings, bool local, int threads) {
  const Source source{params, states, gradients, {scheme_of(scheme), false, 0, local}};
  source.check(table);
  if (py::len(written) != table.tensors.size()) throw py::value_error("written: must be a list as long as the table");
  const Settings values = settings_of(settings);
  // What the callbacks below leave: the first tensor that does not fit, and an exception for after the step.
  std::int64_t unfit = -1;
  std::exception_ptr error;
  std::optional<py::gil_scoped_release> release;
  const auto fits = [&](std::int64_t i) {
    try {
      return read_tensor(table, source, static_cast<std::size_t>(i));
    } catch (...) {
      return false;  // The caller reads this tensor again, and meets the error there.
    }
  };
  // Returns the end of what could be read; less than `last` ends the step there.
  const auto read = [&](std::int64_t first, std::int64_t last) {
    std::int64_t i = first;
    while (i < last && fits(i)) ++i;
    if (i < last) unfit = i;
    // An exception must not leave through the threads of the step. Nothing of this range is updated after one.
    try {
      mark_written(table, written, first, i, increment_version);
    } catch (...) {
      error = std::current_exception();
      return first;
    }
    return i;
  };
  // The last argument is called once, when there is nothing left to read.
  step_cpu(table, source.expected.scheme, values, threads, read, [&] { release.emplace(); });
  release.reset();
  if (error) std::rethrow_exception(error);
  return unfit;
}

py::bytes bytes_of(const void* data, std::size_t size) { return {static_cast<const char*>(data), size}; }

// (tensors, their count, chunks, their count, counter): addresses on the device. The counter is zero before a launch,
// and after it.
using DeviceTable = std::tuple<std::uintptr_t, std::int64_t, std::uintptr_t, std::int64_t, std::uintptr_t>;

// For messages.
std::string table_text(std::int64_t tensors, std::int64_t chunks) {
  return std::to_string(tensors) + " tensors in " + std::to_string(chunks) + " chunks";
}

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
    check("adamw", launch_adamw(arguments, pointer<void>(stream)), [&] {
      return table_text(arguments.tensor_count, arguments.chunk_count) + ", " + std::get<0>(scheme) +
             " with gradients in " + std::get<1>(scheme) + " and moments in " + std::get<2>(scheme);
    });
  } else {
    raise_no_kernels("adamw");
  }
}

// Adds the sum of squares of one table's gradients to slot `slot` of `sums`; the last of `slot_count` slots also gives
// the norm and the clipping factor of all tables. `partials` has a number for each chunk.
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
    check("gradient_norm", launch_gradient_norm(arguments, pointer<void>(stream)),
          [&, count = tensor_count] { return table_text(count, arguments.chunk_count) + " in " + gradient; });
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
      // The table and its chunks as bytes, which go to a GPU as they are.
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
