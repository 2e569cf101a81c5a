// Metrics of syntax trees: csrc/syntax.
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_syntax([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
