// dedup: texts to shingles, signatures and band keys.
#include "bindings/buffers.h"
#include "dedup/minhash.h"
#include "dedup/shingles.h"

namespace codeshell::bindings {

namespace {

py::array_t<uint32_t> dedup_minhash(const py::buffer& data, const Offsets& offsets, int64_t ngram, int64_t lanes,
                                    uint64_t seed, int64_t threads, const std::string& level) {
  const TextBatch batch(data, offsets);
  check_positive(ngram, "ngram");
  check_positive(lanes, "lanes");
  check_positive(threads, "threads");
  const auto chosen = highest_level(level);
  const dedup::MinHash minhash(static_cast<uint32_t>(ngram), static_cast<size_t>(lanes), seed);
  py::array_t<uint32_t> result({static_cast<py::ssize_t>(batch.texts.count), static_cast<py::ssize_t>(lanes)});
  uint32_t* const out = result.mutable_data();
  py::gil_scoped_release release;
  minhash.sign(batch.texts, chosen, static_cast<unsigned>(threads), out);
  return result;
}

py::array_t<uint64_t> dedup_band_keys(const py::array_t<uint32_t, py::array::c_style>& signatures, int64_t bands) {
  check_positive(bands, "bands");
  if (signatures.ndim() != 2 || signatures.shape(1) % bands != 0 || signatures.shape(1) == 0) {
    throw py::value_error("signatures: must be (documents, bands * rows) uint32");
  }
  const auto count = static_cast<size_t>(signatures.shape(0));
  const auto rows = static_cast<size_t>(signatures.shape(1) / bands);
  py::array_t<uint64_t> result({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(bands)});
  uint64_t* const out = result.mutable_data();
  const uint32_t* const in = signatures.data();
  py::gil_scoped_release release;
  dedup::band_keys(in, count, static_cast<size_t>(bands), rows, out);
  return result;
}

py::tuple dedup_shingle_sets(const py::buffer& data, const Offsets& offsets, int64_t ngram, const std::string& level) {
  const TextBatch batch(data, offsets);
  check_positive(ngram, "ngram");
  const auto chosen = highest_level(level);
  std::vector<uint64_t> values;
  py::array_t<int64_t> bounds(static_cast<py::ssize_t>(batch.texts.count) + 1);
  int64_t* const bound = bounds.mutable_data();
  bound[0] = 0;
  {
    py::gil_scoped_release release;
    dedup::Scratch scratch;
    for (size_t i = 0; i < batch.texts.count; ++i) {
      dedup::make_shingle_set(batch.texts[i], static_cast<uint32_t>(ngram), chosen, scratch);
      values.insert(values.end(), scratch.shingles.begin(), scratch.shingles.end());
      bound[i + 1] = static_cast<int64_t>(values.size());
    }
  }
  return py::make_tuple(py::array_t<uint64_t>(static_cast<py::ssize_t>(values.size()), values.data()), bounds);
}

}  // namespace

void bind_dedup_sign(py::module_& module) {
  module.def("dedup_minhash", &dedup_minhash, py::arg("data"), py::arg("offsets"), py::arg("ngram"), py::arg("lanes"),
             py::arg("seed"), py::arg("threads") = 1, py::arg("level") = "",
             "MinHash signatures (texts, lanes) uint32; see csrc/dedup/minhash.h.");
  module.def("dedup_band_keys", &dedup_band_keys, py::arg("signatures"), py::arg("bands"),
             "Band keys (texts, bands) uint64 of signatures; 0 is no key.");
  module.def("dedup_shingle_sets", &dedup_shingle_sets, py::arg("data"), py::arg("offsets"), py::arg("ngram"),
             py::arg("level") = "", "Distinct ascending shingles of all texts, and the bounds of each text's.");
}

}  // namespace codeshell::bindings
