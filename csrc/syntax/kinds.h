// What a kind of node is to the metrics. A language's entry in codeshell/scorers/syntax.toml names the
// node types of its grammar under these words; each type becomes a set of bits.
#pragma once

#include <cstdint>
#include <string_view>

namespace codeshell::syntax {

using Kinds = uint64_t;

// The words of a table, in the order of their bits.
inline constexpr std::string_view kind_words[] = {
    "function",     // a function with a body
    "lambda",       // a function without a name: part of the function around it, but one level deeper
    "type",         // class, struct, enum, interface, trait
    "if",           // a decision with a place for `else`
    "elif",         // a further branch of an `if` that is no `if` of its own
    "else",         // the node around a last branch
    "loop",         // for, while
    "switch",       // a choice among cases
    "case",         // each of them that is a decision
    "catch",        // a handler of errors
    "ternary",      // a choice within an expression
    "decision",     // other decisions: an assertion, a part of a comprehension
    "logical",      // what may join two operands by `and`, `or`
    "and",          // the operators that do
    "or",           //
    "jump",         // goto, and leaving a loop by its label
    "parentheses",  // around an expression
    "statement",    // what does something
    "declaration",  // what only says that something is there
    "import",       //
    "comment",      //
    "string",       // a literal whose parts are no operands
    "embedded",     // code within a string
    "number",       //
    "identifier",   // a name
    "variable",     // gives a name to a value
    "parameters",   // a list whose named nodes are the parameters
    "parameter",    // a parameter that stands in the function itself
    "call",         //
    "block",        // around statements
    "attribute",    // may stand between a comment and its function: a decorator, an annotation
    "wrapper",      // begins where its function does: export, template
    "docstring",    // a statement that is a string, first in its function
    "data",         // a list of values, where numbers are data
    "nothing",      // a statement that does nothing: pass, ;
    "try",          // whose `else` is a branch
    "operator",     // a node whose text tells whether it joins two operands by `and` or `or`
};

inline constexpr int kind_count = static_cast<int>(sizeof(kind_words) / sizeof(*kind_words));

constexpr Kinds kind(std::string_view word) {
  for (int i = 0; i < kind_count; ++i) {
    if (kind_words[i] == word) return Kinds{1} << i;
  }
  return 0;
}

inline constexpr Kinds FUNCTION = kind("function"), LAMBDA = kind("lambda"), TYPE = kind("type"), IF = kind("if"),
                       ELIF = kind("elif"), ELSE = kind("else"), LOOP = kind("loop"), SWITCH = kind("switch"),
                       CASE = kind("case"), CATCH = kind("catch"), TERNARY = kind("ternary"),
                       DECISION = kind("decision"), LOGICAL = kind("logical"), AND = kind("and"), OR = kind("or"),
                       JUMP = kind("jump"), PARENTHESES = kind("parentheses"), STATEMENT = kind("statement"),
                       DECLARATION = kind("declaration"), IMPORT = kind("import"), COMMENT = kind("comment"),
                       STRING = kind("string"), EMBEDDED = kind("embedded"), NUMBER = kind("number"),
                       IDENTIFIER = kind("identifier"), VARIABLE = kind("variable"), PARAMETERS = kind("parameters"),
                       PARAMETER = kind("parameter"), CALL = kind("call"), BLOCK = kind("block"),
                       ATTRIBUTE = kind("attribute"), WRAPPER = kind("wrapper"), DOCSTRING = kind("docstring"),
                       DATA = kind("data"), NOTHING = kind("nothing"), TRY = kind("try"), OPERATOR = kind("operator");

// Bits that every grammar has without being told.
inline constexpr Kinds NAMED = Kinds{1} << 60;         // a node with a name of its own, unlike "(" or "while"
inline constexpr Kinds ELSE_WORD = Kinds{1} << 61;     // the word `else`
inline constexpr Kinds DEFAULT_WORD = Kinds{1} << 62;  // the word `default`, which makes a case no decision
inline constexpr Kinds CLOSER = Kinds{1} << 63;        // ) ] } , ; : no operators of Halstead's

static_assert(kind_count <= 60);

}  // namespace codeshell::syntax
