// Training of the n-gram language model (csrc/ngram): its units, its vocabulary and its counts.
#include <pybind11/stl.h>

#include <memory>

#include "bindings/buffers.h"
#include "bindings/quality.h"
#include "bindings/signals.h"
#include "ngram/arpa.h"
#include "ngram/trainer.h"
#include "ngram/units.h"
#include "ngram/vocabulary.h"
#include "ngram/writer.h"

namespace codeshell::bindings {

namespace {

using ngram::Trainer;
using ngram::Units;
using ngram::WordCounter;
using Ids = py::array_t<uint32_t, py::array::c_style>;

ngram::UnitKind parse_kind(const std::string& name) {
  if (name == "lexical") return ngram::UnitKind::lexical;
  if (name == "bpe") return ngram::UnitKind::bpe;
  if (name == "bytes") return ngram::UnitKind::bytes;
  if (name == "words") return ngram::UnitKind::words;
  throw py::value_error("kind: \"" + name + "\" is none; give lexical, bpe, bytes or words");
}

std::string kind_name(const Units& units) {
  constexpr const char* names[] = {"lexical", "bpe", "bytes", "words"};
  return names[static_cast<int>(units.kind())];
}

std::shared_ptr<Units> make_units(const std::string& kind, const std::vector<py::bytes>& words,
                                  const py::bytes& extra) {
  std::vector<std::string> copied(words.begin(), words.end());
  return std::make_shared<Units>(parse_kind(kind), std::move(copied), std::string(extra));
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

// Ids of several texts, and where each text's begin: (units,) uint32 and (texts + 1,) int64.
py::tuple encode(const Units& units, const py::buffer& data, const Offsets& offsets) {
  const TextBatch batch(data, offsets);
  if (!units.encodes()) throw py::value_error("units: BPE ids are made by the tokenizer");
  std::vector<uint32_t> ids;
  std::vector<int64_t> begins{0};
  {
    py::gil_scoped_release release;
    for (size_t i = 0; i < batch.texts.count; ++i) {
      units.encode(batch.texts[i], ids);
      begins.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  return py::make_tuple(Ids(static_cast<py::ssize_t>(ids.size()), ids.data()), array_of(begins));
}

// The same of one text, and where each unit lies: (units, 2) int64.
py::tuple encode_spans(const Units& units, const py::bytes& text) {
  if (!units.encodes()) throw py::value_error("units: BPE ids are made by the tokenizer");
  std::vector<uint32_t> ids;
  std::vector<ngram::Span> spans;
  units.encode(std::string_view(text), ids, &spans);
  py::array_t<int64_t> places({static_cast<py::ssize_t>(spans.size()), py::ssize_t{2}});
  for (size_t i = 0; i < spans.size(); ++i) {
    places.mutable_data()[2 * i] = static_cast<int64_t>(spans[i].begin);
    places.mutable_data()[2 * i + 1] = static_cast<int64_t>(spans[i].end);
  }
  return py::make_tuple(Ids(static_cast<py::ssize_t>(ids.size()), ids.data()), places);
}

// Calls work(stop) without the GIL. A signal whose handler raises ends it.
template <class Work>
auto interruptible(const Work& work) {
  Signals signals;
  const auto result = [&] {
    py::gil_scoped_release release;
    return work([&signals] { return signals.raised(); });
  }();
  signals.rethrow();
  return result;
}

void check_memory(int64_t memory) {
  if (memory < 1 << 20) throw py::value_error("memory: less than a megabyte");
}

std::unique_ptr<WordCounter> make_counter(int64_t threads, int64_t memory, const std::string& folder) {
  check_positive(threads, "threads");
  check_memory(memory);
  return std::make_unique<WordCounter>(static_cast<unsigned>(threads), static_cast<size_t>(memory), folder);
}

py::dict commonest(WordCounter& counter, int64_t most, int64_t least) {
  if (most < 0) throw py::value_error("most: negative");
  check_positive(least, "least");
  ngram::CommonWords found;
  {
    py::gil_scoped_release release;
    found = counter.commonest(static_cast<size_t>(most), static_cast<uint64_t>(least));
  }
  py::list words;
  for (const std::string& word : found.words) words.append(py::bytes(word));
  py::dict result;
  result["words"] = words;
  result["types"] = found.types;
  result["occurrences"] = found.occurrences;
  result["covered"] = found.covered;
  return result;
}

// A trainer, its units, and what its counts say.
struct Training {
  std::shared_ptr<Units> units;
  std::unique_ptr<Trainer> trainer;
  std::vector<ngram::OrderSummary> summaries;
  bool emitted = false;
};

std::unique_ptr<Training> make_trainer(std::shared_ptr<Units> units, int64_t order, std::vector<uint64_t> prune,
                                       int64_t memory, int64_t threads, const std::string& folder) {
  check_positive(order, "order");
  check_positive(threads, "threads");
  check_memory(memory);
  ngram::TrainOptions options;
  options.order = static_cast<int>(order);
  options.prune = std::move(prune);
  options.memory = static_cast<size_t>(memory);
  options.threads = static_cast<unsigned>(threads);
  options.folder = folder;
  auto training = std::make_unique<Training>();
  training->trainer = Trainer::make(units, options);
  training->units = std::move(units);
  return training;
}

void check_counting(const Training& training) {
  if (!training.summaries.empty()) throw py::value_error("the counts are finished: nothing can be added");
}

void add_texts(Training& training, const py::buffer& data, const Offsets& offsets) {
  check_counting(training);
  const TextBatch batch(data, offsets);
  if (!training.units->encodes()) throw py::value_error("units: give ids of the tokenizer to add_ids");
  interruptible([&](const dedup::Stop& stop) { return training.trainer->add(batch.texts, stop); });
}

void add_ids(Training& training, const Ids& ids, const Offsets& offsets) {
  check_counting(training);
  if (ids.ndim() != 1) throw py::value_error("ids: must be one-dimensional");
  if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (texts + 1,) int64");
  const auto count = static_cast<size_t>(offsets.size() - 1);
  const int64_t* const at = offsets.data();
  if (at[0] < 0 || at[count] > ids.size()) throw py::value_error("offsets: beyond the ids");
  for (size_t i = 0; i < count; ++i) {
    if (at[i] > at[i + 1]) throw py::value_error("offsets: must not fall");
  }
  interruptible([&](const dedup::Stop& stop) { return training.trainer->add(ids.data(), at, count, stop); });
}

py::list estimate(Training& training) {
  check_counting(training);
  if (!training.trainer->documents()) throw py::value_error("nothing was added");
  training.summaries = interruptible([&](const dedup::Stop& stop) { return training.trainer->estimate(stop); });
  py::list orders;
  for (const ngram::OrderSummary& summary : training.summaries) {
    py::dict order;
    order["ngrams"] = summary.ngrams;
    order["kept"] = summary.kept;
    order["counts"] = std::vector<uint64_t>(summary.with_count.begin() + 1, summary.with_count.end());
    order["discounts"] = std::vector<double>(summary.discount.begin() + 1, summary.discount.end());
    order["fallback"] = summary.fallback;
    orders.append(order);
  }
  return orders;
}

// A writer of n-grams as the trainer sees it: the model's, the ARPA file's, or both. ARPA files have only the unigrams
// that occurred.
class Sinks final : public ngram::Sink {
 public:
  Sinks(ngram::ModelWriter* model, ngram::ArpaWriter* arpa) : model_(model), arpa_(arpa) {}
  void add(int order, const uint32_t* words, bool seen, float probability, float backoff) override {
    const auto length = static_cast<uint32_t>(order);
    if (model_) model_->add(length, words, probability, backoff);
    if (arpa_ && seen) arpa_->add(length, words, probability, backoff);
  }

 private:
  ngram::ModelWriter* model_;
  ngram::ArpaWriter* arpa_;
};

void write(Training& training, const std::string& model_path, const std::string& arpa_path, const std::string& metadata,
           const ngram::WriterOptions& options) {
  if (training.summaries.empty()) throw py::value_error("estimate first");
  if (training.emitted) throw py::value_error("the n-grams are written already");
  training.emitted = true;
  const Units& units = *training.units;
  std::vector<uint64_t> counts;
  for (const ngram::OrderSummary& summary : training.summaries) counts.push_back(summary.kept);
  interruptible([&](const dedup::Stop& stop) {
    std::unique_ptr<ngram::ArpaWriter> arpa;
    if (!arpa_path.empty()) {
      arpa = std::make_unique<ngram::ArpaWriter>(arpa_path, counts, [&units](uint32_t id) { return units.word(id); });
    }
    std::unique_ptr<ngram::ModelWriter> model;
    if (!model_path.empty()) {
      std::vector<uint64_t> all = counts;
      all[0] = units.size();
      model = std::make_unique<ngram::ModelWriter>(model_path, static_cast<uint32_t>(counts.size()), all,
                                                   units.serialize(), metadata, options);
    }
    Sinks sinks(model.get(), arpa.get());
    if (!training.trainer->emit(sinks, stop)) return false;
    if (model) model->finish();
    if (arpa) arpa->finish();
    return true;
  });
}

}  // namespace

void bind_ngram_train(py::module_& module) {
  py::class_<Units, std::shared_ptr<Units>>(module, "Units", "What a text is cut into; see csrc/ngram/units.h.")
      .def(py::init(&make_units), py::arg("kind"), py::arg("words") = std::vector<py::bytes>(),
           py::arg("extra") = py::bytes())
      .def_static(
          "deserialize",
          [](const py::bytes& blob) { return std::make_shared<Units>(Units::deserialize(std::string_view(blob))); },
          py::arg("blob"))
      .def("serialize", [](const Units& units) { return py::bytes(units.serialize()); })
      .def(py::pickle(
          [](const Units& units) { return py::bytes(units.serialize()); },
          [](const py::bytes& blob) { return std::make_shared<Units>(Units::deserialize(std::string_view(blob))); }))
      .def("__len__", &Units::size)
      .def_property_readonly("kind", &kind_name)
      .def_property_readonly("extra", [](const Units& units) { return py::bytes(units.extra()); })
      .def_static(
          "fixed", [](const std::string& kind) { return Units::fixed_count(parse_kind(kind)); }, py::arg("kind"))
      .def(
          "word",
          [](const Units& units, uint32_t id) {
            if (id >= units.size()) throw py::index_error("id: beyond the vocabulary");
            return units.word(id);
          },
          py::arg("id"))
      .def("encode", &encode, py::arg("data"), py::arg("offsets"))
      .def("encode_spans", &encode_spans, py::arg("text"));

  py::class_<WordCounter>(module, "WordCounter", "Counts words; see csrc/ngram/vocabulary.h.")
      .def(py::init(&make_counter), py::arg("threads"), py::arg("memory"), py::arg("folder"))
      .def(
          "add",
          [](WordCounter& counter, const py::buffer& data, const Offsets& offsets) {
            const TextBatch batch(data, offsets);
            interruptible([&](const dedup::Stop& stop) { return counter.add(batch.texts, stop); });
          },
          py::arg("data"), py::arg("offsets"))
      .def("commonest", &commonest, py::arg("most"), py::arg("least"));

  py::class_<Training>(module, "Trainer", "Counts n-grams and estimates a model; see csrc/ngram/trainer.h.")
      .def(py::init(&make_trainer), py::arg("units"), py::arg("order"), py::arg("prune"), py::arg("memory"),
           py::arg("threads"), py::arg("folder"))
      .def("add", &add_texts, py::arg("data"), py::arg("offsets"))
      .def("add_ids", &add_ids, py::arg("ids"), py::arg("offsets"))
      .def("estimate", &estimate)
      .def("write", &write, py::arg("model"), py::arg("arpa"), py::arg("metadata"), py::arg("options"))
      .def_property_readonly("documents", [](const Training& training) { return training.trainer->documents(); })
      .def_property_readonly("tokens", [](const Training& training) { return training.trainer->tokens(); })
      .def_property_readonly("spilled", [](const Training& training) { return training.trainer->spilled(); });
}

}  // namespace codeshell::bindings
