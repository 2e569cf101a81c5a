// Measures of code that need its tokens, not its syntax tree: csrc/text/lexical.h and imports.h.
#include "text/lexical.h"

#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings/buffers.h"
#include "bindings/quality.h"
#include "text/imports.h"
#include "text/lexis.h"

namespace codeshell::bindings {

namespace {

using text::Lexis;

// The value called `name` of a table of names; ValueError for any other.
template <typename Value, size_t count>
Value named(const std::pair<std::string_view, Value> (&table)[count], std::string_view name, const char* what) {
  for (const auto& [key, value] : table) {
    if (key == name) return value;
  }
  throw py::value_error(std::string(what) + ": '" + std::string(name) + "' is not known");
}

constexpr std::pair<std::string_view, text::Marker::Kind> marker_kinds[] = {
    {"line", text::Marker::Kind::line_comment},     {"block", text::Marker::Kind::block_comment},
    {"nested", text::Marker::Kind::nested_comment}, {"string", text::Marker::Kind::string},
    {"long", text::Marker::Kind::long_string},      {"raw", text::Marker::Kind::raw_string},
    {"char", text::Marker::Kind::character},        {"cpp", text::Marker::Kind::raw_cpp},
    {"rust", text::Marker::Kind::raw_rust},         {"lua", text::Marker::Kind::raw_lua},
    {"regex", text::Marker::Kind::regex},           {"heredoc", text::Marker::Kind::heredoc}};

constexpr std::pair<std::string_view, text::Annotations> annotation_forms[] = {
    {"none", text::Annotations::none},
    {"python", text::Annotations::python},
    {"typescript", text::Annotations::typescript}};

constexpr std::pair<std::string_view, text::Catches> catch_forms[] = {
    {"none", text::Catches::none}, {"indented", text::Catches::indented}, {"braces", text::Catches::braces}};

constexpr std::pair<std::string_view, text::Imports> import_forms[] = {
    {"none", text::Imports::none},     {"python", text::Imports::python}, {"javascript", text::Imports::javascript},
    {"dotted", text::Imports::dotted}, {"go", text::Imports::go},         {"rust", text::Imports::rust},
    {"c", text::Imports::c},           {"php", text::Imports::php},       {"ruby", text::Imports::ruby},
    {"perl", text::Imports::perl},     {"lua", text::Imports::lua},       {"r", text::Imports::r},
    {"julia", text::Imports::julia},   {"dart", text::Imports::dart},     {"haskell", text::Imports::haskell}};

constexpr std::pair<std::string_view, uint32_t> word_classes[] = {
    {"function", text::keyword | text::kw_function},
    {"class", text::keyword | text::kw_class},
    {"return", text::keyword | text::kw_return},
    {"branch", text::keyword | text::kw_branch},
    {"loop", text::keyword | text::kw_loop},
    {"error", text::keyword | text::kw_error},
    {"catch", text::keyword | text::kw_error | text::kw_catch},
    {"import", text::keyword | text::kw_import},
    {"goto", text::keyword | text::kw_goto},
    {"and_or", text::keyword | text::kw_and_or},
    {"pass", text::keyword | text::kw_pass},
    {"keyword", text::keyword},
    {"declares", text::keyword | text::declares},
    {"imports", text::kw_import},
    {"print", text::print},
    {"reads", text::reads},
    {"asserts", text::asserts},
    {"risky", text::risky}};

// (open, close, kind, documents, only at a line's beginning, only after a blank)
using MarkerArguments = std::tuple<std::string, std::string, std::string, bool, bool, bool>;

std::unique_ptr<Lexis> make_lexis(const std::vector<MarkerArguments>& markers,
                                  const std::vector<std::pair<std::string, std::string>>& words,
                                  const std::string& letters, bool prefixes, bool docstrings,
                                  const std::string& annotations, const std::string& catches,
                                  const std::string& imports, int64_t line_limit) {
  auto lexis = std::make_unique<Lexis>();
  check_positive(line_limit, "line_limit");
  if (markers.size() > 1000) throw py::value_error("markers: more than 1,000");
  for (const auto& [open, close, kind, doc, first, after_blank] : markers) {
    if (open.empty()) throw py::value_error("markers: an empty one would begin everywhere");
    text::Marker marker{open, close, named(marker_kinds, kind, "markers"), doc, first, after_blank};
    const bool closes = marker.kind == text::Marker::Kind::block_comment ||
                        marker.kind == text::Marker::Kind::nested_comment ||
                        marker.kind == text::Marker::Kind::string || marker.kind == text::Marker::Kind::long_string ||
                        marker.kind == text::Marker::Kind::raw_string;
    if (closes && close.empty()) throw py::value_error("markers: '" + open + "' has no closing mark");
    lexis->markers.push_back(std::move(marker));
  }
  for (const auto& [word, name] : words) {
    const bool called = word.ends_with('(');
    const std::string plain = called ? word.substr(0, word.size() - 1) : word;
    if (plain.empty()) throw py::value_error("words: an empty one");
    const uint32_t bits = named(word_classes, name, "words");
    if (bits & text::kw_import) lexis->import_words.push_back(plain.substr(plain.rfind('.') + 1));
    lexis->words.add(plain, called ? (bits & ~text::keyword) | text::called : bits);
  }
  lexis->prefixes = prefixes;
  lexis->docstrings = docstrings;
  lexis->annotations = named(annotation_forms, annotations, "annotations");
  lexis->catches = named(catch_forms, catches, "catches");
  lexis->imports = named(import_forms, imports, "imports");
  lexis->line_limit = line_limit;
  lexis->finish(letters);
  return lexis;
}

using Which = py::array_t<int32_t, py::array::c_style>;

// The lexis of each text, checked.
std::vector<const Lexis*> choose(const std::vector<const Lexis*>& lexes, const Which& which, size_t count) {
  if (which.ndim() != 1 || static_cast<size_t>(which.size()) != count) {
    throw py::value_error("which: must be (texts,) int32");
  }
  std::vector<const Lexis*> chosen(count);
  for (size_t i = 0; i < count; ++i) {
    const int32_t index = which.data()[i];
    if (index < 0 || static_cast<size_t>(index) >= lexes.size()) throw py::value_error("which: beyond the languages");
    chosen[i] = lexes[static_cast<size_t>(index)];
    if (!chosen[i]) throw py::value_error("lexes: none of them may be None");
  }
  return chosen;
}

// (columns, texts) float64.
py::array_t<double> measure(const py::buffer& data, const Offsets& offsets, const std::vector<const Lexis*>& lexes,
                            const Which& which) {
  const TextBatch batch(data, offsets);
  const size_t count = batch.texts.count;
  const auto chosen = choose(lexes, which, count);
  constexpr size_t columns = text::lexical_columns.size();
  py::array_t<double> result({columns, count});
  double* const out = result.mutable_data();
  {
    py::gil_scoped_release release;
    text::Scratch scratch;
    text::Row row;
    for (size_t i = 0; i < count; ++i) {
      const int64_t begin = batch.texts.offsets[i];
      text::measure_lexical(*chosen[i], batch.texts.data + begin,
                            static_cast<size_t>(batch.texts.offsets[i + 1] - begin), scratch, row);
      for (size_t c = 0; c < columns; ++c) out[c * count + i] = row[c];
    }
  }
  return result;
}

// Names end to end as bytes, (names + 1,) offsets, (names,) kinds, (texts,) how many each text has.
py::tuple import_arrays(const text::ImportList& list, py::array_t<int64_t> counts) {
  py::array_t<int64_t> bounds(static_cast<py::ssize_t>(list.ends.size() + 1));
  bounds.mutable_data()[0] = 0;
  std::copy(list.ends.begin(), list.ends.end(), bounds.mutable_data() + 1);
  py::array_t<uint8_t> kinds(static_cast<py::ssize_t>(list.kinds.size()));
  std::copy(list.kinds.begin(), list.kinds.end(), kinds.mutable_data());
  return py::make_tuple(py::bytes(list.text), bounds, kinds, std::move(counts));
}

// The results of `measure` and of `imports`.
py::tuple measure_with_imports(const py::buffer& data, const Offsets& offsets, const std::vector<const Lexis*>& lexes,
                               const Which& which) {
  const TextBatch batch(data, offsets);
  const size_t count = batch.texts.count;
  const auto chosen = choose(lexes, which, count);
  constexpr size_t columns = text::lexical_columns.size();
  py::array_t<double> result({columns, count});
  double* const out = result.mutable_data();
  py::array_t<int64_t> counts(static_cast<py::ssize_t>(count));
  int64_t* const imported = counts.mutable_data();
  text::ImportList list;
  {
    py::gil_scoped_release release;
    text::Scratch scratch;
    text::Row row;
    for (size_t i = 0; i < count; ++i) {
      const int64_t begin = batch.texts.offsets[i];
      const size_t before = list.ends.size();
      text::measure_with_imports(*chosen[i], batch.texts.data + begin,
                                 static_cast<size_t>(batch.texts.offsets[i + 1] - begin), scratch, row, list);
      for (size_t c = 0; c < columns; ++c) out[c * count + i] = row[c];
      imported[i] = static_cast<int64_t>(list.ends.size() - before);
    }
  }
  return py::make_tuple(std::move(result), import_arrays(list, std::move(counts)));
}

py::tuple imports(const py::buffer& data, const Offsets& offsets, const std::vector<const Lexis*>& lexes,
                  const Which& which) {
  const TextBatch batch(data, offsets);
  const size_t count = batch.texts.count;
  const auto chosen = choose(lexes, which, count);
  py::array_t<int64_t> counts(static_cast<py::ssize_t>(count));
  int64_t* const out = counts.mutable_data();
  text::ImportList list;
  {
    py::gil_scoped_release release;
    text::Scratch scratch;
    for (size_t i = 0; i < count; ++i) {
      const int64_t begin = batch.texts.offsets[i];
      const size_t before = list.ends.size();
      text::find_imports(*chosen[i], batch.texts.data + begin, static_cast<size_t>(batch.texts.offsets[i + 1] - begin),
                         scratch, list);
      out[i] = static_cast<int64_t>(list.ends.size() - before);
    }
  }
  return import_arrays(list, std::move(counts));
}

}  // namespace

void bind_lexical(py::module_& module) {
  py::class_<Lexis>(module, "Lexis", "What the lexer knows of a language; see csrc/text/lexis.h.")
      .def(py::init(&make_lexis), py::arg("markers"), py::arg("words"), py::arg("letters") = "",
           py::arg("prefixes") = false, py::arg("docstrings") = false, py::arg("annotations") = "none",
           py::arg("catches") = "none", py::arg("imports") = "none", py::arg("line_limit") = 100);
  py::list names;
  for (const char* name : text::lexical_columns) names.append(name);
  module.attr("columns") = py::tuple(names);
  module.def("measure", &measure, py::arg("data"), py::arg("offsets"), py::arg("lexes"), py::arg("which"),
             "The columns of every text, (columns, texts) float64; text i is in the language lexes[which[i]].");
  module.def("measure_with_imports", &measure_with_imports, py::arg("data"), py::arg("offsets"), py::arg("lexes"),
             py::arg("which"), "What `measure` and `imports` return, from one walk over the texts.");
  module.def(
      "imports", &imports, py::arg("data"), py::arg("offsets"), py::arg("lexes"), py::arg("which"),
      "The modules that the texts import: names as bytes, their offsets, their kinds, and how many each text has.");
}

}  // namespace codeshell::bindings
