// What the bindings of text and dedup share: checked views of the caller's buffers, and arguments that become C++
// values or raise ValueError.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "dedup/shingling.h"
#include "dedup/texts.h"
#include "simd/cpu.h"

namespace codeshell::bindings {

namespace py = pybind11;

using Offsets = py::array_t<int64_t, py::array::c_style>;

// One function for each subject; it lives in the file of its name and module.cpp calls it.
void bind_bpe(py::module_& module);
void bind_text(py::module_& module);
void bind_dedup_sign(py::module_& module);
void bind_dedup_candidates(py::module_& module);
void bind_dedup_join(py::module_& module);
void bind_dedup_datasketch(py::module_& module);
void bind_cpu(py::module_& module);
void bind_gate(py::module_& module);
void bind_int8(py::module_& module);

// The level called `name` ("avx2"), or the highest for an empty name; at most what this processor has.
simd::Level highest_level(const std::string& name);

// ValueError unless 1 <= value < 2^31.
void check_positive(int64_t value, const char* name);

// Shingles of `ngram` tokens by the preset's rules ("code"); ValueError for an unknown preset or a length below 1.
dedup::Shingling parse_shingling(const std::string& preset, int64_t ngram);

// A batch of texts: text i is data[offsets[i] : offsets[i + 1]]. Holds the caller's buffers, so that they stay alive.
struct TextBatch {
  py::buffer_info bytes;
  dedup::Texts texts;

  TextBatch(const py::buffer& data, const Offsets& offsets) : bytes(data.request()) {
    if (bytes.ndim != 1 || bytes.itemsize != 1) {
      throw py::value_error("data: must be a one-dimensional buffer of bytes");
    }
    if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (texts + 1,) int64");
    texts = {static_cast<const char*>(bytes.ptr), offsets.data(), static_cast<size_t>(offsets.size() - 1)};
    if (texts.offsets[0] < 0 || texts.offsets[texts.count] > bytes.size) {
      throw py::value_error("offsets: beyond the data");
    }
    for (size_t i = 0; i < texts.count; ++i) {
      if (texts.offsets[i] > texts.offsets[i + 1]) throw py::value_error("offsets: must not fall");
    }
  }
};

}  // namespace codeshell::bindings
