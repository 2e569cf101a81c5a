// The n-gram language model: its file and its scores (csrc/ngram).
#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

void bind_ngram_model([[maybe_unused]] py::module_& module) {}

}  // namespace codeshell::bindings
