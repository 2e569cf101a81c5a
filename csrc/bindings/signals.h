// Ctrl-C during a long call.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace codeshell::bindings {

// Asks Python, now and then, whether a signal has arrived whose handler raises. To be called often, by the thread that
// came from Python, with the GIL released; true: give up, take the GIL and call rethrow().
class Signals {
 public:
  bool raised() {
    const auto now = std::chrono::steady_clock::now();
    if (raised_ || now < next_) return raised_;
    next_ = now + std::chrono::milliseconds(50);
    const PyGILState_STATE state = PyGILState_Ensure();
    raised_ = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return raised_;
  }

  // Throws the handler's exception (KeyboardInterrupt, say), if there was one.
  void rethrow() const {
    if (raised_) throw pybind11::error_already_set();
  }

 private:
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  bool raised_ = false;
};

}  // namespace codeshell::bindings
