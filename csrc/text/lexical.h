// The measures of code that need its tokens and lines but no syntax tree: comments, names, numbers, strings,
// indentation, style, repetition. docs/quality.md says what each column means.
//
// A text is read twice: once by a lexer that knows the language's comments, strings and words (lexer.cpp), once without
// any knowledge of it (repetition.cpp). Any bytes are accepted. Characters are bytes that continue no UTF-8 sequence.
// Results are the same on every machine: integers are counted first, then each column is one quotient of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text/lexis.h"

namespace codeshell::text {

// The columns in their order. A column is NaN where it has no meaning, as the share of commas that a blank follows in
// a text without commas.
// clang-format off
#define CODESHELL_LEXICAL_COLUMNS(X) \
  X(code_lines) X(comment_lines) X(blank_lines) X(blank_share) X(comment_line_share) X(comment_share) \
  X(docstring_share) X(licence_share) X(comment_length) X(commented_code) X(todos) X(line_spread) X(line_median) \
  X(line_p90) X(long_lines) X(crowded_lines) X(blank_runs) X(trailing_blanks) X(final_newline) X(indent_unit) \
  X(indent_tabs) X(indent_mixed) X(indent_steady) X(indent_mean) X(indent_deepest) X(identifiers) \
  X(identifier_length) X(identifier_distinct) X(name_single) X(name_lower) X(name_snake) X(name_camel) \
  X(name_pascal) X(name_constant) X(name_other) X(name_numbered) X(unused_imports) X(numbers) X(magic_numbers) \
  X(strings) X(string_share) X(longest_string) X(prints) X(console_reads) X(asserts) X(risky_calls) \
  X(bare_catches) X(type_annotations) X(parentheses) X(brackets) X(operators) X(spaced_commas) \
  X(spaced_assignments) X(semicolons) X(tokens_per_line) X(decisions) X(kw_functions) X(kw_classes) X(kw_returns) \
  X(kw_branches) X(kw_loops) X(kw_errors) X(kw_imports) X(kw_gotos) X(duplicate_lines) X(duplicate_text) \
  X(top_2gram) X(top_3gram) X(top_4gram) X(duplicate_5grams) X(duplicate_10grams) X(lz_ratio) X(longest_run) \
  X(longest_word) X(encoded_share) X(hex_share) X(digit_share) X(white_share) X(non_ascii)
// clang-format on

enum class Column : uint8_t {
#define CODESHELL_NAME(name) name,
  CODESHELL_LEXICAL_COLUMNS(CODESHELL_NAME)
#undef CODESHELL_NAME
};

inline constexpr std::array lexical_columns = {
#define CODESHELL_NAME(name) #name,
    CODESHELL_LEXICAL_COLUMNS(CODESHELL_NAME)
#undef CODESHELL_NAME
};

using Row = std::array<double, lexical_columns.size()>;

inline double& at(Row& row, Column column) { return row[static_cast<size_t>(column)]; }

// What repeats is looked for in this many bytes, lines and names from the beginning: memory stays bounded, and a longer
// file says the same.
inline constexpr size_t repetition_bytes = size_t{1} << 20;
inline constexpr int64_t repetition_items = int64_t{1} << 17;

// A hash table from 64-bit keys to counts that is emptied in no time: an entry of an older `stamp` counts as empty.
class Counts {
 public:
  // Empties the table, with room for about `expected` keys before it grows.
  void clear(size_t expected);
  // Counts a key, and returns how often it was counted before. Whether it is new is not to be foreseen, so the first
  // place is taken without a branch on it; only a place that another key has is one.
  uint32_t add(uint64_t key) {
    if (2 * size_ > mask_) grow();
    size_t at = key & mask_;
    bool live = slots_[at].stamp == stamp_;
    while (live & (slots_[at].key != key)) [[unlikely]] {
      at = (at + 1) & mask_;
      live = slots_[at].stamp == stamp_;
    }
    Slot* const slot = &slots_[at];
    const uint32_t before = live ? slot->count : 0;
    *slot = {key, stamp_, before + 1};
    size_ += !live;
    return before;
  }
  // The count of a key, 0 if it was never there.
  uint32_t find(uint64_t key) const;

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t stamp = 0;
    uint32_t count = 0;
  };
  void grow();
  std::vector<Slot> slots_;
  size_t mask_ = 0, size_ = 0;
  uint32_t stamp_ = 0;
};

// Memory that one thread reuses from text to text.
struct Scratch {
  Counts names, lines;
  std::vector<uint64_t> imported;
  std::vector<uint64_t> hashes, grams;
  std::vector<uint32_t> edges, word_bytes, starts, first, times, table;
  std::vector<uint32_t> positions;
  std::vector<size_t> import_words;
};

// What the lexer notes of the words that import something, for csrc/text/imports.h.
struct ImportWords {
  std::vector<size_t>& places;  // where they begin
  size_t end;                   // words that end after this place are not noted
  bool alone = false;           // nothing but these words is wanted, and the row is left as it is
  // Set if a text that ended at `end` might have other words before it: something that has an end was looked for beyond.
  bool depends = false;
};

// Fills every column of a text.
void measure_lexical(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row);

// The lexer's part of it, and the part that knows no language.
void measure_tokens(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                    ImportWords* import_words);
void measure_repetition(const char* text, size_t size, Scratch& scratch, Row& row);

// The number of characters of a piece of text.
int64_t count_characters(const char* text, size_t size);

}  // namespace codeshell::text
