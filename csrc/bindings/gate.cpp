// The gate of codeshell/ops/library.py, which every call of an operation passes: may C++ have the addresses of these
// tensors? The answer is a dozen questions to torch. Asked from Python they took 0.8 us for four tensors, a seventh of
// the call of the smallest operation; from here 0.3 us. That is why these functions use Python's C interface directly.

#include <pybind11/pybind11.h>

#include "bindings/buffers.h"
#include "bindings/tensors.h"

namespace codeshell::bindings {

namespace {

constexpr Py_ssize_t kProbes = 3;

// What torch is asked. Set once, by ops/library.py, and held for as long as the process lives.
struct Questions {
  PyObject* tensor = nullptr;  // the two types whose memory is what it says
  PyObject* parameter = nullptr;
  PyObject* probes[kProbes] = {};       // functions; any answer but zero or False tells that somebody watches
  PyObject* function_modes = nullptr;   // the number of modes of functions, which is not 0 often
  PyObject* before_autograd = nullptr;  // whether one of these traces before autograd
  PyObject* forward_ad = nullptr;       // the module; its `_current_level` is -1 outside of forward differentiation
  PyObject* level_name = nullptr;
  PyObject* is_neg_name = nullptr;
  PyObject* is_meta_name = nullptr;
} questions;

// The truth of an answer: 1, 0, or -1 with Python's error set. Takes the reference.
int truth_of(PyObject* answer) {
  if (!answer) return -1;
  const int truth = PyObject_IsTrue(answer);
  Py_DECREF(answer);
  return truth;
}

// Whether something traces, intercepts or transforms the calls that are made now.
int watched() {
  for (PyObject* probe : questions.probes)
    if (const int truth = truth_of(PyObject_CallNoArgs(probe))) return truth;
  // The level of forward-mode differentiation.
  PyObject* level = PyObject_GetAttr(questions.forward_ad, questions.level_name);
  if (!level) return -1;
  const long depth = PyLong_AsLong(level);
  Py_DECREF(level);
  if (depth == -1 && PyErr_Occurred()) return -1;
  if (depth >= 0) return 1;
  const int modes = truth_of(PyObject_CallNoArgs(questions.function_modes));
  return modes > 0 ? truth_of(PyObject_CallNoArgs(questions.before_autograd)) : modes;
}

PyObject* unwatched(PyObject*, PyObject*) {
  const int truth = watched();
  return truth < 0 ? nullptr : PyBool_FromLong(!truth);
}

PyObject* direct(PyObject*, PyObject* const* tensors, Py_ssize_t count) {
  const int truth = watched();
  if (truth < 0) return nullptr;
  if (truth) Py_RETURN_FALSE;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* x = tensors[i];
    if (x == Py_None) continue;
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(x));
    if (type != questions.tensor && type != questions.parameter) Py_RETURN_FALSE;
    // A view with the negative bit (the imaginary part of a conjugate) has the other sign in memory.
    if (!may_be_part_of_complex(x)) continue;
    const int negative = truth_of(PyObject_CallMethodNoArgs(x, questions.is_neg_name));
    if (negative < 0) return nullptr;
    if (negative) Py_RETURN_FALSE;
  }
  // The meta device has shapes and no memory; all tensors of a call are on one device.
  if (count == 0 || tensors[0] == Py_None) Py_RETURN_TRUE;
  const int meta = truth_of(PyObject_GetAttr(tensors[0], questions.is_meta_name));
  return meta < 0 ? nullptr : PyBool_FromLong(!meta);
}

void set_gate(const py::object& tensor, const py::object& parameter, const py::tuple& probes,
              const py::object& function_modes, const py::object& before_autograd, const py::object& forward_ad) {
  if (probes.size() != kProbes) throw py::value_error("probes must be three functions");
  // References that are never given back: the gate is asked until the process ends.
  questions.tensor = tensor.inc_ref().ptr();
  questions.parameter = parameter.inc_ref().ptr();
  for (Py_ssize_t i = 0; i < kProbes; ++i) questions.probes[i] = py::object(probes[i]).inc_ref().ptr();
  questions.function_modes = function_modes.inc_ref().ptr();
  questions.before_autograd = before_autograd.inc_ref().ptr();
  questions.forward_ad = forward_ad.inc_ref().ptr();
  questions.level_name = PyUnicode_InternFromString("_current_level");
  questions.is_neg_name = PyUnicode_InternFromString("is_neg");
  questions.is_meta_name = PyUnicode_InternFromString("is_meta");
}

PyMethodDef methods[] = {
    {"unwatched", unwatched, METH_NOARGS, nullptr},
    {"direct", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(direct)), METH_FASTCALL, nullptr},
};

}  // namespace

void bind_gate(py::module_& module) {
  module.def("set_gate", &set_gate);
  for (PyMethodDef& method : methods)
    module.attr(method.ml_name) = py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr));
}

}  // namespace codeshell::bindings
