// dedup: who resembles whom, and who stays.
#include "bindings/buffers.h"
#include "dedup/matcher.h"
#include "dedup/overlap.h"

namespace codeshell::bindings {

namespace {

class DedupMatcher {
 public:
  DedupMatcher(int64_t ngram, int64_t bands, double threshold, int64_t max_bucket)
      : bands_(bands), matcher_(check(ngram, bands, threshold, max_bucket)) {}

  py::tuple add(const py::buffer& data, const Offsets& offsets, const py::array_t<uint64_t, py::array::c_style>& keys,
                const py::array_t<bool, py::array::c_style>& candidate) {
    const TextBatch batch(data, offsets);
    const auto count = static_cast<py::ssize_t>(batch.texts.count);
    if (keys.ndim() != 2 || keys.shape(0) != count || keys.shape(1) != bands_) {
      throw py::value_error("keys: must be (texts, bands) uint64");
    }
    if (candidate.ndim() != 1 || candidate.shape(0) != count) throw py::value_error("candidate: must be (texts,) bool");
    py::array_t<int64_t> index(count);
    py::array_t<double> jaccard(count);
    int64_t* const index_out = index.mutable_data();
    double* const jaccard_out = jaccard.mutable_data();
    const uint64_t* const key = keys.data();
    const bool* const wanted = candidate.data();
    {
      py::gil_scoped_release release;
      for (py::ssize_t i = 0; i < count; ++i) {
        dedup::Match match;
        if (wanted[i]) {
          match = matcher_.add(batch.texts[static_cast<size_t>(i)], key + i * bands_);
        } else {
          matcher_.skip();
        }
        index_out[i] = match.index;
        jaccard_out[i] = match.jaccard;
      }
    }
    return py::make_tuple(index, jaccard);
  }

  py::dict counts() const {
    py::dict result;
    result["candidate_pairs"] = matcher_.candidate_pairs;
    result["verified_pairs"] = matcher_.verified_pairs;
    result["capped_keys"] = matcher_.capped_keys;
    return result;
  }

 private:
  static dedup::Matcher check(int64_t ngram, int64_t bands, double threshold, int64_t max_bucket) {
    check_positive(ngram, "ngram");
    check_positive(bands, "bands");
    check_positive(max_bucket, "max_bucket");
    if (!(threshold > 0.0 && threshold <= 1.0)) throw py::value_error("threshold: must be in (0, 1]");
    return {static_cast<uint32_t>(ngram), static_cast<size_t>(bands), threshold, static_cast<uint32_t>(max_bucket),
            simd::level()};
  }

  py::ssize_t bands_;
  dedup::Matcher matcher_;
};

class DedupOverlap {
 public:
  DedupOverlap(const py::buffer& data, const Offsets& offsets, int64_t ngram) : overlap_(make(data, offsets, ngram)) {}

  void compare(const py::buffer& data, const Offsets& offsets, int64_t threads) {
    const TextBatch batch(data, offsets);
    check_positive(threads, "threads");
    py::gil_scoped_release release;
    overlap_.compare(batch.texts, static_cast<unsigned>(threads));
  }

  py::tuple best() const {
    const auto count = static_cast<py::ssize_t>(overlap_.match().size());
    return py::make_tuple(py::array_t<int64_t>(count, overlap_.match().data()),
                          py::array_t<double>(count, overlap_.jaccard().data()));
  }

 private:
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
  py::class_<DedupMatcher>(module, "DedupMatcher", "Decides in order who stays; see csrc/dedup/matcher.h.")
      .def(py::init<int64_t, int64_t, double, int64_t>(), py::arg("ngram"), py::arg("bands"), py::arg("threshold"),
           py::arg("max_bucket"))
      .def("add", &DedupMatcher::add, py::arg("data"), py::arg("offsets"), py::arg("keys"), py::arg("candidate"))
      .def("counts", &DedupMatcher::counts);
  py::class_<DedupOverlap>(module, "DedupOverlap", "Exact highest Jaccard with a stream; see csrc/dedup/overlap.h.")
      .def(py::init<const py::buffer&, const Offsets&, int64_t>(), py::arg("data"), py::arg("offsets"),
           py::arg("ngram"))
      .def("compare", &DedupOverlap::compare, py::arg("data"), py::arg("offsets"), py::arg("threads") = 1)
      .def("best", &DedupOverlap::best);
}

}  // namespace codeshell::bindings
