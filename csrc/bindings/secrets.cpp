// Secrets, personal data and overlap with evaluation sets: csrc/text.
#include "text/secrets.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

namespace {

constexpr size_t kinds = 3;  // of text::SecretKind

// (texts, 3) int64: finds of each kind in each text.
py::array_t<int64_t> count_secrets(const py::buffer& data, const Offsets& offsets, bool everything) {
  const TextBatch batch(data, offsets);
  py::array_t<int64_t> counts({batch.texts.count, kinds});
  int64_t* const out = counts.mutable_data();
  {
    py::gil_scoped_release release;
    std::vector<text::SecretSpan> spans;
    for (size_t i = 0; i < batch.texts.count; ++i) {
      spans.clear();
      text::find_secrets(batch.texts[i], everything, spans);
      for (size_t k = 0; k < kinds; ++k) out[kinds * i + k] = 0;
      for (const auto& span : spans) ++out[kinds * i + static_cast<size_t>(text::kind_of(span.what))];
    }
  }
  return counts;
}

// A list of (begin, end, placeholder) of one text, in bytes.
py::list find_secrets(const std::string& data, bool everything) {
  std::vector<text::SecretSpan> spans;
  text::find_secrets(data, everything, spans);
  py::list found;
  for (const auto& span : spans) found.append(py::make_tuple(span.begin, span.end, text::placeholder(span.what)));
  return found;
}

// The texts with placeholders: their bytes, (texts + 1,) offsets, and (texts, 3) counts of what was replaced.
py::tuple redact(const py::buffer& data, const Offsets& offsets, unsigned which, bool everything) {
  const TextBatch batch(data, offsets);
  const size_t count = batch.texts.count;
  py::array_t<int64_t> ends(static_cast<py::ssize_t>(count + 1));
  py::array_t<int64_t> counts({count, kinds});
  int64_t* const end = ends.mutable_data();
  int64_t* const out = counts.mutable_data();
  std::string result;
  {
    py::gil_scoped_release release;
    result.reserve(static_cast<size_t>(batch.texts.offsets[count] - batch.texts.offsets[0]));
    std::vector<text::SecretSpan> spans;
    end[0] = 0;
    for (size_t i = 0; i < count; ++i) {
      spans.clear();
      text::find_secrets(batch.texts[i], everything, spans);
      text::replace_secrets(batch.texts[i], spans, which, result);
      end[i + 1] = static_cast<int64_t>(result.size());
      for (size_t k = 0; k < kinds; ++k) out[kinds * i + k] = 0;
      for (const auto& span : spans) {
        const auto kind = static_cast<size_t>(text::kind_of(span.what));
        out[kinds * i + kind] += which >> kind & 1;
      }
    }
  }
  return py::make_tuple(py::bytes(result), ends, counts);
}

}  // namespace

void bind_secrets(py::module_& module) {
  module.def("count", &count_secrets, py::arg("data"), py::arg("offsets"), py::arg("everything") = false,
             "(texts, 3) int64: secrets, e-mail addresses and IP addresses of each text; see csrc/text/secrets.h.");
  module.def("find", &find_secrets, py::arg("data"), py::arg("everything") = false,
             "[(begin, end, placeholder)] of one text, in bytes.");
  module.def("redact", &redact, py::arg("data"), py::arg("offsets"), py::arg("which"), py::arg("everything") = false,
             "The texts with placeholders for the kinds whose bits are in `which`: bytes, offsets, counts.");
}

}  // namespace codeshell::bindings
