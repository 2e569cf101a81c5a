// dedup: from texts to shingles, signatures, band keys, sketches and fingerprints.
//
// Texts come as one buffer of UTF-8 bytes and offsets (texts + 1,) int64, the layout of an Arrow large_string column,
// and are read where they lie (TextBatch checks them). Results are NumPy arrays with one row per text, which C++ fills
// without the GIL.
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/buffers.h"
#include "dedup/bins.h"
#include "dedup/shingles.h"
#include "dedup/sign.h"

namespace codeshell::bindings {

namespace {

// The names that Python uses for the presets of csrc/dedup/shingling.h.
constexpr std::array<std::pair<const char*, dedup::Preset>, 5> presets{{{"code", dedup::Preset::code},
                                                                        {"starcoder", dedup::Preset::starcoder},
                                                                        {"stack-v2", dedup::Preset::stack_v2},
                                                                        {"datatrove", dedup::Preset::datatrove},
                                                                        {"char-24", dedup::Preset::char24}}};

}  // namespace

dedup::Shingling parse_shingling(const std::string& preset, int64_t ngram) {
  check_positive(ngram, "ngram");
  for (const auto& [name, value] : presets) {
    if (preset == name) return {value, static_cast<uint32_t>(ngram)};
  }
  // No such preset: name those there are.
  std::string names;
  for (const auto& [name, value] : presets) names += (names.empty() ? "" : ", ") + std::string(name);
  throw py::value_error("preset: '" + preset + "' is none of " + names);
}

namespace {

// NumPy's sizes are signed.
py::ssize_t size(size_t value) { return static_cast<py::ssize_t>(value); }

// Returns keys (texts, bands) uint64, sketches (texts, width) uint8, fingerprints (texts, 2) uint64, and the numbers of
// shingles (texts,) uint32.
py::tuple dedup_sign(const py::buffer& data, const Offsets& offsets, const std::string& preset, int64_t ngram,
                     int64_t bands, int64_t rows, uint64_t seed, int64_t threads, const std::string& level) {
  const TextBatch batch(data, offsets);
  const auto shingling = parse_shingling(preset, ngram);
  check_positive(bands, "bands");
  check_positive(rows, "rows");
  // Each factor is below 2^31, so their product does not overflow.
  check_positive(bands * rows, "bands * rows");
  check_positive(threads, "threads");
  const auto chosen = highest_level(level);
  // Multipliers of all lanes, from the seed.
  const dedup::MinHash minhash(static_cast<size_t>(bands * rows), seed);
  const py::ssize_t count = size(batch.texts.count);
  py::array_t<uint64_t> keys({count, size(static_cast<size_t>(bands))});
  py::array_t<uint8_t> sketches({count, size(dedup::sketch_width(minhash.lanes))});
  py::array_t<uint64_t> fingerprints({count, py::ssize_t{2}});
  py::array_t<uint32_t> counts(count);
  // No signature is asked for: the join needs only what is made of it.
  const dedup::SignOutput out{nullptr, keys.mutable_data(), sketches.mutable_data(), fingerprints.mutable_data(),
                              counts.mutable_data()};
  {
    py::gil_scoped_release release;
    dedup::sign(batch.texts, shingling, minhash, static_cast<size_t>(bands), chosen, static_cast<unsigned>(threads),
                out);
  }
  return py::make_tuple(keys, sketches, fingerprints, counts);
}

// Returns the signatures (texts, lanes) uint32 alone. The number of bands (1) matters only for keys.
py::array_t<uint32_t> dedup_minhash(const py::buffer& data, const Offsets& offsets, int64_t ngram, int64_t lanes,
                                    uint64_t seed, int64_t threads, const std::string& level,
                                    const std::string& preset) {
  const TextBatch batch(data, offsets);
  const auto shingling = parse_shingling(preset, ngram);
  check_positive(lanes, "lanes");
  check_positive(threads, "threads");
  const auto chosen = highest_level(level);
  const dedup::MinHash minhash(static_cast<size_t>(lanes), seed);
  py::array_t<uint32_t> result({size(batch.texts.count), size(minhash.lanes)});
  dedup::SignOutput out;
  out.lanes = result.mutable_data();
  py::gil_scoped_release release;
  dedup::sign(batch.texts, shingling, minhash, 1, chosen, static_cast<unsigned>(threads), out);
  return result;
}

// Returns values (v,) uint64 and bounds (texts + 1,) int64. How many values there will be is not known before, so they
// grow in a vector. One thread: the caller runs one process or thread per shard.
py::tuple dedup_shingle_sets(const py::buffer& data, const Offsets& offsets, int64_t ngram, const std::string& level,
                             const std::string& preset) {
  const TextBatch batch(data, offsets);
  const auto shingling = parse_shingling(preset, ngram);
  const auto chosen = highest_level(level);
  auto values = std::make_unique<std::vector<uint64_t>>();
  // Set i is values[bounds[i] .. bounds[i + 1]), distinct and ascending.
  py::array_t<int64_t> bounds(size(batch.texts.count) + 1);
  int64_t* const bound = bounds.mutable_data();
  bound[0] = 0;
  {
    py::gil_scoped_release release;
    // Buffers for all texts of the call.
    dedup::Scratch scratch;
    for (size_t i = 0; i < batch.texts.count; ++i) {
      dedup::make_shingle_set(batch.texts[i], shingling, chosen, scratch);
      values->insert(values->end(), scratch.shingles.begin(), scratch.shingles.end());
      bound[i + 1] = static_cast<int64_t>(values->size());
    }
  }
  // The array takes over the vector, because a copy would touch as much memory again. The capsule deletes it.
  const py::capsule owner(values.get(), [](void* held) { delete static_cast<std::vector<uint64_t>*>(held); });
  const auto* const taken = values.release();
  return py::make_tuple(py::array_t<uint64_t>(size(taken->size()), taken->data(), owner), bounds);
}

// Returns the one-permutation sketches (texts, 1024) of texts.
py::array_t<uint8_t> dedup_bins(const py::buffer& data, const Offsets& offsets, int64_t ngram, const std::string& level,
                                const std::string& preset) {
  const TextBatch batch(data, offsets);
  const auto shingling = parse_shingling(preset, ngram);
  const auto chosen = highest_level(level);
  py::array_t<uint8_t> result({size(batch.texts.count), size(dedup::bins)});
  uint8_t* const out = result.mutable_data();
  py::gil_scoped_release release;
  // Sketches of raw shingles: repeated ones do no harm, so no set is made.
  dedup::Scratch scratch;
  for (size_t i = 0; i < batch.texts.count; ++i) {
    dedup::make_shingles(batch.texts[i], shingling, chosen, scratch);
    dedup::bin_sketch(scratch.shingles.data(), scratch.shingles.size(), out + i * dedup::bins);
  }
  return result;
}

// Returns the same of shingle sets, with values and bounds as dedup_shingle_sets gives them.
py::array_t<uint8_t> dedup_bins_of_sets(const py::array_t<uint64_t, py::array::c_style>& values,
                                        const py::array_t<int64_t, py::array::c_style>& bounds) {
  if (values.ndim() != 1) throw py::value_error("values: must be (n,) uint64");
  if (bounds.ndim() != 1 || bounds.size() < 1) throw py::value_error("bounds: must be (sets + 1,) int64");
  const int64_t* const bound = bounds.data();
  const auto sets = static_cast<size_t>(bounds.size() - 1);
  // Bounds may not start at 0, for they may be a slice of those of a file.
  for (size_t i = 0; i <= sets; ++i) {
    if (bound[i] < (i ? bound[i - 1] : 0) || bound[i] > values.size()) {
      throw py::value_error("bounds: must ascend from 0 or more to the number of values at most");
    }
  }
  py::array_t<uint8_t> result({size(sets), size(dedup::bins)});
  uint8_t* const out = result.mutable_data();
  py::gil_scoped_release release;
  for (size_t i = 0; i < sets; ++i) {
    dedup::bin_sketch(values.data() + bound[i], static_cast<size_t>(bound[i + 1] - bound[i]), out + i * dedup::bins);
  }
  return result;
}

}  // namespace

void bind_dedup_sign(py::module_& module) {
  // `level` is for tests: it lowers the instruction set, and the results stay the same.
  module.def("dedup_sign", &dedup_sign, py::arg("data"), py::arg("offsets"), py::arg("preset"), py::arg("ngram"),
             py::arg("bands"), py::arg("rows"), py::arg("seed"), py::arg("threads") = 1, py::arg("level") = "",
             "Band keys, sketches, fingerprints and shingle counts of all texts; see csrc/dedup/sign.h.");
  module.def("dedup_minhash", &dedup_minhash, py::arg("data"), py::arg("offsets"), py::arg("ngram"), py::arg("lanes"),
             py::arg("seed"), py::arg("threads") = 1, py::arg("level") = "", py::arg("preset") = "code",
             "MinHash signatures (texts, lanes) uint32; see csrc/dedup/minhash.h.");
  module.def("dedup_shingle_sets", &dedup_shingle_sets, py::arg("data"), py::arg("offsets"), py::arg("ngram"),
             py::arg("level") = "", py::arg("preset") = "code",
             "Distinct ascending shingles of all texts, and the bounds of each text's.");
  module.def("dedup_bins", &dedup_bins, py::arg("data"), py::arg("offsets"), py::arg("ngram"), py::arg("level") = "",
             py::arg("preset") = "code", "One-permutation sketches (texts, 1024) uint8; see csrc/dedup/bins.h.");
  module.def("dedup_bins_of_sets", &dedup_bins_of_sets, py::arg("values").noconvert(), py::arg("bounds").noconvert(),
             "The same of shingle sets; see dedup_shingle_sets.");
}

}  // namespace codeshell::bindings
