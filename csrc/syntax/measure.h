// The metrics of one text, from its nodes in one pass (docs/quality.md defines each).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "syntax/grammar.h"
#include "syntax/names.h"

namespace codeshell::syntax {

struct Metrics {
  int64_t tokens_bytes = 0;  // bytes of visible tokens
  int64_t error_bytes = 0;   // of those that no rule takes
  int64_t error_nodes = 0;   // and missing ones
  int64_t functions = 0;
  int64_t types = 0;
  int64_t cyclomatic_max = 0;
  int64_t cyclomatic_sum = 0;
  int64_t cognitive_max = 0;
  int64_t cognitive_sum = 0;
  int64_t nesting_max = 0;
  int64_t operators = 0, operands = 0;                    // Halstead's N1 and N2
  int64_t distinct_operators = 0, distinct_operands = 0;  // n1 and n2
  int64_t statements = 0;
  int64_t declarations = 0;
  int64_t imports = 0;
  int64_t decisions = 0;
  int64_t code_lines = 0;  // with more than blanks
  int64_t documented = 0;  // functions
  int64_t function_lines_max = 0;
  int64_t parameters_max = 0;
  int64_t empty_catches = 0;
  int64_t magic_constants = 0;
  int64_t names = 0;         // that have a letter of ASCII
  int64_t names_judged = 0;  // of them more than a letter, where the language has a convention
  int64_t names_in_convention = 0;
  int64_t names_snake = 0, names_camel = 0, names_pascal = 0, names_upper = 0, names_one_letter = 0;
};

// A function, for tests and for other scorers.
struct Function {
  std::string_view name;        // empty if it has none
  uint32_t start = 0, end = 0;  // bytes
  int64_t line = 0;             // of its beginning; the first is 1
  int64_t lines = 0;
  int64_t cyclomatic = 1;
  int64_t cognitive = 0;  // with the functions within it
  int64_t parameters = 0;
  bool documented = false;
};

// Styles that a language allows for each role; 0: no convention.
struct Conventions {
  uint8_t styles[5] = {0, 0, 0, 0, 0};
};

// Measures texts; keeps its memory between them.
class Measurer {
 public:
  explicit Measurer(const Grammar& grammar);
  // To be called when the grammar has its kinds.
  void prepare();
  ~Measurer();
  Conventions conventions;

  // `functions` receives the functions with a body in the order of their beginnings, if it is not null.
  Metrics measure(std::string_view text, Grammar::Nodes nodes, std::vector<Function>* functions = nullptr);

 private:
  struct Frame;
  struct Open;

  // Distinct byte strings by a 64-bit hash (a collision makes two names one: 10^-11 for a file of 10^4 names).
  class Distinct {
   public:
    void clear();
    bool add(uint64_t hash);  // whether it is new
   private:
    std::vector<uint64_t> slots_;
    size_t used_ = 0;
  };

  const Grammar& grammar_;
  bool bodies_ = false;  // whether the table tells where a function's body is
  std::vector<Frame> frames_;
  std::vector<Open> functions_;
  std::vector<uint32_t> lines_;        // offsets of line ends
  std::vector<uint8_t> seen_symbols_;  // operators
  Distinct operands_;
};

}  // namespace codeshell::syntax
