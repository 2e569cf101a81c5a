// The Python module codeshell._C. This is the only file that includes pybind11; everything behind it is plain C++.
//
// Rules for a binding: take buffers (NumPy arrays, Arrow buffers), not Python objects one by one; release the GIL
// around the work; turn a bad argument into ValueError here, before any C++ runs.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "activation/gelu_cpu.h"
#include "attention/attention_cpu.h"
#include "dedup/matcher.h"
#include "dedup/minhash.h"
#include "dedup/overlap.h"
#include "dedup/shingles.h"
#include "gpu/device.h"
#include "loss/cross_entropy_cpu.h"
#include "simd/cpu.h"
#include "text/measures.h"
#include "text/unicode_tables.h"

namespace py = pybind11;

namespace {

py::list gpu_devices() {
  py::list devices;
  for (const auto& device : codeshell::gpu::list_devices()) {
    py::dict entry;
    entry["name"] = device.name;
    entry["capability"] = py::make_tuple(device.major, device.minor);
    entry["multiprocessors"] = device.multiprocessors;
    entry["memory_bytes"] = device.memory_bytes;
    devices.append(entry);
  }
  return devices;
}

// text: measures of documents.

codeshell::simd::Level parse_level(const std::string& name) {
  using codeshell::simd::Level;
  if (name == "scalar") return Level::scalar;
  if (name == "neon") return Level::neon;
  if (name == "avx2") return Level::avx2;
  if (name == "avx512" || name.empty()) return Level::avx512;
  throw py::value_error("level: '" + name + "' is none of scalar, neon, avx2, avx512");
}

py::dict measure_texts(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets,
                       const std::string& level) {
  const py::buffer_info bytes = data.request();
  if (bytes.ndim != 1 || bytes.itemsize != 1) throw py::value_error("data: must be a one-dimensional buffer of bytes");
  if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (texts + 1,) int64");
  const py::ssize_t count = offsets.size() - 1;
  const int64_t* offset = offsets.data();
  if (offset[0] < 0 || offset[count] > bytes.size) throw py::value_error("offsets: beyond the data");
  for (py::ssize_t i = 0; i < count; ++i) {
    if (offset[i] > offset[i + 1]) throw py::value_error("offsets: must not fall");
  }
  const auto at_most = parse_level(level);
  py::array_t<bool> valid(count);
  using Column = std::pair<const char*, int64_t codeshell::text::Measures::*>;
  constexpr Column columns[] = {{"characters", &codeshell::text::Measures::characters},
                                {"lines", &codeshell::text::Measures::lines},
                                {"max_line_length", &codeshell::text::Measures::max_line_length},
                                {"line_characters", &codeshell::text::Measures::line_characters},
                                {"letters", &codeshell::text::Measures::letters},
                                {"alphanumeric", &codeshell::text::Measures::alphanumeric}};
  py::dict result;
  result["valid"] = valid;
  std::vector<int64_t*> targets;
  for (const auto& [name, member] : columns) {
    py::array_t<int64_t> values(count);
    targets.push_back(values.mutable_data());
    result[name] = values;
  }
  bool* const is_valid = valid.mutable_data();
  const auto* const text = static_cast<const uint8_t*>(bytes.ptr);
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < count; ++i) {
      const auto measures =
          codeshell::text::measure(text + offset[i], static_cast<size_t>(offset[i + 1] - offset[i]), at_most);
      is_valid[i] = measures.valid_utf8;
      for (size_t c = 0; c < targets.size(); ++c) targets[c][i] = measures.*columns[c].second;
    }
  }
  return result;
}

void bind_text(py::module_& module) {
  module.attr("unicode_version") = codeshell::text::unicode_version;
  module.def("measure_texts", &measure_texts, py::arg("data"), py::arg("offsets"), py::arg("level") = "",
             "Measures of every text data[offsets[i]:offsets[i + 1]] as arrays, by name; see csrc/text/measures.h.");
}

// dedup: shingles, signatures, near duplicates.

// A batch of texts as checked views of the caller's buffers, which it keeps alive.
struct TextBatch {
  py::buffer_info bytes;
  codeshell::dedup::Texts texts;

  TextBatch(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets) : bytes(data.request()) {
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

codeshell::simd::Level highest_level(const std::string& name) {
  return std::min(parse_level(name), codeshell::simd::level());
}

void check_positive(int64_t value, const char* name) {
  if (value < 1 || value > INT32_MAX) throw py::value_error(std::string(name) + ": must be between 1 and 2^31 - 1");
}

py::array_t<uint32_t> dedup_minhash(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets,
                                    int64_t ngram, int64_t lanes, uint64_t seed, int64_t threads,
                                    const std::string& level) {
  const TextBatch batch(data, offsets);
  check_positive(ngram, "ngram");
  check_positive(lanes, "lanes");
  check_positive(threads, "threads");
  const auto chosen = highest_level(level);
  const codeshell::dedup::MinHash minhash(static_cast<uint32_t>(ngram), static_cast<size_t>(lanes), seed);
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
  codeshell::dedup::band_keys(in, count, static_cast<size_t>(bands), rows, out);
  return result;
}

py::tuple dedup_shingle_sets(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets,
                             int64_t ngram, const std::string& level) {
  const TextBatch batch(data, offsets);
  check_positive(ngram, "ngram");
  const auto chosen = highest_level(level);
  std::vector<uint64_t> values;
  py::array_t<int64_t> bounds(static_cast<py::ssize_t>(batch.texts.count) + 1);
  int64_t* const bound = bounds.mutable_data();
  bound[0] = 0;
  {
    py::gil_scoped_release release;
    codeshell::dedup::Scratch scratch;
    for (size_t i = 0; i < batch.texts.count; ++i) {
      codeshell::dedup::make_shingle_set(batch.texts[i], static_cast<uint32_t>(ngram), chosen, scratch);
      values.insert(values.end(), scratch.shingles.begin(), scratch.shingles.end());
      bound[i + 1] = static_cast<int64_t>(values.size());
    }
  }
  return py::make_tuple(py::array_t<uint64_t>(static_cast<py::ssize_t>(values.size()), values.data()), bounds);
}

class DedupMatcher {
 public:
  DedupMatcher(int64_t ngram, int64_t bands, double threshold, int64_t max_bucket)
      : bands_(bands), matcher_(check(ngram, bands, threshold, max_bucket)) {}

  py::tuple add(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets,
                const py::array_t<uint64_t, py::array::c_style>& keys,
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
        codeshell::dedup::Match match;
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
  static codeshell::dedup::Matcher check(int64_t ngram, int64_t bands, double threshold, int64_t max_bucket) {
    check_positive(ngram, "ngram");
    check_positive(bands, "bands");
    check_positive(max_bucket, "max_bucket");
    if (!(threshold > 0.0 && threshold <= 1.0)) throw py::value_error("threshold: must be in (0, 1]");
    return {static_cast<uint32_t>(ngram), static_cast<size_t>(bands), threshold, static_cast<uint32_t>(max_bucket),
            codeshell::simd::level()};
  }

  py::ssize_t bands_;
  codeshell::dedup::Matcher matcher_;
};

class DedupOverlap {
 public:
  DedupOverlap(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets, int64_t ngram)
      : overlap_(make(data, offsets, ngram)) {}

  void compare(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets, int64_t threads) {
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
  static codeshell::dedup::Overlap make(const py::buffer& data, const py::array_t<int64_t, py::array::c_style>& offsets,
                                        int64_t ngram) {
    const TextBatch batch(data, offsets);
    check_positive(ngram, "ngram");
    py::gil_scoped_release release;
    return {batch.texts, static_cast<uint32_t>(ngram), codeshell::simd::level()};
  }

  codeshell::dedup::Overlap overlap_;
};

void bind_dedup(py::module_& module) {
  module.def("dedup_minhash", &dedup_minhash, py::arg("data"), py::arg("offsets"), py::arg("ngram"), py::arg("lanes"),
             py::arg("seed"), py::arg("threads") = 1, py::arg("level") = "",
             "MinHash signatures (texts, lanes) uint32; see csrc/dedup/minhash.h.");
  module.def("dedup_band_keys", &dedup_band_keys, py::arg("signatures"), py::arg("bands"),
             "Band keys (texts, bands) uint64 of signatures; 0 is no key.");
  module.def("dedup_shingle_sets", &dedup_shingle_sets, py::arg("data"), py::arg("offsets"), py::arg("ngram"),
             py::arg("level") = "", "Distinct ascending shingles of all texts, and the bounds of each text's.");
  py::class_<DedupMatcher>(module, "DedupMatcher", "Decides in order who stays; see csrc/dedup/matcher.h.")
      .def(py::init<int64_t, int64_t, double, int64_t>(), py::arg("ngram"), py::arg("bands"), py::arg("threshold"),
           py::arg("max_bucket"))
      .def("add", &DedupMatcher::add, py::arg("data"), py::arg("offsets"), py::arg("keys"), py::arg("candidate"))
      .def("counts", &DedupMatcher::counts);
  py::class_<DedupOverlap>(module, "DedupOverlap", "Exact highest Jaccard with a stream; see csrc/dedup/overlap.h.")
      .def(py::init<const py::buffer&, const py::array_t<int64_t, py::array::c_style>&, int64_t>(), py::arg("data"),
           py::arg("offsets"), py::arg("ngram"))
      .def("compare", &DedupOverlap::compare, py::arg("data"), py::arg("offsets"), py::arg("threads") = 1)
      .def("best", &DedupOverlap::best);
}

// neural: the model's operations on the CPU. Tensors come as addresses, because bf16 has no buffer format; the caller
// (codeshell/ops/native.py) holds them and has checked shapes, dtypes and strides.

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

using ViewArgument = std::tuple<std::uintptr_t, std::int64_t, std::int64_t>;
using Offsets = py::array_t<std::int32_t, py::array::c_style>;

codeshell::attention::View view_of(const ViewArgument& argument) {
  return {at<void>(std::get<0>(argument)), std::get<1>(argument), std::get<2>(argument)};
}

codeshell::attention::Problem attention_problem(const std::array<ViewArgument, 4>& tensors, std::uintptr_t lse,
                                                bool bf16, const Offsets& query_offsets, const Offsets& key_offsets,
                                                const std::array<std::int64_t, 3>& shape, float scale, bool causal,
                                                std::int64_t window, const std::array<std::uintptr_t, 3>& rotary) {
  const auto [heads, kv_heads, dim] = shape;
  if (heads < 1 || kv_heads < 1 || heads % kv_heads || dim < 16 || dim > 256 || dim % 16)
    throw py::value_error("shape: heads must be a multiple of kv_heads, and dim a multiple of 16 up to 256");
  if (query_offsets.ndim() != 1 || query_offsets.size() < 2 || key_offsets.ndim() != 1 ||
      key_offsets.size() != query_offsets.size())
    throw py::value_error("offsets: must be (sequences + 1,) int32, alike for queries and keys");
  codeshell::attention::Problem p;
  p.q = view_of(tensors[0]), p.k = view_of(tensors[1]), p.v = view_of(tensors[2]), p.out = view_of(tensors[3]);
  p.lse = at<float>(lse);
  p.bf16 = bf16;
  p.query_offsets = query_offsets.data();
  p.key_offsets = key_offsets.data();
  p.sequences = query_offsets.size() - 1;
  p.query_tokens = p.query_offsets[p.sequences];
  p.heads = heads, p.kv_heads = kv_heads, p.dim = dim;
  p.scale = scale, p.causal = causal, p.window = window;
  p.cos = at<float>(rotary[0]), p.sin = at<float>(rotary[1]), p.positions = at<std::int32_t>(rotary[2]);
  return p;
}

void bind_neural(py::module_& module) {
  module.def("attention_forward", [](const std::array<ViewArgument, 4>& tensors, std::uintptr_t lse, bool bf16,
                                     const Offsets& query_offsets, const Offsets& key_offsets,
                                     const std::array<std::int64_t, 3>& shape, float scale, bool causal,
                                     std::int64_t window, const std::array<std::uintptr_t, 3>& rotary, int threads) {
    const auto problem =
        attention_problem(tensors, lse, bf16, query_offsets, key_offsets, shape, scale, causal, window, rotary);
    const py::gil_scoped_release release;
    codeshell::attention::forward(problem, threads);
  });
  module.def(
      "attention_backward",
      [](const std::array<ViewArgument, 4>& tensors, const std::array<ViewArgument, 4>& gradients, std::uintptr_t lse,
         bool bf16, const Offsets& query_offsets, const Offsets& key_offsets, const std::array<std::int64_t, 3>& shape,
         float scale, bool causal, std::int64_t window, const std::array<std::uintptr_t, 3>& rotary, int threads) {
        auto problem =
            attention_problem(tensors, lse, bf16, query_offsets, key_offsets, shape, scale, causal, window, rotary);
        problem.grad_q = view_of(gradients[0]), problem.grad_k = view_of(gradients[1]);
        problem.grad_v = view_of(gradients[2]), problem.grad_out = view_of(gradients[3]);
        const py::gil_scoped_release release;
        codeshell::attention::backward(problem, threads);
      });
  module.def(
      "gelu_forward",
      [](std::uintptr_t x, std::uintptr_t y, std::int64_t n, bool bf16, int threads) {
        codeshell::activation::gelu(at<void>(x), at<void>(y), n, bf16, threads);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "gelu_backward",
      [](std::uintptr_t x, std::uintptr_t dy, std::uintptr_t grad, std::int64_t n, bool bf16, int threads) {
        codeshell::activation::gelu_backward(at<void>(x), at<void>(dy), at<void>(grad), n, bf16, threads);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "cross_entropy",
      [](std::uintptr_t logits, std::int64_t rows, std::int64_t n, std::uintptr_t targets, std::int64_t ignore_index,
         float scale, std::uintptr_t losses, bool bf16, int threads) {
        codeshell::loss::cross_entropy(at<void>(logits), rows, n, at<std::int64_t>(targets), ignore_index, scale,
                                       at<float>(losses), bf16, threads);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ and CUDA of codeshell; see codeshell/_C.pyi for the signatures.";
  module.attr("cuda_built") = codeshell::gpu::cuda_built();
  module.attr("cuda_architectures") = codeshell::gpu::cuda_architectures();
  module.attr("compiler") = CODESHELL_COMPILER;
  module.def(
      "simd_level", &codeshell::simd::level_name,
      "The widest instruction set that this processor and the build share: 'avx512', 'avx2', 'neon' or 'scalar'.");
  module.def("gpu_devices", &gpu_devices,
             "The CUDA devices as dicts; empty without a driver, a device or a CUDA build. Never raises.");
  bind_text(module);
  bind_dedup(module);
  bind_neural(module);
}
