// Byte-level BPE (csrc/bpe): the encoder, and what training needs.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <string>

#include "bindings/buffers.h"
#include "bindings/signals.h"
#include "bpe/count.h"
#include "bpe/encoder.h"
#include "bpe/train.h"
#include "simd/parallel.h"

namespace codeshell::bindings {

namespace {

using bpe::Encoder;
using Merges = py::array_t<uint32_t, py::array::c_style>;

constexpr size_t kTaskBytes = 1 << 18;

const bpe::Splitter& parse_splitter(const std::string& name) {
  const bpe::Splitter* const splitter = bpe::find_splitter(name);
  if (!splitter) throw py::value_error("pattern: \"" + name + "\" is none");
  return *splitter;
}

std::unique_ptr<Encoder> make_encoder(const std::string& pattern, std::vector<int32_t> bytes, const Merges& merges,
                                      const std::vector<std::pair<py::bytes, uint32_t>>& whole) {
  if (merges.ndim() != 2 || merges.shape(1) != 3) throw py::value_error("merges: must be (merges, 3) uint32");
  if (bytes.size() != 256) throw py::value_error("bytes: must be 256 ids");
  std::vector<bpe::Merge> list(static_cast<size_t>(merges.shape(0)));
  for (size_t i = 0; i < list.size(); ++i) {
    const uint32_t* const row = merges.data() + 3 * i;
    list[i] = {row[0], row[1], row[2]};
  }
  std::unordered_map<std::string, uint32_t> words;
  for (const auto& [word, id] : whole) words.emplace(std::string(word), id);
  return std::make_unique<Encoder>(parse_splitter(pattern),
                                   std::make_unique<bpe::Model>(std::move(bytes), list, std::move(words)));
}

// ValueError if text i is not UTF-8.
void check_utf8(const dedup::Texts& texts, size_t i) {
  const size_t at = bpe::malformed_at(texts[i]);
  if (at == texts[i].size()) return;
  throw py::value_error("texts: text " + std::to_string(i) + " is not UTF-8 at byte " + std::to_string(at));
}

// The ids of some texts, and how many each has.
struct Encoded {
  bpe::Ids ids;
  std::vector<int64_t> counts;
};

template <class Id>
py::array encoded_array(const std::vector<Encoded>& parts, size_t total) {
  py::array_t<Id> ids(static_cast<py::ssize_t>(total));
  Id* out = ids.mutable_data();
  for (const Encoded& part : parts) {
    out = std::transform(part.ids.data(), part.ids.data() + part.ids.size(), out,
                         [](uint32_t id) { return static_cast<Id>(id); });
  }
  return ids;
}

// Ids of several texts, and where each text's begin: (ids,) of uint16 or uint32, and (texts + 1,) int64.
py::tuple encode(const Encoder& encoder, const py::buffer& data, const Offsets& offsets, int64_t threads, bool narrow) {
  check_positive(threads, "threads");
  const TextBatch batch(data, offsets);
  const dedup::Texts& texts = batch.texts;
  // Tasks of neighbouring texts, each of about the same size or one longer text.
  std::vector<size_t> begins;
  for (size_t i = 0, bytes = kTaskBytes; i < texts.count; ++i) {
    if (bytes >= kTaskBytes) {
      begins.push_back(i);
      bytes = 0;
    }
    bytes += texts[i].size();
  }
  std::vector<Encoded> parts(begins.size());
  begins.push_back(texts.count);
  // A thread must not throw, so what goes wrong is kept: the first malformed text, or the lack of memory.
  std::atomic<size_t> malformed{texts.count};
  std::atomic<bool> failed{false};
  {
    py::gil_scoped_release release;
    simd::parallel_for(static_cast<int>(threads), static_cast<int64_t>(parts.size()), [&](int64_t task) {
      try {
        std::unique_ptr<Encoder::State> state = encoder.borrow();
        Encoded& part = parts[static_cast<size_t>(task)];
        for (size_t i = begins[static_cast<size_t>(task)]; i < begins[static_cast<size_t>(task) + 1]; ++i) {
          if (bpe::malformed_at(texts[i]) < texts[i].size()) {
            for (size_t first = malformed; i < first && !malformed.compare_exchange_weak(first, i);) {
            }
            return encoder.give_back(std::move(state));
          }
          const size_t before = part.ids.size();
          encoder.encode(texts[i], *state, part.ids);
          part.counts.push_back(static_cast<int64_t>(part.ids.size() - before));
        }
        encoder.give_back(std::move(state));
      } catch (const std::exception&) {
        failed = true;
      }
    });
  }
  if (failed) throw std::bad_alloc();
  if (malformed < texts.count) check_utf8(texts, malformed);
  Offsets ends(static_cast<py::ssize_t>(texts.count + 1));
  int64_t* end = ends.mutable_data();
  *end = 0;
  for (const Encoded& part : parts) {
    for (const int64_t count : part.counts) {
      end[1] = end[0] + count;
      ++end;
    }
  }
  const auto total = static_cast<size_t>(*end);
  return py::make_tuple(narrow ? encoded_array<uint16_t>(parts, total) : encoded_array<uint32_t>(parts, total), ends);
}

// The words of a text: (words + 1,) places in bytes.
Offsets split(const std::string& pattern, const py::bytes& text) {
  const bpe::Splitter& splitter = parse_splitter(pattern);
  const std::string_view view(text);
  if (bpe::malformed_at(view) < view.size()) throw py::value_error("text: is not UTF-8");
  std::vector<int64_t> places{0};
  const char *p = view.data(), *const end = p + view.size();
  while (p < end) {
    p = splitter.next(p, end);
    places.push_back(p - view.data());
  }
  return Offsets(static_cast<py::ssize_t>(places.size()), places.data());
}

// A splitter, and the words that it has found.
struct Counter {
  const bpe::Splitter& splitter;
  size_t longest;
  bpe::WordCounts counts;
};

std::unique_ptr<Counter> make_counter(const std::string& pattern, int64_t longest) {
  check_positive(longest, "longest");
  return std::make_unique<Counter>(Counter{parse_splitter(pattern), static_cast<size_t>(longest), {}});
}

void count_texts(Counter& counter, const py::buffer& data, const Offsets& offsets, int64_t threads) {
  check_positive(threads, "threads");
  const TextBatch batch(data, offsets);
  const dedup::Texts& texts = batch.texts;
  for (size_t i = 0; i < texts.count; ++i) check_utf8(texts, i);
  std::vector<size_t> bounds;
  // One stretch of neighbouring texts for each thread, so that the words come together in the order of the texts.
  const int64_t first = texts.offsets[0], bytes = texts.offsets[texts.count] - first;
  for (size_t i = 0; i < texts.count && bounds.size() < static_cast<size_t>(threads); ++i) {
    if (texts.offsets[i] - first >= bytes / threads * static_cast<int64_t>(bounds.size())) bounds.push_back(i);
  }
  bounds.push_back(texts.count);
  std::vector<bpe::WordCounts> parts(bounds.size() - 1);
  // The first stretch is counted where everything comes together.
  const auto counts = [&](size_t part) -> bpe::WordCounts& { return part ? parts[part] : counter.counts; };
  std::atomic<bool> failed{false};
  {
    py::gil_scoped_release release;
    simd::parallel_for(static_cast<int>(threads), static_cast<int64_t>(parts.size()), [&](int64_t task) {
      const auto part = static_cast<size_t>(task);
      try {
        for (size_t i = bounds[part]; i < bounds[part + 1]; ++i) {
          bpe::count_words(texts[i], counter.splitter, counter.longest, counts(part));
        }
      } catch (const std::exception&) {
        failed = true;
      }
    });
    if (!failed) {
      for (size_t part = 1; part < parts.size(); ++part) counter.counts.add(parts[part]);
    }
  }
  if (failed) throw std::bad_alloc();
}

// The words end to end with their offsets, and how often each occurred.
py::tuple counted(const Counter& counter) {
  const bpe::WordCounts& counts = counter.counts;
  std::string bytes;
  bytes.reserve(counts.bytes());
  Offsets offsets(static_cast<py::ssize_t>(counts.size() + 1));
  py::array_t<int64_t> times(static_cast<py::ssize_t>(counts.size()));
  offsets.mutable_data()[0] = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    bytes += counts.word(i);
    offsets.mutable_data()[i + 1] = static_cast<int64_t>(bytes.size());
    times.mutable_data()[i] = static_cast<int64_t>(counts.count(i));
  }
  return py::make_tuple(py::bytes(bytes), offsets, times);
}

// Learns merges: the names of all tokens, those given first, and (merges, 3) uint32 of left, right and product.
py::tuple learn(const Merges& tokens, const Offsets& offsets, const Offsets& counts,
                const std::vector<py::bytes>& names, int64_t size, int64_t least) {
  check_positive(size, "size");
  check_positive(least, "least");
  if (tokens.ndim() != 1) throw py::value_error("tokens: must be one-dimensional");
  if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (words + 1,) int64");
  if (counts.ndim() != 1 || counts.size() != offsets.size() - 1)
    throw py::value_error("counts: must be (words,) int64");
  std::vector<std::string> known(names.begin(), names.end());
  bpe::CountedWords words;
  const int64_t* const at = offsets.data();
  for (py::ssize_t i = 0; i < counts.size(); ++i) {
    if (at[i] > at[i + 1]) throw py::value_error("offsets: must not fall");
    if (counts.data()[i] < 0) throw py::value_error("counts: one is negative");
  }
  if (at[0] != 0 || at[counts.size()] != tokens.size()) throw py::value_error("offsets: must be those of all tokens");
  for (py::ssize_t i = 0; i < tokens.size(); ++i) {
    if (tokens.data()[i] >= known.size()) throw py::value_error("tokens: one has no name");
  }
  words.tokens.assign(tokens.data(), tokens.data() + tokens.size());
  words.begins.assign(at, at + offsets.size());
  words.counts.assign(counts.data(), counts.data() + counts.size());
  std::vector<bpe::Merge> merges;
  Signals signals;
  {
    py::gil_scoped_release release;
    merges = bpe::learn(std::move(words), known, static_cast<size_t>(size), static_cast<uint64_t>(least),
                        [&signals] { return signals.raised(); });
  }
  signals.rethrow();
  py::list all;
  for (const std::string& name : known) all.append(py::bytes(name));
  Merges rows({static_cast<py::ssize_t>(merges.size()), py::ssize_t{3}});
  for (size_t i = 0; i < merges.size(); ++i) {
    uint32_t* const row = rows.mutable_data() + 3 * i;
    row[0] = merges[i].left;
    row[1] = merges[i].right;
    row[2] = merges[i].product;
  }
  return py::make_tuple(all, rows);
}

}  // namespace

void bind_bpe(py::module_& module) {
  py::class_<Encoder>(module, "Encoder", "Texts to ids; see csrc/bpe/encoder.h.")
      .def(py::init(&make_encoder), py::arg("pattern"), py::arg("bytes"), py::arg("merges"),
           py::arg("whole") = std::vector<std::pair<py::bytes, uint32_t>>())
      .def("encode", &encode, py::arg("data"), py::arg("offsets"), py::arg("threads") = 1, py::arg("narrow") = false);
  py::class_<Counter>(module, "Counter", "Counts words; see csrc/bpe/count.h.")
      .def(py::init(&make_counter), py::arg("pattern"), py::arg("longest"))
      .def("add", &count_texts, py::arg("data"), py::arg("offsets"), py::arg("threads") = 1)
      .def("words", &counted)
      .def("__len__", [](const Counter& counter) { return counter.counts.size(); });
  module.def("learn", &learn, py::arg("tokens"), py::arg("offsets"), py::arg("counts"), py::arg("names"),
             py::arg("size"), py::arg("least"));
  module.def("split", &split, py::arg("pattern"), py::arg("text"));
}

}  // namespace codeshell::bindings
