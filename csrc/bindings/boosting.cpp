// Boosted trees over columns: csrc/boosting.
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_boosting([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
