// A language's grammar with its table of kinds, its parser, and the budget of a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "syntax/kinds.h"
#include "syntax/nodes.h"

namespace codeshell::syntax {

// The first and last version of grammars that this core reads.
std::pair<int, int> grammar_versions();

// What a text may cost. All are counted and not timed, so that the same text has the same answer on every machine.
struct Budget {
  uint64_t steps;       // hundreds of operations of the parser
  uint64_t characters;  // read by scanners, the same one many times
  size_t memory;        // bytes
};

// Names and kinds of a grammar's symbols. Not thread-safe: one at a time may parse.
class Grammar {
 public:
  // `language` is a TSLanguage*, which lives as long as the process. std::invalid_argument for null or a version that
  // the core does not read.
  explicit Grammar(const void* language);
  Grammar(const Grammar&) = delete;
  ~Grammar();

  struct Symbol {
    std::string name;
    bool named;  // "if_statement" is, "if" is not
  };
  // (symbols,) by their number; hidden rules have an empty name.
  const std::vector<Symbol>& symbols() const { return symbols_; }
  // (symbols + 1,): the last is that of errors.
  const std::vector<Kinds>& kinds() const { return kinds_; }
  // (symbols + 1,): symbols of one name have one number.
  const std::vector<uint16_t>& same() const { return same_; }
  // Adds bits to a symbol.
  void add_kinds(size_t symbol, Kinds kinds) { kinds_.at(symbol) |= kinds; }

  struct Nodes {
    const cs_node* nodes = nullptr;  // null: over the budget
    size_t count = 0;
  };
  // `text` has fewer than 2^32 bytes. std::bad_alloc without memory.
  Nodes parse(std::string_view text, const Budget& budget);
  // Parses alone, for benchmarks: whether it stayed within the budget.
  bool parse_only(std::string_view text, const Budget& budget);

 private:
  std::vector<Symbol> symbols_;
  std::vector<Kinds> kinds_;
  std::vector<uint16_t> same_;
  cs_parser* parser_ = nullptr;
};

}  // namespace codeshell::syntax
