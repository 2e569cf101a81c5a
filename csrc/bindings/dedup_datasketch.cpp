// dedup: signatures of the Python package datasketch.
//
// Three functions that differ only in where the hash values come from: shingles of texts, sets of strings, or sets of
// hash values. Each checks its arguments, and `sketch` does the rest.
#include "bindings/buffers.h"
#include "bindings/signals.h"
#include "dedup/datasketch.h"

namespace codeshell::bindings {

namespace {

// Permutations and hash values; uint64 for all schemes.
using Values = py::array_t<uint64_t, py::array::c_style>;

// The scheme "legacy", "affine32" or "affine64" with its permutations a, b (permutations,), which are copied. `wide`:
// hash values have 64 bits, not 32.
dedup::Datasketch parse_datasketch(const std::string& scheme, const Values& a, const Values& b, bool wide) {
  using dedup::SketchScheme;
  // The names are datasketch's own.
  const auto kind = scheme == "legacy"     ? SketchScheme::legacy
                    : scheme == "affine32" ? SketchScheme::affine32
                    : scheme == "affine64" ? SketchScheme::affine64
                                           : throw py::value_error("scheme: '" + scheme + "' is none of datasketch's");
  if (a.ndim() != 1 || b.ndim() != 1 || a.size() != b.size() || a.size() == 0) {
    throw py::value_error("a, b: must be (permutations,) uint64, one at least");
  }
  if (wide && kind == SketchScheme::affine32) throw py::value_error("wide: affine32 takes hash values of 32 bits");
  return {kind, a.data(), b.data(), static_cast<size_t>(a.size()), wide};
}

// Calls work(threads, stop, out) without the GIL, where `out` has room for the lanes of `count` sets, and returns these
// as an array (count, permutations). Turns Ctrl-C into KeyboardInterrupt.
template <class Work>
py::array sketch(const dedup::Datasketch& datasketch, size_t count, int64_t threads, const Work& work) {
  check_positive(threads, "threads");
  // uint32 or uint64, as datasketch has it; C++ writes bytes.
  const py::dtype dtype = datasketch.lane_bytes() == 4 ? py::dtype::of<uint32_t>() : py::dtype::of<uint64_t>();
  py::array result(dtype, {static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(datasketch.permutations)});
  auto* const out = static_cast<uint8_t*>(result.mutable_data());
  Signals signals;
  // `work` returns false if the signal ended it; then Python's exception is thrown instead of half an array.
  bool done;
  {
    const py::gil_scoped_release release;
    done = work(static_cast<unsigned>(threads), [&signals] { return signals.raised(); }, out);
  }
  if (!done) signals.rethrow();
  return result;
}

// Checks the bounds (sets + 1,) of sets among `size` elements: they start at 0 or more, never fall, and end within the
// elements. Returns the number of sets.
size_t check_sets(const Offsets& sets, size_t size) {
  if (sets.ndim() != 1 || sets.size() < 1) throw py::value_error("sets: must be (sets + 1,) int64");
  const int64_t* const bounds = sets.data();
  const auto count = static_cast<size_t>(sets.size() - 1);
  if (bounds[0] < 0 || bounds[count] > static_cast<int64_t>(size)) throw py::value_error("sets: beyond the elements");
  for (size_t i = 0; i < count; ++i) {
    if (bounds[i] > bounds[i + 1]) throw py::value_error("sets: must not fall");
  }
  return count;
}

// Texts: C++ makes the shingles.
py::array dedup_datasketch(const py::buffer& data, const Offsets& offsets, const std::string& preset, int64_t ngram,
                           const std::string& scheme, const Values& a, const Values& b, bool wide, int64_t threads,
                           const std::string& level) {
  const TextBatch batch(data, offsets);
  const auto shingling = parse_shingling(preset, ngram);
  const auto datasketch = parse_datasketch(scheme, a, b, wide);
  const auto chosen = highest_level(level);
  return sketch(datasketch, batch.texts.count, threads, [&](unsigned workers, const dedup::Stop& stop, uint8_t* out) {
    return dedup::sketch_texts(batch.texts, shingling, datasketch, chosen, workers, stop, out);
  });
}

// Sets of strings: string t is data[offsets[t] .. offsets[t + 1]), and set i has the strings [sets[i], sets[i + 1]).
py::array dedup_datasketch_sets(const py::buffer& data, const Offsets& offsets, const Offsets& sets,
                                const std::string& scheme, const Values& a, const Values& b, bool wide, int64_t threads,
                                const std::string& level) {
  const TextBatch batch(data, offsets);
  const size_t count = check_sets(sets, batch.texts.count);
  const auto datasketch = parse_datasketch(scheme, a, b, wide);
  const auto chosen = highest_level(level);
  return sketch(datasketch, count, threads, [&](unsigned workers, const dedup::Stop& stop, uint8_t* out) {
    return dedup::sketch_sets(batch.texts, sets.data(), count, datasketch, chosen, workers, stop, out);
  });
}

// Sets of hash values: set i has values[sets[i] .. sets[i + 1]).
py::array dedup_datasketch_hashes(const Values& values, const Offsets& sets, const std::string& scheme, const Values& a,
                                  const Values& b, bool wide, int64_t threads, const std::string& level) {
  if (values.ndim() != 1) throw py::value_error("values: must be (values,) uint64");
  const size_t count = check_sets(sets, static_cast<size_t>(values.size()));
  const auto datasketch = parse_datasketch(scheme, a, b, wide);
  const auto chosen = highest_level(level);
  return sketch(datasketch, count, threads, [&](unsigned workers, const dedup::Stop& stop, uint8_t* out) {
    return dedup::sketch_hashes(values.data(), sets.data(), count, datasketch, chosen, workers, stop, out);
  });
}

}  // namespace

void bind_dedup_datasketch(py::module_& module) {
  // The order of the arguments scheme, a, b, wide is the same in all three.
  module.def("dedup_datasketch", &dedup_datasketch, py::arg("data"), py::arg("offsets"), py::arg("preset"),
             py::arg("ngram"), py::arg("scheme"), py::arg("a"), py::arg("b"), py::arg("wide"), py::arg("threads") = 1,
             py::arg("level") = "", "datasketch's signatures (texts, permutations); see csrc/dedup/datasketch.h.");
  module.def("dedup_datasketch_sets", &dedup_datasketch_sets, py::arg("data"), py::arg("offsets"), py::arg("sets"),
             py::arg("scheme"), py::arg("a"), py::arg("b"), py::arg("wide"), py::arg("threads") = 1,
             py::arg("level") = "", "The same of sets of strings: set i has the strings [sets[i], sets[i + 1]).");
  module.def("dedup_datasketch_hashes", &dedup_datasketch_hashes, py::arg("values"), py::arg("sets"), py::arg("scheme"),
             py::arg("a"), py::arg("b"), py::arg("wide"), py::arg("threads") = 1, py::arg("level") = "",
             "The same of sets of hash values.");
}

}  // namespace codeshell::bindings
