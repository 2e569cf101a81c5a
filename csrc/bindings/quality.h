// The bindings of what judges a document or a program. Each function adds one subject to the submodule of its name
// (`_C.ngram`, ...).
#pragma once

#include <pybind11/pybind11.h>

namespace codeshell::bindings {

void bind_boosting(pybind11::module_& module);
void bind_contamination(pybind11::module_& module);
void bind_lexical(pybind11::module_& module);
void bind_ngram_model(pybind11::module_& module);
void bind_ngram_train(pybind11::module_& module);
void bind_sandbox(pybind11::module_& module);
void bind_secrets(pybind11::module_& module);
void bind_syntax(pybind11::module_& module);

}  // namespace codeshell::bindings
