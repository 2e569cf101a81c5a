// The n-gram language model: its file and its scores (csrc/ngram).
#include <pybind11/stl.h>

#include <optional>
#include <system_error>

#include "bindings/buffers.h"
#include "bindings/quality.h"
#include "ngram/arpa.h"
#include "ngram/kenlm.h"
#include "ngram/score_texts.h"

namespace codeshell::bindings {

namespace {

using ngram::Ends;
using ngram::TextModel;
using ngram::TextScore;

std::unique_ptr<TextModel> open_model(const std::string& path, bool copied) {
  try {
    py::gil_scoped_release release;
    return std::make_unique<TextModel>(path, copied ? ngram::Model::Memory::copied : ngram::Model::Memory::mapped);
  } catch (const ngram::ModelError& error) {
    throw std::invalid_argument(error.message);
  }
}

void convert_kenlm(const std::string& path, const std::string& output, const std::string& metadata,
                   const ngram::WriterOptions& options) {
  try {
    py::gil_scoped_release release;
    ngram::convert_kenlm(path, output, metadata, options);
  } catch (const ngram::ModelError& error) {
    throw std::invalid_argument(error.message);
  }
}

// {"units": (rows, texts) int64, "unknown": int64, "log10": float64}.
py::dict as_arrays(const std::vector<TextScore>& scores, size_t rows, size_t count) {
  const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(count)};
  py::array_t<int64_t> units(shape), unknown(shape);
  py::array_t<double> log10(shape);
  for (size_t i = 0; i < scores.size(); ++i) {
    units.mutable_data()[i] = scores[i].units;
    unknown.mutable_data()[i] = scores[i].unknown;
    log10.mutable_data()[i] = scores[i].log10;
  }
  py::dict result;
  result["units"] = units;
  result["unknown"] = unknown;
  result["log10"] = log10;
  return result;
}

void check_encodes(const TextModel& model) {
  if (!model.units().encodes()) throw py::value_error("models: one takes ids of a tokenizer and no text");
}

py::dict score_texts(const std::vector<const TextModel*>& models, const py::buffer& data, const Offsets& offsets,
                     bool begin, bool end, int64_t threads, const std::optional<Offsets>& rows) {
  check_positive(threads, "threads");
  const TextBatch batch(data, offsets);
  for (const TextModel* model : models) {
    if (!model) throw py::value_error("models: None among them");
    check_encodes(*model);
  }
  size_t count = batch.texts.count;
  if (rows) {
    if (rows->ndim() != 1) throw py::value_error("rows: must be one-dimensional");
    for (py::ssize_t i = 0; i < rows->size(); ++i) {
      if (rows->at(i) < 0 || static_cast<size_t>(rows->at(i)) >= batch.texts.count) {
        throw py::value_error("rows: beyond the texts");
      }
    }
    count = static_cast<size_t>(rows->size());
  }
  const int64_t* const chosen = rows ? rows->data() : nullptr;
  std::vector<TextScore> scores(models.size() * count);
  {
    py::gil_scoped_release release;
    ngram::score_texts(models, batch.texts.data, batch.texts.offsets, chosen, count, {begin, end},
                       static_cast<int>(threads), scores.data());
  }
  return as_arrays(scores, models.size(), count);
}

py::dict score_ids(const TextModel& model, const py::array_t<uint32_t, py::array::c_style>& ids, const Offsets& offsets,
                   bool begin, bool end) {
  if (ids.ndim() != 1) throw py::value_error("ids: must be one-dimensional");
  if (offsets.ndim() != 1 || offsets.size() < 1) throw py::value_error("offsets: must be (texts + 1,) int64");
  const auto count = static_cast<size_t>(offsets.size() - 1);
  const int64_t* const at = offsets.data();
  if (at[0] < 0 || at[count] > ids.size()) throw py::value_error("offsets: beyond the ids");
  for (size_t i = 0; i < count; ++i) {
    if (at[i] > at[i + 1]) throw py::value_error("offsets: must not fall");
  }
  std::vector<TextScore> scores(count);
  {
    py::gil_scoped_release release;
    ngram::score_ids(model, ids.data(), at, count, {begin, end}, scores.data());
  }
  return as_arrays(scores, 1, count);
}

// Arrays (words,): `id` and `length` uint32, `log10` float64, `begin` and `end` int64 in bytes.
py::dict each_as_arrays(const std::vector<ngram::WordScore>& scores) {
  const auto count = static_cast<py::ssize_t>(scores.size());
  py::array_t<uint32_t> id(count), length(count);
  py::array_t<double> log10(count);
  py::array_t<int64_t> from(count), to(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const ngram::WordScore& score = scores[static_cast<size_t>(i)];
    id.mutable_data()[i] = score.id;
    length.mutable_data()[i] = score.length;
    log10.mutable_data()[i] = score.log10;
    from.mutable_data()[i] = static_cast<int64_t>(score.span.begin);
    to.mutable_data()[i] = static_cast<int64_t>(score.span.end);
  }
  py::dict result;
  result["id"] = id;
  result["length"] = length;
  result["log10"] = log10;
  result["begin"] = from;
  result["end"] = to;
  return result;
}

py::dict score_each(const TextModel& model, const py::buffer& data, bool begin, bool end) {
  check_encodes(model);
  const py::buffer_info bytes = data.request();
  if (bytes.ndim != 1 || bytes.itemsize != 1) throw py::value_error("data: must be a one-dimensional buffer of bytes");
  std::vector<ngram::WordScore> scores;
  {
    py::gil_scoped_release release;
    scores = ngram::score_each(model, {static_cast<const char*>(bytes.ptr), static_cast<size_t>(bytes.size)},
                               Ends{begin, end});
  }
  return each_as_arrays(scores);
}

py::dict score_each_id(const TextModel& model, const py::array_t<uint32_t, py::array::c_style>& ids, bool begin,
                       bool end) {
  if (ids.ndim() != 1) throw py::value_error("ids: must be one-dimensional");
  const std::vector<uint32_t> words(ids.data(), ids.data() + ids.size());
  std::vector<ngram::WordScore> scores;
  {
    py::gil_scoped_release release;
    scores = ngram::score_each(model, words, Ends{begin, end});
  }
  return each_as_arrays(scores);
}

// A word of a foreign file may be any bytes.
py::object shown_word(const TextModel& model, uint32_t id) {
  return py::bytes(model.units().word(id)).attr("decode")("utf-8", "backslashreplace");
}

py::dict describe(const TextModel& text_model) {
  const ngram::Header& header = text_model.model().header();
  py::list entries, bytes;
  for (uint32_t k = 0; k < header.order; ++k) {
    entries.append(header.tables[k].entries);
    bytes.append(header.tables[k].part.bytes);
  }
  py::dict result;
  result["order"] = header.order;
  result["entries"] = entries;
  result["table_bytes"] = bytes;
  result["file_bytes"] = header.file_bytes;
  result["vocabulary"] = header.vocabulary;
  result["unit_bytes"] = header.units.bytes;
  result["quantised"] = text_model.model().coded();
  result["suffix_closed"] = text_model.model().closed();
  result["keeps_words"] = (header.flags & ngram::keeps_words) != 0;
  result["kind"] = static_cast<int>(text_model.units().kind());
  return result;
}

// An OSError with its number and file, so that Python can say what to do about it.
void raise_os_error(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const std::system_error& error) {
    if (error.code().category() != std::generic_category()) throw;
    // what() is "file: reason".
    const std::string what = error.what();
    const size_t colon = what.rfind(": ");
    const py::object arguments =
        py::make_tuple(error.code().value(), error.code().message(),
                       py::bytes(what.substr(0, colon)).attr("decode")("utf-8", "surrogateescape"));
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
}

}  // namespace

void bind_ngram_model(py::module_& module) {
  py::register_local_exception_translator(&raise_os_error);
  py::class_<TextModel>(module, "Model", "A model file with what makes ids of a text; see csrc/ngram/score_texts.h.")
      .def(py::init(&open_model), py::arg("path"), py::arg("copied"))
      .def("describe", &describe)
      .def_property_readonly("metadata", [](const TextModel& model) { return py::bytes(model.model().metadata()); })
      .def_property_readonly("units", [](const TextModel& model) { return model.shared_units(); })
      .def("words",
           [](const TextModel& model) {
             py::list words;
             for (uint32_t id = 0; id < model.units().size(); ++id) words.append(shown_word(model, id));
             return words;
           })
      .def("word",
           [](const TextModel& model, uint32_t id) {
             if (id >= model.units().size()) throw py::index_error("id: beyond the vocabulary");
             return shown_word(model, id);
           })
      .def("score_ids", &score_ids, py::arg("ids"), py::arg("offsets"), py::arg("begin"), py::arg("end"))
      .def("score_each", &score_each, py::arg("data"), py::arg("begin"), py::arg("end"))
      .def("score_each_id", &score_each_id, py::arg("ids"), py::arg("begin"), py::arg("end"))
      .def("write_arpa", &ngram::write_arpa, py::arg("path"), py::call_guard<py::gil_scoped_release>());
  module.def("score_texts", &score_texts, py::arg("models"), py::arg("data"), py::arg("offsets"), py::arg("begin"),
             py::arg("end"), py::arg("threads"), py::arg("rows") = py::none());

  module.def("convert_kenlm", &convert_kenlm, py::arg("path"), py::arg("output"), py::arg("metadata"),
             py::arg("options"));

  py::class_<ngram::WriterOptions>(module, "WriterOptions", "How a model is written; see csrc/ngram/writer.h.")
      .def(py::init<>())
      .def_readwrite("quantise", &ngram::WriterOptions::quantise)
      .def_readwrite("load", &ngram::WriterOptions::load)
      .def_readwrite("keep_words", &ngram::WriterOptions::keep_words)
      .def_readwrite("memory_bytes", &ngram::WriterOptions::memory_bytes);
  py::class_<ngram::ArpaReader>(module, "ArpaReader", "Turns an ARPA file into a model file; see csrc/ngram/arpa.h.")
      .def(py::init<std::string, std::string, const ngram::WriterOptions&>(), py::arg("output"), py::arg("metadata"),
           py::arg("options"))
      .def(
          "feed",
          [](ngram::ArpaReader& reader, const py::buffer& piece) {
            const py::buffer_info bytes = piece.request();
            if (bytes.ndim != 1 || bytes.itemsize != 1) throw py::value_error("piece: must be bytes");
            py::gil_scoped_release release;
            reader.feed({static_cast<const char*>(bytes.ptr), static_cast<size_t>(bytes.size)});
          },
          py::arg("piece"))
      .def("finish", &ngram::ArpaReader::finish, py::call_guard<py::gil_scoped_release>());
}

}  // namespace codeshell::bindings
