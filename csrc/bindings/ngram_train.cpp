// Training of the n-gram language model: csrc/ngram.
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_ngram_train([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
