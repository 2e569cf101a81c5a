// Secrets, personal data and overlap with evaluation sets: csrc/text.
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_secrets([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
