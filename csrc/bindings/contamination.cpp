// Overlap with evaluation sets (csrc/text/contamination.h).
#include "text/contamination.h"

#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <vector>

#include "bindings/buffers.h"
#include "bindings/quality.h"

namespace codeshell::bindings {

namespace {

using text::ContaminationIndex;

// (share float64, part int64, grams int64) of each text, (texts,) each.
py::tuple score(const ContaminationIndex& index, const py::buffer& data, const Offsets& offsets) {
  const TextBatch batch(data, offsets);
  const size_t count = batch.texts.count;
  py::array_t<double> share(static_cast<py::ssize_t>(count));
  py::array_t<int64_t> part(static_cast<py::ssize_t>(count)), grams(static_cast<py::ssize_t>(count));
  double* const shares = share.mutable_data();
  int64_t *const parts = part.mutable_data(), *const found = grams.mutable_data();
  {
    py::gil_scoped_release release;
    ContaminationIndex::Scratch scratch(index);
    for (size_t i = 0; i < count; ++i) {
      const auto match = index.match(batch.texts[i], scratch);
      shares[i] = match.share;
      parts[i] = match.part;
      found[i] = match.grams;
    }
  }
  return py::make_tuple(share, part, grams);
}

}  // namespace

void bind_contamination(py::module_& module) {
  py::class_<ContaminationIndex>(module, "ContaminationIndex",
                                 "The n-grams of evaluation problems' parts; see csrc/text/contamination.h.")
      .def(py::init([](const py::buffer& data, const Offsets& offsets, size_t n, size_t shortest) {
             const TextBatch batch(data, offsets);
             std::vector<std::string_view> parts;
             parts.reserve(batch.texts.count);
             for (size_t i = 0; i < batch.texts.count; ++i) parts.push_back(batch.texts[i]);
             py::gil_scoped_release release;
             return std::make_unique<ContaminationIndex>(parts, n, shortest);
           }),
           py::arg("data"), py::arg("offsets"), py::arg("n"), py::arg("shortest"))
      .def_property_readonly("grams", &ContaminationIndex::grams, "Different n-grams.")
      .def_property_readonly(
          "totals",
          [](const ContaminationIndex& index) {
            const auto& totals = index.totals();
            return py::array_t<uint32_t>(static_cast<py::ssize_t>(totals.size()), totals.data());
          },
          "uint32 (parts,): different n-grams of each part; 0 for one that is too short.")
      .def("score", &score, py::arg("data"), py::arg("offsets"),
           "(share float64, part int64, grams int64) of each text: its largest share of a part's n-grams.");
}

}  // namespace codeshell::bindings
