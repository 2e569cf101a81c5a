// dedup: from band keys or sketches to candidate edges.
//
// Every function here does three things in this order: it checks shapes and ranges while it holds the GIL (the C++
// below trusts them), runs without the GIL, and turns the result into NumPy arrays. Array<T> with `noconvert` takes
// only an array of exactly that dtype: a silent conversion would copy gigabytes. Shapes and dtypes of each argument are
// in codeshell/_C/__init__.pyi; what the functions compute is in the headers of csrc/dedup.
#include <pybind11/stl.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "bindings/buffers.h"
#include "bindings/signals.h"
#include "dedup/bins.h"
#include "dedup/cpsjoin.h"
#include "dedup/groups.h"
#include "dedup/sketch.h"

namespace codeshell::bindings {

namespace {

// C-contiguous, so that data() can be read as rows.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Runs `work` without the GIL. The failure of a file becomes an OSError with its path, a bad argument a ValueError. The
// GIL is held again where an exception is caught, because `release` has ended by then.
template <class Work>
auto run(const Work& work) {
  try {
    const py::gil_scoped_release release;
    return work();
  } catch (const std::filesystem::filesystem_error& error) {
    // PyErr_SetFromErrno picks the subclass, such as FileNotFoundError.
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path1().c_str());
    throw py::error_already_set();
  } catch (const std::invalid_argument& error) {
    throw py::value_error(error.what());
  }
}

// Sketches of documents 0 .. len - 1, in files or in an array of the caller.
class DedupSketches {
 public:
  // Path, byte offset and number of sketches.
  using Part = std::tuple<std::string, uint64_t, uint64_t>;

  DedupSketches(const std::vector<Part>& parts, int64_t width, bool in_memory) {
    check_width(width);
    std::vector<dedup::SketchPart> sources;
    for (const auto& [path, offset, count] : parts) sources.push_back({path, offset, count});
    sketches_ = run([&] { return std::make_unique<dedup::Sketches>(sources, static_cast<size_t>(width), in_memory); });
  }

  // Borrows the array (documents, width), which this object keeps alive.
  explicit DedupSketches(const Array<uint8_t>& array) : array_(array) {
    if (array.ndim() != 2) throw py::value_error("sketches: must be (documents, width) uint8");
    check_width(array.shape(1));
    // Borrowed: no copy of what may be gigabytes.
    sketches_ = std::make_unique<dedup::Sketches>(array.data(), static_cast<size_t>(array.shape(0)),
                                                  static_cast<size_t>(array.shape(1)));
  }

  const dedup::Sketches& get() const { return *sketches_; }
  size_t size() const { return sketches_->count(); }

  // The number of equal bytes of each pair (m, 2), out of the first `lanes`. One pair at a time: sketches may be in
  // files.
  py::array_t<uint32_t> equal(const Array<uint32_t>& pairs, int64_t lanes, const std::string& level) const {
    if (pairs.ndim() != 2 || pairs.shape(1) != 2) throw py::value_error("pairs: must be (m, 2) uint32");
    check_lanes(lanes);
    const auto compare = dedup::similar(highest_level(level));
    const auto count = static_cast<size_t>(pairs.shape(0));
    const uint32_t* const pair = pairs.data();
    py::array_t<uint32_t> result(pairs.shape(0));
    uint32_t* const out = result.mutable_data();
    // The two sketches of a pair, side by side; `least` 0 makes every pair a match.
    run([&] {
      const size_t width = sketches_->width();
      const auto bytes = dedup::aligned_bytes(2 * width);
      dedup::Match match{};
      for (size_t i = 0; i < count; ++i) {
        for (size_t side = 0; side < 2; ++side) {
          if (pair[2 * i + side] >= sketches_->count()) throw std::invalid_argument("pairs: a document out of range");
          sketches_->read(pair[2 * i + side], bytes.get() + side * width);
        }
        compare(bytes.get(), bytes.get() + width, 1, width, static_cast<size_t>(lanes), 0, &match);
        out[i] = match.equal;
      }
      return true;
    });
    return result;
  }

  // Comparisons read `lanes` bytes of every sketch.
  void check_lanes(int64_t lanes) const {
    if (lanes < 1 || static_cast<size_t>(lanes) > sketches_->width()) {
      throw py::value_error("lanes: must be between 1 and the sketches' width");
    }
  }

 private:
  // The kernels read whole blocks of 64 bytes.
  static void check_width(int64_t width) {
    if (width < 64 || width % 64) throw py::value_error("width: must be a multiple of 64");
  }

  Array<uint8_t> array_;  // keeps the caller's array alive; empty for files
  std::unique_ptr<dedup::Sketches> sketches_;
};

// A number of documents, bytes or threads; the upper limit keeps all products within 64 bits.
uint32_t check_count(int64_t value, int64_t low, const char* name) {
  if (value < low || value > INT32_MAX) throw py::value_error(std::string(name) + ": is out of range");
  return static_cast<uint32_t>(value);
}

// The ranks, or null for None: the documents' own order.
const uint32_t* check_ranks(const std::optional<Array<uint32_t>>& rank, size_t count) {
  if (!rank) return nullptr;
  if (rank->ndim() != 1 || static_cast<size_t>(rank->size()) != count) {
    throw py::value_error("rank: must be (" + std::to_string(count) + ",) uint32, as many as documents");
  }
  return rank->data();
}

// Packed edges as an array (m, 2) of (later, earlier).
py::array_t<uint32_t> unpack(const std::vector<uint64_t>& edges) {
  py::array_t<uint32_t> result({static_cast<py::ssize_t>(edges.size()), py::ssize_t{2}});
  uint32_t* out = result.mutable_data();
  for (const uint64_t edge : edges) {
    *out++ = static_cast<uint32_t>(edge >> 32);
    *out++ = static_cast<uint32_t>(edge);
  }
  return result;
}

// Returns the edges (m, 2), the heavy documents (h,), and the counts. Whether `documents` are in range is checked in
// C++, in the pass that reads them anyway.
py::tuple dedup_groups_edges(const Array<uint64_t>& keys, const Array<uint32_t>& documents,
                             const Array<bool>& representative, const std::optional<Array<uint32_t>>& rank,
                             const DedupSketches* sketches, int64_t lanes, int64_t least, int64_t sure, int64_t largest,
                             int64_t leaders, int64_t leader_edges, int64_t threads, const std::string& level) {
  if (keys.ndim() != 1 || documents.ndim() != 1 || keys.size() != documents.size()) {
    throw py::value_error("keys, documents: must be (k,) uint64 and (k,) uint32");
  }
  if (representative.ndim() != 1) throw py::value_error("representative: must be (documents,) bool");
  const auto count = static_cast<size_t>(representative.size());
  // From here on `count` is the number of documents, not of records.
  const uint32_t* const ranks = check_ranks(rank, count);
  // None: every pair of a group is an edge.
  if (sketches) {
    sketches->check_lanes(lanes);
    if (sketches->size() != count) throw py::value_error("sketches: not as many as documents");
  }
  const dedup::GroupOptions options{static_cast<size_t>(check_count(lanes, 1, "lanes")),
                                    check_count(least, 0, "least"),
                                    check_count(sure, 0, "sure"),
                                    check_count(largest, 2, "largest"),
                                    check_count(leaders, 1, "leaders"),
                                    check_count(leader_edges, 1, "leader_edges")};
  // Flags of one byte each are read where they lie, which may be a memory-mapped file.
  const dedup::Chosen chosen{representative.data(), nullptr, count};
  const auto result = run([&] {
    return dedup::group_edges(keys.data(), documents.data(), static_cast<size_t>(keys.size()), chosen, ranks,
                              sketches ? &sketches->get() : nullptr, options, highest_level(level),
                              check_count(threads, 1, "threads"));
  });
  // By the names that the statistics of a job have.
  py::dict counts;
  counts["groups"] = result.counts.groups;
  counts["largest_group"] = result.counts.largest_group;
  counts["large_groups"] = result.counts.large_groups;
  counts["pairs_compared"] = result.counts.pairs_compared;
  return py::make_tuple(unpack(result.edges),
                        Array<uint32_t>(static_cast<py::ssize_t>(result.heavy.size()), result.heavy.data()), counts);
}

// Returns the edges (m, 2) and the counts.
py::tuple dedup_cpsjoin(const DedupSketches& sketches, const std::optional<Array<uint32_t>>& positions,
                        const std::optional<Array<uint32_t>>& rank, int64_t lanes, double threshold, int64_t least,
                        int64_t sure, uint64_t seed, int64_t repetitions, int64_t limit, int64_t neighbours,
                        int64_t budget, int64_t threads, const std::string& level) {
  sketches.check_lanes(lanes);
  if (!(threshold > 0.0 && threshold <= 1.0)) throw py::value_error("threshold: must be in (0, 1]");
  if (positions && positions->ndim() != 1) throw py::value_error("positions: must be (m,) uint32");
  // None: all documents.
  const size_t count = positions ? static_cast<size_t>(positions->size()) : sketches.size();
  // Checked here: cpsjoin() reads sketches at these positions without a check.
  if (positions) {
    for (size_t i = 0; i < count; ++i) {
      if (positions->data()[i] >= sketches.size()) throw py::value_error("positions: a document out of range");
    }
  }
  const uint32_t* const ranks = check_ranks(rank, count);
  const dedup::CpsJoinOptions options{static_cast<size_t>(lanes),
                                      threshold,
                                      check_count(least, 0, "least"),
                                      check_count(sure, 0, "sure"),
                                      seed,
                                      check_count(repetitions, 1, "repetitions"),
                                      check_count(limit, 2, "limit"),
                                      check_count(neighbours, 1, "neighbours"),
                                      check_count(budget, 1, "budget")};
  const auto result = run([&] {
    return dedup::cpsjoin(sketches.get(), positions ? positions->data() : nullptr, ranks, count, options,
                          highest_level(level), check_count(threads, 1, "threads"));
  });
  py::dict counts;
  counts["compared"] = result.counts.compared;
  counts["splits"] = result.counts.splits;
  counts["clusters"] = result.counts.clusters;
  counts["exhausted"] = result.counts.exhausted;
  counts["depth"] = result.counts.depth;
  return py::make_tuple(unpack(result.edges), counts);
}

// Returns keep (m,): whether each edge may reach the threshold. Ctrl-C ends it; `signals` carries the exception over
// the part without the GIL.
py::array_t<bool> dedup_sharpen(const DedupSketches& sketches, const Array<uint32_t>& shingles,
                                const Array<uint32_t>& edges, double threshold, int64_t threads,
                                const std::string& level) {
  if (shingles.ndim() != 1 || static_cast<size_t>(shingles.size()) != sketches.size()) {
    throw py::value_error("shingles: must be (sketches,) uint32");
  }
  if (edges.ndim() != 2 || edges.shape(1) != 2) throw py::value_error("edges: must be (m, 2) uint32");
  if (!(threshold > 0.0 && threshold <= 1.0)) throw py::value_error("threshold: must be in (0, 1]");
  // All checks that can throw come before the GIL is released.
  const auto workers = check_count(threads, 1, "threads");
  const auto chosen = highest_level(level);
  py::array_t<bool> keep(edges.shape(0));
  bool* const out = keep.mutable_data();
  Signals signals;
  run([&] {
    return dedup::sharpen(
        sketches.get(), shingles.data(), edges.data(), static_cast<size_t>(edges.shape(0)), threshold, chosen, workers,
        [&] { return signals.raised(); }, out);
  });
  signals.rethrow();
  return keep;
}

}  // namespace

void bind_dedup_candidates(py::module_& module) {
  // The defaults of largest, leaders, repetitions, limit, neighbours and budget are those of every search: Python
  // passes none of them.
  py::class_<DedupSketches>(module, "DedupSketches", "Sketches in files or an array; see csrc/dedup/sketch.h.")
      .def(py::init<const std::vector<DedupSketches::Part>&, int64_t, bool>(), py::arg("parts"), py::arg("width"),
           py::arg("in_memory"))
      // The two constructors have one name each in Python, because their arguments are of different kinds.
      .def_static(
          "from_array", [](const Array<uint8_t>& array) { return std::make_unique<DedupSketches>(array); },
          py::arg("sketches").noconvert())
      .def("equal", &DedupSketches::equal, py::arg("pairs"), py::arg("lanes"), py::arg("level") = "")
      .def("__len__", &DedupSketches::size);
  // `noconvert` on every array of all documents or keys; a small scalar may be converted.
  module.def("dedup_groups_edges", &dedup_groups_edges, py::arg("keys").noconvert(), py::arg("documents").noconvert(),
             py::arg("representative").noconvert(), py::arg("rank").noconvert(), py::arg("sketches").none(true),
             py::arg("lanes"), py::arg("least"), py::arg("sure"), py::arg("largest") = 512, py::arg("leaders") = 64,
             py::arg("leader_edges") = 8, py::arg("threads") = 1, py::arg("level") = "",
             "Candidate edges from equal band keys; see csrc/dedup/groups.h.");
  module.def("dedup_cpsjoin", &dedup_cpsjoin, py::arg("sketches"), py::arg("positions").noconvert(),
             py::arg("rank").noconvert(), py::arg("lanes"), py::arg("threshold"), py::arg("least"), py::arg("sure"),
             py::arg("seed"), py::arg("repetitions") = 10, py::arg("limit") = 250, py::arg("neighbours") = 32,
             py::arg("budget") = 4096, py::arg("threads") = 1, py::arg("level") = "",
             "Candidate edges by CPSJoin; see csrc/dedup/cpsjoin.h.");
  module.def("dedup_sharpen", &dedup_sharpen, py::arg("sketches"), py::arg("shingles").noconvert(),
             py::arg("edges").noconvert(), py::arg("threshold"), py::arg("threads") = 1, py::arg("level") = "",
             "Which edges may reach the threshold; see csrc/dedup/bins.h.");
}

}  // namespace codeshell::bindings
