// Measures of code that need its tokens, not its syntax tree: csrc/text.
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_lexical([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
