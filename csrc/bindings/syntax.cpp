// Metrics of syntax trees: csrc/syntax. Without tree-sitter in the build only `built` is there, and it is false.
#include "bindings/buffers.h"
#include "bindings/quality.h"

#if defined(CODESHELL_WITH_SYNTAX)

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "syntax/measure.h"

namespace codeshell::bindings {

namespace {

// A grammar with its table, and what it needs to measure texts. One text at a time: calls from several threads wait.
class Language {
 public:
  Language(const py::object& language, const std::map<std::string, std::vector<size_t>>& kinds,
           const std::map<std::string, uint8_t>& conventions)
      : grammar_(address(language)), measurer_(grammar_) {
    for (const auto& [word, symbols] : kinds) {
      const syntax::Kinds bits = syntax::kind(word);
      if (!bits) throw py::value_error("kinds: no word " + word);
      for (const size_t symbol : symbols) {
        if (symbol >= grammar_.symbols().size()) throw py::value_error("kinds: no symbol " + std::to_string(symbol));
        grammar_.add_kinds(symbol, bits);
      }
    }
    measurer_.prepare();
    constexpr const char* roles[] = {"", "function", "type", "variable", "parameter"};
    for (const auto& [role, styles] : conventions) {
      bool known = false;
      for (int i = 1; i < 5; ++i) {
        if (role != roles[i]) continue;
        measurer_.conventions.styles[i] = styles;
        known = true;
      }
      if (!known) throw py::value_error("conventions: no role " + role);
    }
  }

  // (name, named) of each symbol of the grammar; an empty name for what no tree shows.
  static std::vector<std::pair<std::string, bool>> symbols(const py::object& language) {
    std::vector<std::pair<std::string, bool>> names;
    const syntax::Grammar grammar(address(language));
    for (const auto& symbol : grammar.symbols()) names.emplace_back(symbol.name, symbol.named);
    return names;
  }

  // Arrays (texts,) by name, and `measured` bool: false for what is longer than `bytes`, or took more than `effort` times
  // the usual budget.
  py::dict measure(const py::buffer& data, const Offsets& offsets, uint64_t bytes, double effort) {
    const TextBatch batch(data, offsets);
    const auto count = static_cast<py::ssize_t>(batch.texts.count);
    using Column = std::pair<const char*, int64_t syntax::Metrics::*>;
    using M = syntax::Metrics;
    constexpr Column columns[] = {{"tokens_bytes", &M::tokens_bytes},
                                  {"error_bytes", &M::error_bytes},
                                  {"error_nodes", &M::error_nodes},
                                  {"functions", &M::functions},
                                  {"types", &M::types},
                                  {"cyclomatic_max", &M::cyclomatic_max},
                                  {"cyclomatic_sum", &M::cyclomatic_sum},
                                  {"cognitive_max", &M::cognitive_max},
                                  {"cognitive_sum", &M::cognitive_sum},
                                  {"nesting_max", &M::nesting_max},
                                  {"operators", &M::operators},
                                  {"operands", &M::operands},
                                  {"distinct_operators", &M::distinct_operators},
                                  {"distinct_operands", &M::distinct_operands},
                                  {"statements", &M::statements},
                                  {"declarations", &M::declarations},
                                  {"imports", &M::imports},
                                  {"decisions", &M::decisions},
                                  {"code_lines", &M::code_lines},
                                  {"documented", &M::documented},
                                  {"function_lines_max", &M::function_lines_max},
                                  {"parameters_max", &M::parameters_max},
                                  {"empty_catches", &M::empty_catches},
                                  {"magic_constants", &M::magic_constants},
                                  {"names", &M::names},
                                  {"names_judged", &M::names_judged},
                                  {"names_in_convention", &M::names_in_convention},
                                  {"names_snake", &M::names_snake},
                                  {"names_camel", &M::names_camel},
                                  {"names_pascal", &M::names_pascal},
                                  {"names_upper", &M::names_upper},
                                  {"names_one_letter", &M::names_one_letter}};
    py::dict result;
    py::array_t<bool> measured(count);
    result["measured"] = measured;
    std::vector<int64_t*> targets;
    for (const auto& [name, member] : columns) {
      py::array_t<int64_t> values(count);
      targets.push_back(values.mutable_data());
      result[name] = values;
    }
    bool* const is_measured = measured.mutable_data();
    {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      for (py::ssize_t i = 0; i < count; ++i) {
        M metrics;
        const std::string_view text = batch_text(batch, static_cast<size_t>(i));
        const auto nodes = parse(text, bytes, effort);
        is_measured[i] = nodes.nodes != nullptr;
        if (nodes.nodes) metrics = measurer_.measure(text, nodes);
        for (size_t c = 0; c < targets.size(); ++c) targets[c][i] = metrics.*columns[c].second;
      }
    }
    return result;
  }

  // The functions of one text as dicts.
  py::list functions(const py::bytes& source) {
    const std::string_view text = source;
    std::vector<syntax::Function> found;
    {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      const auto nodes = parse(text, MOST_BYTES, 1.0);
      if (nodes.nodes) measurer_.measure(text, nodes, &found);
    }
    py::list functions;
    for (const syntax::Function& function : found) {
      py::dict entry;
      entry["name"] = py::bytes(function.name.data(), function.name.size());
      entry["start"] = function.start;
      entry["end"] = function.end;
      entry["line"] = function.line;
      entry["lines"] = function.lines;
      entry["cyclomatic"] = function.cyclomatic;
      entry["cognitive"] = function.cognitive;
      entry["parameters"] = function.parameters;
      entry["documented"] = function.documented;
      functions.append(entry);
    }
    return functions;
  }

  // How many of the texts the parser took: parsing alone, for benchmarks.
  int64_t parse_only(const py::buffer& data, const Offsets& offsets, double effort) {
    const TextBatch batch(data, offsets);
    int64_t parsed = 0;
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < batch.texts.count; ++i) {
      const std::string_view text = batch_text(batch, i);
      parsed += grammar_.parse_only(text, budget(text.size(), effort));
    }
    return parsed;
  }

  // The visible nodes of a text in preorder: arrays symbol, start, end, next.
  py::dict nodes(const py::bytes& source) {
    const std::string_view text = source;
    const std::lock_guard lock(mutex_);
    const auto found = parse(text, MOST_BYTES, 1.0);
    const auto count = static_cast<py::ssize_t>(found.count);
    py::array_t<int64_t> symbol(count), start(count), end(count), next(count), flags(count);
    for (py::ssize_t i = 0; i < count; ++i) {
      const cs_node& node = found.nodes[i];
      symbol.mutable_at(i) = node.symbol;
      start.mutable_at(i) = node.start;
      end.mutable_at(i) = node.end;
      next.mutable_at(i) = node.next;
      flags.mutable_at(i) = node.flags;
    }
    py::dict result;
    result["symbol"] = symbol;
    result["start"] = start;
    result["end"] = end;
    result["next"] = next;
    result["flags"] = flags;
    return result;
  }

 private:
  // Grammars' packages give a capsule; older ones give the address as a number.
  static const void* address(const py::object& language) {
    if (py::isinstance<py::capsule>(language)) {
      const auto capsule = py::reinterpret_borrow<py::capsule>(language);
      if (capsule.name() == nullptr || std::string_view(capsule.name()) != "tree_sitter.Language") {
        throw py::value_error("language: not a grammar of tree-sitter");
      }
      return capsule.get_pointer();
    }
    if (py::isinstance<py::int_>(language)) return reinterpret_cast<const void*>(language.cast<uintptr_t>());
    throw py::value_error("language: must be what a grammar's language() gives");
  }

  static std::string_view batch_text(const TextBatch& batch, size_t i) {
    const int64_t begin = batch.texts.offsets[i], end = batch.texts.offsets[i + 1];
    return {batch.texts.data + begin, static_cast<size_t>(end - begin)};
  }

  static constexpr uint64_t MOST_BYTES = std::numeric_limits<uint32_t>::max() - 1;

  // Of 1,450 files in 17 languages all stayed within three tenths of it, all but 23 within one.
  static syntax::Budget budget(size_t size, double effort) {
    const double bytes = static_cast<double>(size) + (1 << 12);
    return {static_cast<uint64_t>(std::min(effort * STEPS_PER_BYTE * bytes, 1e18)),
            static_cast<uint64_t>(std::min(effort * (CHARACTERS_PER_BYTE * bytes + CHARACTERS), 1e18)),
            static_cast<size_t>(std::min(effort * MEMORY_PER_BYTE * bytes + MEMORY, 1e18))};
  }
  static constexpr double STEPS_PER_BYTE = 0.1;
  static constexpr double CHARACTERS_PER_BYTE = 400;
  static constexpr double CHARACTERS = 5e7;
  static constexpr double MEMORY_PER_BYTE = 250;
  static constexpr double MEMORY = 8 << 20;

  syntax::Grammar::Nodes parse(std::string_view text, uint64_t bytes, double effort) {
    if (text.size() > bytes || text.size() > MOST_BYTES) return {};
    return grammar_.parse(text, budget(text.size(), effort));
  }

  syntax::Grammar grammar_;
  syntax::Measurer measurer_;
  std::mutex mutex_;
};

}  // namespace

void bind_syntax(py::module_& module) {
  module.attr("built") = true;
  module.attr("versions") = syntax::grammar_versions();
  py::class_<Language>(module, "Language")
      .def(py::init<const py::object&, const std::map<std::string, std::vector<size_t>>&,
                    const std::map<std::string, uint8_t>&>(),
           py::arg("language"), py::arg("kinds"), py::arg("conventions"), py::keep_alive<1, 2>())
      .def_static("symbols", &Language::symbols, py::arg("language"))
      .def("measure", &Language::measure, py::arg("data"), py::arg("offsets"), py::arg("bytes"),
           py::arg("effort") = 1.0)
      .def("functions", &Language::functions, py::arg("text"))
      .def("parse_only", &Language::parse_only, py::arg("data"), py::arg("offsets"), py::arg("effort") = 1.0)
      .def("nodes", &Language::nodes, py::arg("text"));
}

}  // namespace codeshell::bindings

#else

namespace codeshell::bindings {

void bind_syntax(py::module_& module) { module.attr("built") = false; }

}  // namespace codeshell::bindings

#endif
