// A grammar: checks of its version, names and kinds of its symbols, and parsing within a budget.
#include "syntax/grammar.h"

#include <tree_sitter/api.h>

#include <map>
#include <new>
#include <stdexcept>
#include <string_view>

namespace codeshell::syntax {

std::pair<int, int> grammar_versions() {
  return {TREE_SITTER_MIN_COMPATIBLE_LANGUAGE_VERSION, TREE_SITTER_LANGUAGE_VERSION};
}

Grammar::Grammar(const void* language) {
  const auto* grammar = static_cast<const TSLanguage*>(language);
  if (!grammar) throw std::invalid_argument("grammar: null");
  const auto version = static_cast<int>(ts_language_abi_version(grammar));
  const auto [first, last] = grammar_versions();
  if (version < first || version > last) {
    throw std::invalid_argument("grammar: version " + std::to_string(version) +
                                " of tree-sitter's format; this build reads " + std::to_string(first) + " to " +
                                std::to_string(last));
  }
  const uint32_t count = ts_language_symbol_count(grammar);
  symbols_.resize(count);
  kinds_.assign(count + 1, 0);
  same_.assign(count + 1, static_cast<uint16_t>(count));
  std::map<std::pair<std::string_view, bool>, uint16_t> numbers;
  for (uint32_t symbol = 0; symbol < count; ++symbol) {
    const TSSymbolType type = ts_language_symbol_type(grammar, static_cast<TSSymbol>(symbol));
    same_[symbol] = static_cast<uint16_t>(symbol);
    if (type == TSSymbolTypeAuxiliary || type == TSSymbolTypeSupertype) continue;
    const char* name = ts_language_symbol_name(grammar, static_cast<TSSymbol>(symbol));
    symbols_[symbol] = {name ? name : "", type == TSSymbolTypeRegular};
  }
  for (uint32_t symbol = 0; symbol < count; ++symbol) {
    const auto& [name, named] = symbols_[symbol];
    if (name.empty()) continue;
    same_[symbol] =
        numbers.emplace(std::pair{std::string_view(name), named}, static_cast<uint16_t>(symbol)).first->second;
    if (named) {
      kinds_[symbol] |= NAMED;
      continue;
    }
    if (name == "else") kinds_[symbol] |= ELSE_WORD;
    if (name == "default") kinds_[symbol] |= DEFAULT_WORD;
    if (name == ")" || name == "]" || name == "}" || name == "," || name == ";" || name == "\n")
      kinds_[symbol] |= CLOSER;
  }
  parser_ = cs_parser_new(grammar);
  if (!parser_) throw std::bad_alloc();
}

Grammar::~Grammar() { cs_parser_delete(parser_); }

bool Grammar::parse_only(std::string_view text, const Budget& budget) {
  const auto size = static_cast<uint32_t>(text.size());
  return cs_parse(parser_, text.data(), size, budget.steps, budget.characters, budget.memory, nullptr, nullptr) ==
         CS_PARSED;
}

Grammar::Nodes Grammar::parse(std::string_view text, const Budget& budget) {
  Nodes nodes;
  const auto size = static_cast<uint32_t>(text.size());
  const auto status =
      cs_parse(parser_, text.data(), size, budget.steps, budget.characters, budget.memory, &nodes.nodes, &nodes.count);
  if (status == CS_NO_MEMORY) throw std::bad_alloc();
  return nodes;
}

}  // namespace codeshell::syntax
