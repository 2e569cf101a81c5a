// dedup: from candidate edges to decisions.
//
// Shingle sets (DedupSets), the exact Jaccard of edges (dedup_verify), who stays (DedupGreedy, DedupComponents), the
// same for a stream (DedupMatcher), and the leak of held-out documents (DedupOverlap). The classes hold the C++ objects
// of the same names; their methods check shapes and ranges under the GIL, and do the work without it.
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <tuple>

#include "bindings/buffers.h"
#include "bindings/signals.h"
#include "dedup/decide.h"
#include "dedup/matcher.h"
#include "dedup/overlap.h"
#include "dedup/sets.h"
#include "dedup/sign.h"
#include "dedup/verify.h"

namespace codeshell::bindings {

namespace {

// C-contiguous, so that data() can be read as rows.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Edges (m, 2) uint32. They are never converted from another dtype, because that would turn -1 into a document. Strided
// edges are copied.
struct Edges {
  Array<uint32_t> array;

  explicit Edges(const py::array& edges) {
    if (!py::isinstance<py::array_t<uint32_t, 0>>(edges) || edges.ndim() != 2 || edges.shape(1) != 2) {
      throw py::value_error("edges: must be (m, 2) uint32");
    }
    array = Array<uint32_t>::ensure(edges);
  }
  const uint32_t* data() const { return array.data(); }
  size_t count() const { return static_cast<size_t>(array.shape(0)); }
};

// Raises ValueError(problem) unless the array is (rows, columns).
template <class T>
void check_shape(const Array<T>& array, py::ssize_t rows, py::ssize_t columns, const char* problem) {
  if (array.ndim() != 2 || array.shape(0) != rows || array.shape(1) != columns) throw py::value_error(problem);
}

// A Jaccard to reach. 0 is allowed where it means "compute all". NaN is refused.
void check_threshold(double threshold, bool zero_too) {
  if (!(threshold <= 1.0 && (threshold > 0.0 || (zero_too && threshold == 0.0)))) {
    throw py::value_error(zero_too ? "threshold: must be in [0, 1]" : "threshold: must be in (0, 1]");
  }
}

// Ranks have 32 bits, and 2^32 - 1 is never one.
uint32_t document_count(int64_t documents) {
  if (documents < 0 || documents > UINT32_MAX) throw py::value_error("documents: must be between 0 and 2^32 - 1");
  return static_cast<uint32_t>(documents);
}

// Throws Python's exception for a file: OSError if a system call failed, else ValueError for a file that is not right.
[[noreturn]] void raise(const dedup::FileError& error) {
  if (!error.code) throw py::value_error(error.path + ": " + error.what());
  errno = error.code;
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
  throw py::error_already_set();
}

// Shingle sets by position, in files or in arrays of the caller.
class DedupSets {
 public:
  // Path, position of the first document, offset of `documents`, their count, offsets of `bounds` and `values`.
  using Source = std::tuple<std::string, uint32_t, uint64_t, uint64_t, uint64_t, uint64_t>;

  explicit DedupSets(const std::vector<Source>& parts) : sets_(open(parts)) {}

  // Copies documents and bounds, borrows the values, and keeps these alive.
  DedupSets(const Array<uint32_t>& documents, const Array<int64_t>& bounds, const Array<uint64_t>& values)
      : values_(values) {
    if (documents.ndim() != 1) throw py::value_error("documents: must be (m,) uint32");
    if (bounds.ndim() != 1 || bounds.size() != documents.size() + 1) {
      throw py::value_error("bounds: must be (m + 1,) int64");
    }
    if (values.ndim() != 1) throw py::value_error("values: must be (n,) uint64");
    const py::gil_scoped_release release;
    sets_ = std::make_unique<dedup::Sets>(documents.data(), static_cast<size_t>(documents.size()), bounds.data(),
                                          values.data(), static_cast<size_t>(values.size()));
  }

  // For dedup_verify.
  const dedup::Sets& sets() const { return *sets_; }
  size_t size() const { return sets_->documents(); }

 private:
  // Reads documents and bounds of all files; values are read when they are needed.
  static std::unique_ptr<dedup::Sets> open(const std::vector<Source>& parts) {
    std::vector<dedup::Sets::Source> sources;
    for (const auto& [path, first, documents, count, bounds, values] : parts) {
      sources.push_back({path, first, documents, count, bounds, values});
    }
    try {
      const py::gil_scoped_release release;
      return std::make_unique<dedup::Sets>(sources);
    } catch (const dedup::FileError& error) {
      raise(error);
    }
  }

  Array<uint64_t> values_;  // keeps the caller's array alive; empty for files
  std::unique_ptr<dedup::Sets> sets_;
};

// Returns the Jaccards (m,) of edges of positions: exact from the threshold on, 0 below it. A position without a set is
// found by a thread, and becomes ValueError by pybind11's translation of std::invalid_argument.
py::array_t<double> dedup_verify(const DedupSets& sets, const py::array& edges, double threshold, int64_t threads,
                                 const std::string& level) {
  const Edges pairs(edges);
  check_threshold(threshold, true);
  check_positive(threads, "threads");
  const auto chosen = highest_level(level);
  py::array_t<double> jaccard(edges.shape(0));
  double* const out = jaccard.mutable_data();
  Signals signals;
  try {
    const py::gil_scoped_release release;
    // Ctrl-C stops the threads; rethrow() below raises what the handler left.
    dedup::verify(
        sets.sets(), pairs.data(), pairs.count(), threshold, chosen, static_cast<unsigned>(threads),
        [&] { return signals.raised(); }, out);
  } catch (const dedup::FileError& error) {
    raise(error);
  }
  signals.rethrow();
  return jaccard;
}

// The greedy choice in rank order, chunk of edges by chunk.
class DedupGreedy {
 public:
  explicit DedupGreedy(int64_t documents) : greedy_(document_count(documents)) {}

  // Which edges (m,) still need a Jaccard: those none of whose documents has been dropped. It asks about the state
  // before this chunk, so pairs within the chunk are all pending.
  py::array_t<bool> pending(const py::array& edges) const {
    const Edges pairs(edges);
    const size_t count = pairs.count();
    const uint32_t* const pair = pairs.data();
    greedy_.check(pair, count);
    py::array_t<bool> result(edges.shape(0));
    bool* const out = result.mutable_data();
    const py::gil_scoped_release release;
    for (size_t e = 0; e < count; ++e) out[e] = !greedy_.dropped(pair[2 * e]) && !greedy_.dropped(pair[2 * e + 1]);
    return result;
  }

  // Decides on the later documents of these edges. Returns (later, kept, jaccard) of those that are dropped, (k,) each.
  py::tuple decide(const py::array& edges, const Array<double>& jaccard, double threshold) {
    const Edges pairs(edges);
    if (jaccard.ndim() != 1 || jaccard.shape(0) != edges.shape(0)) {
      throw py::value_error("jaccard: must be (m,) float64");
    }
    check_threshold(threshold, false);
    std::vector<dedup::Greedy::Drop> drops;
    {
      const py::gil_scoped_release release;
      greedy_.decide(pairs.data(), jaccard.data(), pairs.count(), threshold, drops);
    }
    // From rows to columns.
    const auto count = static_cast<py::ssize_t>(drops.size());
    py::array_t<uint32_t> later(count), kept(count);
    py::array_t<double> value(count);
    for (py::ssize_t i = 0; i < count; ++i) {
      const auto& one = drops[static_cast<size_t>(i)];
      later.mutable_at(i) = one.later;
      kept.mutable_at(i) = one.kept;
      value.mutable_at(i) = one.jaccard;
    }
    return py::make_tuple(later, kept, value);
  }

  // Drops documents without an edge. All are checked first, so an error drops none.
  void drop(const py::array& ranks) {
    if (!py::isinstance<Array<uint32_t>>(ranks) || ranks.ndim() != 1) {
      throw py::value_error("ranks: must be (k,) uint32");
    }

    const auto* const begin = static_cast<const uint32_t*>(ranks.data());
    const auto* const end = begin + ranks.size();
    for (const uint32_t* rank = begin; rank < end; ++rank) {
      if (*rank >= greedy_.documents()) throw py::value_error("ranks: " + std::to_string(*rank) + " is out of range");
    }
    for (const uint32_t* rank = begin; rank < end; ++rank) greedy_.drop(*rank);
  }

  // Which ranks stay, (documents,).
  py::array_t<bool> kept() const {
    py::array_t<bool> result(greedy_.documents());
    bool* const out = result.mutable_data();
    const py::gil_scoped_release release;
    for (uint32_t rank = 0; rank < greedy_.documents(); ++rank) out[rank] = !greedy_.dropped(rank);
    return result;
  }

 private:
  dedup::Greedy greedy_;
};

// Connected components of all edges that were added.
class DedupComponents {
 public:
  explicit DedupComponents(int64_t documents) : components_(document_count(documents)) {}

  void add(const py::array& edges) {
    const Edges pairs(edges);
    const py::gil_scoped_release release;
    components_.add(pairs.data(), pairs.count());
  }

  // The smallest rank of each document's component, (documents,): a read-only view of what `self` holds, because a copy
  // would double its memory.
  static py::array_t<uint32_t> labels(const py::object& self) {
    // Labels are computed without the GIL; the view keeps `self` alive, and is read-only because it is the object's own
    // memory.
    auto& components = self.cast<DedupComponents&>().components_;
    const std::vector<uint32_t>* labels;
    {
      const py::gil_scoped_release release;
      labels = &components.labels();
    }
    py::array_t<uint32_t> view(static_cast<py::ssize_t>(labels->size()), labels->data(), self);
    view.attr("setflags")(py::arg("write") = false);
    return view;
  }

 private:
  dedup::Components components_;
};

// Decides on a stream of texts; the texts of one call are a batch.
class DedupMatcher {
 public:
  DedupMatcher(const std::string& preset, int64_t ngram, int64_t bands, double threshold, int64_t max_bucket,
               int64_t lanes, int64_t least)
      : settings_(check(preset, ngram, bands, threshold, max_bucket, lanes, least)),
        matcher_(settings_, simd::level()) {}

  // Decides on the next texts, and writes into the caller's arrays kept (texts,) and jaccard (texts,). These are not
  // returned, so that after Ctrl-C the caller still has the answers up to `documents`.
  void add(const py::buffer& data, const Offsets& offsets, const Array<uint64_t>& keys, const Array<uint8_t>& sketches,
           const Array<uint64_t>& fingerprints, Array<int64_t>& kept, Array<double>& jaccard,
           const std::optional<Array<bool>>& candidate, int64_t threads) {
    const TextBatch batch(data, offsets);
    const auto count = static_cast<py::ssize_t>(batch.texts.count);
    check_shape(keys, count, static_cast<py::ssize_t>(settings_.bands), "keys: must be (texts, bands) uint64");
    check_shape(sketches, count, static_cast<py::ssize_t>(settings_.width), "sketches: must be (texts, width) uint8");
    check_shape(fingerprints, count, 2, "fingerprints: must be (texts, 2) uint64");
    if (kept.ndim() != 1 || kept.shape(0) != count) throw py::value_error("kept: must be (texts,) int64");
    if (jaccard.ndim() != 1 || jaccard.shape(0) != count) throw py::value_error("jaccard: must be (texts,) float64");
    if (candidate && (candidate->ndim() != 1 || candidate->shape(0) != count)) {
      throw py::value_error("candidate: must be (texts,) bool");
    }
    check_positive(threads, "threads");
    int64_t* const kept_out = kept.mutable_data();
    double* const jaccard_out = jaccard.mutable_data();
    // Views of the caller's arrays; pybind11 keeps them alive during the call.
    const dedup::Matcher::Batch documents{batch.texts, keys.data(), sketches.data(), fingerprints.data(),
                                          candidate ? candidate->data() : nullptr};
    Signals signals;
    {
      const py::gil_scoped_release release;
      matcher_.add(documents, static_cast<unsigned>(threads), [&] { return signals.raised(); }, kept_out, jaccard_out);
    }
    signals.rethrow();
  }

  int64_t documents() const { return matcher_.documents(); }

  // Over all calls so far.
  py::dict counts() const {
    py::dict result;
    result["candidate_pairs"] = matcher_.candidate_pairs;
    result["verified_pairs"] = matcher_.verified_pairs;
    result["capped_keys"] = matcher_.capped_keys;
    return result;
  }

 private:
  // Checks the arguments before the members are made from them.
  static dedup::Matcher::Settings check(const std::string& preset, int64_t ngram, int64_t bands, double threshold,
                                        int64_t max_bucket, int64_t lanes, int64_t least) {
    const auto shingling = parse_shingling(preset, ngram);
    check_positive(bands, "bands");
    check_positive(max_bucket, "max_bucket");
    check_positive(lanes, "lanes");
    check_threshold(threshold, false);
    if (least < 0 || least > lanes) throw py::value_error("least: must be between 0 and lanes");
    // One byte per lane, padded to whole blocks: the width of the sketches that sign() makes.
    const auto bytes = static_cast<size_t>(lanes);
    return {shingling,
            static_cast<size_t>(bands),
            threshold,
            static_cast<uint32_t>(max_bucket),
            bytes,
            dedup::sketch_width(bytes),
            static_cast<uint32_t>(least)};
  }

  // Declared before the matcher, which is made from them.
  const dedup::Matcher::Settings settings_;
  dedup::Matcher matcher_;
};

// The exact highest Jaccard of each document of a small set with a stream.
class DedupOverlap {
 public:
  DedupOverlap(const py::buffer& data, const Offsets& offsets, int64_t ngram) : overlap_(make(data, offsets, ngram)) {}

  // Compares the next texts of the stream.
  void compare(const py::buffer& data, const Offsets& offsets, int64_t threads) {
    const TextBatch batch(data, offsets);
    check_positive(threads, "threads");
    py::gil_scoped_release release;
    overlap_.compare(batch.texts, static_cast<unsigned>(threads));
  }

  // By document of the small set: the stream's number of the best match (or -1), and the Jaccard. Both are copies.
  py::tuple best() const {
    const auto count = static_cast<py::ssize_t>(overlap_.match().size());
    return py::make_tuple(py::array_t<int64_t>(count, overlap_.match().data()),
                          py::array_t<double>(count, overlap_.jaccard().data()));
  }

 private:
  // The index over the small set is built without the GIL.
  static dedup::Overlap make(const py::buffer& data, const Offsets& offsets, int64_t ngram) {
    const TextBatch batch(data, offsets);
    check_positive(ngram, "ngram");
    py::gil_scoped_release release;
    return {batch.texts, static_cast<uint32_t>(ngram), simd::level()};
  }

  dedup::Overlap overlap_;
};

}  // namespace

void bind_dedup_join(py::module_& module) {
  // Edges take no `noconvert`: the struct Edges refuses other dtypes with a message of its own, and the functions take
  // any py::array.
  py::class_<DedupSets>(module, "DedupSets", "Shingle sets in files or arrays; see csrc/dedup/sets.h.")
      .def(py::init<const std::vector<DedupSets::Source>&>(), py::arg("parts"))
      .def_static(
          "from_arrays",
          [](const Array<uint32_t>& documents, const Array<int64_t>& bounds, const Array<uint64_t>& values) {
            return std::make_unique<DedupSets>(documents, bounds, values);
          },
          py::arg("documents").noconvert(), py::arg("bounds").noconvert(), py::arg("values").noconvert())
      .def("__len__", &DedupSets::size);
  module.def("dedup_verify", &dedup_verify, py::arg("sets"), py::arg("edges"), py::arg("threshold"),
             py::arg("threads") = 1, py::arg("level") = "", "Exact Jaccards of edges; see csrc/dedup/verify.h.");
  py::class_<DedupGreedy>(module, "DedupGreedy", "Decides in rank order who stays; see csrc/dedup/decide.h.")
      .def(py::init<int64_t>(), py::arg("documents"))
      // `drop` and `kept` serve tests and callers with decisions of their own.
      .def("pending", &DedupGreedy::pending, py::arg("edges"))
      .def("decide", &DedupGreedy::decide, py::arg("edges"), py::arg("jaccard"), py::arg("threshold"))
      .def("drop", &DedupGreedy::drop, py::arg("ranks"))
      .def("kept", &DedupGreedy::kept);
  py::class_<DedupComponents>(module, "DedupComponents", "Connected components; see csrc/dedup/decide.h.")
      .def(py::init<int64_t>(), py::arg("documents"))
      .def("add", &DedupComponents::add, py::arg("edges"))
      .def("labels", &DedupComponents::labels);
  // kept and jaccard are outputs, so a converted copy would lose the answers: they take `noconvert`.
  py::class_<DedupMatcher>(module, "DedupMatcher", "Decides on a stream who stays; see csrc/dedup/matcher.h.")
      .def(py::init<const std::string&, int64_t, int64_t, double, int64_t, int64_t, int64_t>(), py::arg("preset"),
           py::arg("ngram"), py::arg("bands"), py::arg("threshold"), py::arg("max_bucket"), py::arg("lanes"),
           py::arg("least"))
      .def("add", &DedupMatcher::add, py::arg("data"), py::arg("offsets"), py::arg("keys"), py::arg("sketches"),
           py::arg("fingerprints"), py::arg("kept").noconvert(), py::arg("jaccard").noconvert(),
           py::arg("candidate") = py::none(), py::arg("threads") = 1)
      .def_property_readonly("documents", &DedupMatcher::documents)
      .def("counts", &DedupMatcher::counts);
  py::class_<DedupOverlap>(module, "DedupOverlap", "Exact highest Jaccard with a stream; see csrc/dedup/overlap.h.")
      .def(py::init<const py::buffer&, const Offsets&, int64_t>(), py::arg("data"), py::arg("offsets"),
           py::arg("ngram"))
      .def("compare", &DedupOverlap::compare, py::arg("data"), py::arg("offsets"), py::arg("threads") = 1)
      .def("best", &DedupOverlap::best);
}

}  // namespace codeshell::bindings
