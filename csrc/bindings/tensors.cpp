#include "bindings/tensors.h"

#include <algorithm>
#include <list>
#include <stdexcept>

namespace codeshell::bindings {

namespace {

// DLPack's exchange protocol, version 1, in the layout that its specification fixes. A type holds its table of
// functions in a capsule; the view that `view` fills does not own the tensor.
namespace dlpack {

// A tensor as the type's own memory describes it; strides count elements.
struct View {
  void* data;
  std::int32_t device_type;
  std::int32_t device_index;
  std::int32_t dimensions;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

// The table of a type. Only `view` is used: it fills a View without making a Python object or taking a reference.
struct Functions {
  std::uint32_t major, minor;
  void* previous;
  void* allocate;
  void* import_owned;
  void* export_owned;
  int (*view)(void* object, View* out);
  void* current_stream;
};

// Values of device_type (pinned memory is the CPU's), and of code, the kind of an element.
constexpr std::int32_t kCpu = 1, kCuda = 2, kPinned = 3;
constexpr std::uint8_t kInteger = 0, kFloat = 2, kBfloat = 4;

// The functions of a type; null where it offers none. A few types are remembered, because nearly every call is with
// torch's Tensor or Parameter. The GIL guards the list.
const Functions* functions_of(PyTypeObject* type) {
  // The place after the last remembered type, or beyond the list if it is full.
  static PyTypeObject* types[4] = {};
  static const Functions* tables[4] = {};
  int place = 0;
  for (; place < 4 && types[place]; ++place)
    if (types[place] == type) return tables[place];
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const Functions* found = nullptr;
  if (capsule) {
    found = static_cast<const Functions*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  // Another major version may have another layout.
  if (found && (found->major != 1 || !found->view)) found = nullptr;
  if (found && place < 4) {
    Py_INCREF(type);  // a remembered address must not become another type's
    types[place] = type;
    tables[place] = found;
  }
  return found;
}

// Anything else, such as a boolean or an 8-bit float, is `other`, which every operation refuses by name.
DType dtype_of(std::uint8_t code, std::uint8_t bits) {
  if (code == kFloat)
    return bits == 32 ? DType::fp32 : bits == 16 ? DType::fp16 : bits == 64 ? DType::fp64 : DType::other;
  if (code == kBfloat && bits == 16) return DType::bf16;
  if (code == kInteger) return bits == 64 ? DType::int64 : bits == 32 ? DType::int32 : DType::other;
  return DType::other;
}

}  // namespace dlpack

[[noreturn]] void refuse_device(const char* name, const std::string& device) {
  throw py::value_error(std::string(name) + " is on " + device + "; the kernels run on the CPU and on CUDA devices");
}

void check_dimensions(std::int64_t dimensions, const char* name) {
  if (dimensions > Tensor::kMostDimensions)
    throw py::value_error(std::string(name) + " has " + std::to_string(dimensions) + " dimensions; at most " +
                          std::to_string(Tensor::kMostDimensions) + " are supported");
}

// From the name that torch prints.
DType dtype_named(const std::string& name) {
  if (name == "torch.float32") return DType::fp32;
  if (name == "torch.bfloat16") return DType::bf16;
  if (name == "torch.float16") return DType::fp16;
  if (name == "torch.float64") return DType::fp64;
  if (name == "torch.int32") return DType::int32;
  if (name == "torch.int64") return DType::int64;
  return DType::other;
}

// A tensor can have elements and no memory: its storage was released (as FSDP does between uses), or it stands for zeros
// that nobody has written. Reading address 0 would end the interpreter.
void check_memory(const void* data, bool elements, const char* name) {
  if (!data && elements)
    throw std::runtime_error(
        std::string(name) + " has no memory: its storage was released, or never allocated; restore it before the call");
}

// Reads a tensor of a type without DLPack's functions (torch before 2.10), at about a microsecond per attribute.
Tensor by_attributes(py::handle object, const char* name) {
  if (!py::hasattr(object, "data_ptr"))
    throw py::type_error(std::string(name) + " must be a torch.Tensor, not " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  // data_ptr() includes the storage offset.
  Tensor t;
  t.data = reinterpret_cast<void*>(object.attr("data_ptr")().cast<std::uintptr_t>());
  const py::tuple shape = object.attr("shape"), strides = object.attr("stride")();
  check_dimensions(static_cast<std::int64_t>(shape.size()), name);
  t.dimensions = static_cast<int>(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    t.shape[i] = shape[i].cast<std::int64_t>();
    t.strides[i] = strides[i].cast<std::int64_t>();
  }
  t.dtype = dtype_named(py::str(object.attr("dtype")));
  const py::object device = object.attr("device");
  const std::string kind = py::str(device.attr("type"));
  if (kind != "cpu" && kind != "cuda") refuse_device(name, kind);
  t.cuda = kind == "cuda";
  t.device = t.cuda && !device.attr("index").is_none() ? device.attr("index").cast<int>() : 0;
  check_memory(t.data, std::find(t.shape, t.shape + t.dimensions, 0) == t.shape + t.dimensions, name);
  return t;
}

}  // namespace

Tensor tensor_of(PyObject* object, const char* name) {
  const dlpack::Functions* functions = dlpack::functions_of(Py_TYPE(object));
  if (!functions) return by_attributes(object, name);
  // The fast way: one call through the table, and everything else is reading memory.
  dlpack::View view{};
  if (functions->view(object, &view)) throw py::error_already_set();
  // Copied, not kept: the view's shape and strides are the tensor object's own memory.
  check_dimensions(view.dimensions, name);
  Tensor t;
  t.cuda = view.device_type == dlpack::kCuda;
  if (!t.cuda && view.device_type != dlpack::kCpu && view.device_type != dlpack::kPinned)
    refuse_device(name, "a device of DLPack's type " + std::to_string(view.device_type));
  check_memory(view.data, std::find(view.shape, view.shape + view.dimensions, 0) == view.shape + view.dimensions, name);
  t.data = static_cast<char*>(view.data) + view.byte_offset;
  t.dimensions = view.dimensions;
  for (int i = 0; i < view.dimensions; ++i) t.shape[i] = view.shape[i], t.strides[i] = view.strides[i];
  // More lanes are vector types, which no operation takes.
  t.dtype = view.lanes == 1 ? dlpack::dtype_of(view.code, view.bits) : DType::other;
  t.device = t.cuda ? view.device_index : 0;
  return t;
}

namespace {

// Size and contiguity from shape and strides.
Glance glance_of(void* data, int dimensions, const std::int64_t* shape, const std::int64_t* strides) {
  Glance g;
  g.data = data, g.object = nullptr, g.size = 1, g.contiguous = true;
  // From the last dimension on, a stride must be the number of elements so far; one of size 1 may have any.
  for (int i = dimensions; i-- > 0;) {
    g.contiguous = g.contiguous && (shape[i] == 1 || strides[i] == g.size);
    g.size *= shape[i];
  }
  g.contiguous = g.contiguous || g.size == 0;
  return g;
}

}  // namespace

Glance glance_at(PyObject* object) {
  // The slow way, for other types.
  const dlpack::Functions* functions = dlpack::functions_of(Py_TYPE(object));
  if (!functions) {
    const Tensor t = by_attributes(object, "tensor");
    Glance g = glance_of(t.data, t.dimensions, t.shape, t.strides);
    g.dtype = t.dtype, g.cuda = t.cuda, g.device = t.device;
    return g;
  }
  // The view's shape lies in the tensor object, so its address is what a later reading can prefetch.
  dlpack::View view;
  if (functions->view(object, &view)) throw py::error_already_set();
  Glance g = glance_of(static_cast<char*>(view.data) + view.byte_offset, view.dimensions, view.shape, view.strides);
  check_memory(view.data, g.size != 0, "a parameter, its gradient or its state");
  g.object = view.shape;
  g.dtype = view.lanes == 1 ? dlpack::dtype_of(view.code, view.bits) : DType::other;
  g.cuda = view.device_type == dlpack::kCuda;
  if (!g.cuda && view.device_type != dlpack::kCpu && view.device_type != dlpack::kPinned)
    refuse_device("tensor", "a device of DLPack's type " + std::to_string(view.device_type));
  g.device = g.cuda ? view.device_index : 0;
  return g;
}

bool may_be_part_of_complex(PyObject* object) {
  const dlpack::Functions* functions = dlpack::functions_of(Py_TYPE(object));
  dlpack::View view;
  if (!functions || functions->view(object, &view)) {
    PyErr_Clear();  // a device that DLPack does not know
    return true;
  }
  for (int i = 0; i < view.dimensions; ++i)
    if (view.shape[i] > 1 && view.strides[i] % 2 != 0) return false;
  return true;
}

// As Python prints a tuple, so that messages from C++ and from Python look alike.
std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int i = 0; i < tensor.dimensions; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + (tensor.dimensions == 1 ? ",)" : ")");
}

const char* dtype_text(DType dtype) {
  switch (dtype) {
    case DType::fp16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::fp32: return "float32";
    case DType::fp64: return "float64";
    case DType::int32: return "int32";
    case DType::int64: return "int64";
    case DType::other: break;
  }
  return "another dtype";
}

std::string device_text(const Tensor& tensor) { return tensor.cuda ? "cuda:" + std::to_string(tensor.device) : "cpu"; }

std::int64_t integer_of(PyObject* object, const char* name) {
  // -1 is a value too: only Python knows whether it stands for an error.
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " must be a whole number");
  }
  return value;
}

bool truth_of(PyObject* object) {
  // Python's own notion of truth, so that 0 and 1 do as well as False and True.
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

// The order matters: pybind11's exceptions are std::exceptions too.
void set_python_error() noexcept {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

void define_fast(py::module_& module, const char* name, PyObject* (*call)(PyObject*, PyObject* const*, Py_ssize_t),
                 const char* doc) {
  // Python keeps pointers to the definitions, so they must never move: a list, not a vector.
  static std::list<PyMethodDef> definitions;
  definitions.push_back({name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL, doc});
  const py::object owner = module.attr("__name__");
  PyObject* function = PyCFunction_NewEx(&definitions.back(), nullptr, owner.ptr());
  if (!function) throw py::error_already_set();
  module.attr(name) = py::reinterpret_steal<py::object>(function);
}

}  // namespace codeshell::bindings
