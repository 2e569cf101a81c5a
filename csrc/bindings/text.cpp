// Measures of documents: their length, their lines, and whether they are UTF-8 (csrc/text/measures.h).
//
// Like all bindings, it checks the caller's buffers under the GIL, then works without it on memory that it borrows.
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bindings/buffers.h"
#include "text/measures.h"
#include "text/unicode_tables.h"

namespace codeshell::bindings {

namespace {

// Returns arrays (texts,) by name: `valid` bool, the others int64. Texts are data[offsets[i] .. offsets[i + 1]).
py::dict measure_texts(const py::buffer& data, const Offsets& offsets, const std::string& level) {
  const py::buffer_info bytes = data.request();
  // Any object with a buffer of bytes: `bytes`, a memoryview, an Arrow buffer.
  if (bytes.ndim != 1 || bytes.itemsize != 1) throw py::value_error("data: must be a one-dimensional buffer of bytes");
  if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (texts + 1,) int64");
  const py::ssize_t count = offsets.size() - 1;
  const int64_t* offset = offsets.data();
  if (offset[0] < 0 || offset[count] > bytes.size) throw py::value_error("offsets: beyond the data");
  // Checked once here, so that the loop below may trust the offsets.
  for (py::ssize_t i = 0; i < count; ++i) {
    if (offset[i] > offset[i + 1]) throw py::value_error("offsets: must not fall");
  }
  // A name of an instruction set, for tests; empty for the best one.
  const auto at_most = highest_level(level);
  py::array_t<bool> valid(count);
  // The names of the arrays and the fields that fill them, so that a new measure is one line.
  using Column = std::pair<const char*, int64_t text::Measures::*>;
  constexpr Column columns[] = {{"characters", &text::Measures::characters},
                                {"lines", &text::Measures::lines},
                                {"max_line_length", &text::Measures::max_line_length},
                                {"line_characters", &text::Measures::line_characters},
                                {"letters", &text::Measures::letters},
                                {"alphanumeric", &text::Measures::alphanumeric}};
  py::dict result;
  result["valid"] = valid;
  // One array per column; targets[c] is where column c is written.
  std::vector<int64_t*> targets;
  for (const auto& [name, member] : columns) {
    py::array_t<int64_t> values(count);
    targets.push_back(values.mutable_data());
    result[name] = values;
  }
  // Raw pointers, because NumPy objects may not be touched without the GIL.
  bool* const is_valid = valid.mutable_data();
  const auto* const text = static_cast<const uint8_t*>(bytes.ptr);
  {
    // One thread: callers run one process per shard.
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < count; ++i) {
      const auto measures = text::measure(text + offset[i], static_cast<size_t>(offset[i + 1] - offset[i]), at_most);
      is_valid[i] = measures.valid_utf8;
      for (size_t c = 0; c < targets.size(); ++c) targets[c][i] = measures.*columns[c].second;
    }
  }
  return result;
}

}  // namespace

void bind_text(py::module_& module) {
  module.attr("unicode_version") = text::unicode_version;
  module.def("measure_texts", &measure_texts, py::arg("data"), py::arg("offsets"), py::arg("level") = "",
             "Measures of every text data[offsets[i]:offsets[i + 1]] as arrays, by name; see csrc/text/measures.h.");
}

}  // namespace codeshell::bindings
