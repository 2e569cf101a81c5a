// A grammar: checks of its version, names and kinds of its symbols, and parsing within a budget.
#include "syntax/grammar.h"

#include <tree_sitter/api.h>

#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>

namespace codeshell::syntax {

namespace {

struct DeleteTree {
  void operator()(TSTree* tree) const { ts_tree_delete(tree); }
};

// The whole text in one piece.
struct Input {
  const char* text;
  uint32_t size;
};

const char* read_input(void* payload, uint32_t byte, TSPoint, uint32_t* read) {
  const auto* input = static_cast<const Input*>(payload);
  if (byte >= input->size) {
    *read = 0;
    return "";
  }
  *read = input->size - byte;
  return input->text + byte;
}

// Called by the parser each hundred operations; true stops it.
bool stop_parsing(TSParseState* state) {
  auto* left = static_cast<uint64_t*>(state->payload);
  if (*left == 0) return true;
  --*left;
  return false;
}

}  // namespace

std::pair<int, int> grammar_versions() {
  return {TREE_SITTER_MIN_COMPATIBLE_LANGUAGE_VERSION, TREE_SITTER_LANGUAGE_VERSION};
}

Grammar::Grammar(const void* language) : language_(language) {
  const auto* grammar = static_cast<const TSLanguage*>(language);
  if (!grammar) throw std::invalid_argument("grammar: null");
  const auto version = static_cast<int>(ts_language_abi_version(grammar));
  const auto [first, last] = grammar_versions();
  if (version < first || version > last) {
    throw std::invalid_argument("grammar: version " + std::to_string(version) + " of tree-sitter's format; this build reads " +
                                std::to_string(first) + " to " + std::to_string(last));
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
    same_[symbol] = numbers.emplace(std::pair{std::string_view(name), named}, static_cast<uint16_t>(symbol)).first->second;
    if (named) {
      kinds_[symbol] |= NAMED;
      continue;
    }
    if (name == "else") kinds_[symbol] |= ELSE_WORD;
    if (name == "default") kinds_[symbol] |= DEFAULT_WORD;
    if (name == ")" || name == "]" || name == "}" || name == "," || name == ";" || name == "\n") kinds_[symbol] |= CLOSER;
  }
  parser_ = ts_parser_new();
  walk_ = cs_walk_new(grammar);
  if (!parser_ || !walk_) {
    cs_walk_delete(walk_);
    ts_parser_delete(parser_);
    throw std::bad_alloc();
  }
  ts_parser_set_language(parser_, grammar);
}

Grammar::~Grammar() {
  cs_walk_delete(walk_);
  ts_parser_delete(parser_);
}

TSTree* Grammar::parse_tree(const char* text, uint32_t size, uint64_t steps) {
  Input input{text, size};
  uint64_t left = steps;
  TSTree* tree = ts_parser_parse_with_options(parser_, nullptr, {&input, read_input, TSInputEncodingUTF8, nullptr},
                                              {&left, stop_parsing});
  // A parser that was stopped would continue with the next text.
  if (!tree) ts_parser_reset(parser_);
  return tree;
}

bool Grammar::parse_only(const char* text, uint32_t size, uint64_t steps) {
  return std::unique_ptr<TSTree, DeleteTree>(parse_tree(text, size, steps)) != nullptr;
}

Grammar::Nodes Grammar::parse(const char* text, uint32_t size, uint64_t steps) {
  const std::unique_ptr<TSTree, DeleteTree> tree(parse_tree(text, size, steps));
  if (!tree) return {};
  Nodes nodes;
  nodes.nodes = cs_walk_nodes(walk_, tree.get(), &nodes.count);
  if (!nodes.nodes) throw std::bad_alloc();
  return nodes;
}

}  // namespace codeshell::syntax
