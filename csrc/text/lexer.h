// The lexer of the lexical measures: one walk over the bytes of a text, which counts as it goes. It knows a language
// only through its `Lexis`. lexer.cpp has the walk and the tokens, marks.cpp comments and strings.
//
// A walk that is only after the words that import something (`import_words`) takes the same way and counts nothing.
//
// It never goes back by more than a bounded number of bytes, so that every text takes linear time: a character literal
// is at most 12 bytes, a regular expression at most 1,024, and a here-document whose end is missing is tried four times.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "text/classes.h"
#include "text/find.h"
#include "text/lexical.h"
#include "text/line_counter.h"
#include "text/utf8.h"

namespace codeshell::text {

inline bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }
inline bool is_line_end(char c) { return c == '\n' || c == '\r'; }
inline bool is_letter(char c) { return static_cast<uint8_t>((c | 32) - 'a') < 26; }
inline bool is_decimal(char c) { return static_cast<uint8_t>(c - '0') < 10; }

inline bool starts_with(const char* p, const char* end, std::string_view word) {
  return static_cast<size_t>(end - p) >= word.size() && std::memcmp(p, word.data(), word.size()) == 0;
}

class Lexer {
 public:
  Lexer(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, ImportWords* import_words)
      : lexis_(lexis),
        text_(text),
        end_(text + size),
        at_(text),
        line_(text),
        indented_(text),
        names_(scratch.names),
        imported_(scratch.imported),
        words_(import_words),
        words_end_(text + (import_words ? std::min(import_words->end, size) : size)),
        counts_(!import_words || !import_words->alone),
        lines_(lexis.line_limit, skip_ascii(text, end_) == end_, scratch.lines, text, size) {
    names_.clear(std::min(size, repetition_bytes) / 64);
    imported_.clear();
  }

  void run(Row& row);

 private:
  // ---- lines

  // The line ends at `at_`, which is at its line end.
  void end_of_line() {
    const bool was_blank = !lines_.code && !lines_.comment;
    if (counts_) {
      lines_.end(line_, indented_, at_);
    } else {
      lines_.forget();
    }
    // A backslash at its end continues the statement.
    const bool more = at_ > line_ && at_[-1] == '\\';
    at_ += *at_ == '\r' && at_ + 1 < end_ && at_[1] == '\n' ? 2 : 1;
    line_ = indented_ = at_;
    if (!more) constant_ = constant_seen_ = equals_ = declares_ = statement_ = false;
    semicolon_ = false;
    if (was_blank && !in_comment_) close_header();
    if (importing_ && !inside_ && !more) importing_ = 0;
  }

  void newline() {
    end_of_line();
    lines_.continued = inside_ > 0;
    if (!heredoc_.empty()) {
      heredoc_body();
    } else {
      at_ = indented_ = skip_spaces_and_tabs(at_, end_);
    }
  }

  // One space after a token, which nearly every second one has, costs less here than as a step of the walk.
  void skip_space() { at_ += at_ < end_ && *at_ == ' '; }

  // Takes [at_, stop) as text of one thing; each of its lines is noted as code or as comment and given to `piece`.
  template <typename Piece>
  void take(const char* stop, bool is_comment, Piece piece) {
    while (true) {
      const char* const begin = at_;
      at_ = find_any_within(at_, stop, end_, '\n', '\r');
      if (at_ > begin) {
        (is_comment ? lines_.comment : lines_.code) = true;
        if (counts_) piece(begin, at_);
      }
      if (at_ >= stop) return;
      end_of_line();
      // A \r\n whose two bytes the end of the thing parts is not possible: things end with their closing mark.
      lines_.continued = true;
      if (at_ >= stop) return;
    }
  }

  // ---- comments

  void comment(const char* stop, bool documents);

  void comment_line(const char* from, const char* to, bool documents);

  // The comments at the top of a file, up to a blank line or to code, are its licence if they speak of one.
  void close_header();

  // ---- strings

  // A string from at_ (or a little before, its prefix) to `stop`.
  void string(const char* stop);

  // The end of a string that begins at `p`, after its closing mark. Without one it ends with its line, or with the text.
  const char* string_end(const char* p, const Marker& marker) const;

  // The end of a block comment. Nested ones need as many ends as beginnings.
  const char* block_end(const char* p, const Marker& marker) const;

  const char* find(const char* p, std::string_view what) const;

  const char* rest_of_line(const char* p) const;

  // [==[ ... ]==]: the end, or null if at `p` is no such bracket.
  const char* long_bracket(const char* p);

  // Whether a value, and so a regular expression, may stand after the last token.
  bool value_may_begin() const {
    return !(previous_ == 'a' || previous_ == '0' || previous_ == '"' || previous_ == ')' || previous_ == ']' ||
             previous_ == '}');
  }

  const char* regex_end(const char* p);

  const char* character_end(const char* p);

  // <<NAME and its relations: notes NAME, whose body begins on the next line.
  bool heredoc(const char* p, const Marker& marker);

  void heredoc_body();

  // Tries the markers that begin with the byte at at_, the longest first. False if none of them is meant.
  bool marker(Lexis::Range range);

  // A string whose prefix is [begin, p), where p is at a quote or at Rust's `#`. False if it is none.
  bool prefixed_string(const char* begin, const char* p);

  // ---- tokens

  // Every token passes here: 'a' a name, 'k' a keyword, '0' a number, '"' a string, or the symbol itself.
  void token(char kind) {
    if (!seen_code_) {
      close_header();
      seen_code_ = true;
    }
    lines_.code = true;
    tokens_ += 1;
    if (semicolon_) lines_.crowded = true;
    lines_.semicolon = false;
    if (catching_) catch_token(kind);
    previous_ = kind;
    joined_ = false;
  }

  // Follows a `catch` or `except` to its block. What counts: one that names no error, one whose block is empty.
  void catch_token(char kind);

  void number();

  // The end of the name that begins at `p`, and whether it has letters of each case and other signs (`NameBit`).
  const char* name_end(const char* p, uint8_t& bits) const;

  // A number is magic unless it is 0, 1, 2 or a power of ten up to 1,000, with or without a suffix and zeros after the
  // point.
  static bool is_magic(const char* p, const char* end);

  void name();

  // The end of an import's name reaches the end of the words that are wanted, or a later place.
  void last_import_word(const char* begin, const char* end);

  // What begins at at_ was looked at up to `stop`: if a text that ends at the last wanted word has not all of it, it may
  // be read otherwise.
  void looked_at(const char* stop) {
    if (words_ && stop >= words_end_ && at_ < words_end_) words_->depends = true;
  }

  void count_word(uint32_t word);

  // `import a, b as c`, `from x import a`, `import a, {b as c} from 'x'`: notes which names the statement binds.
  void import_keyword(uint32_t word, const char* begin, size_t size);

  void identifier(const char* begin, const char* end, uint64_t hash, uint8_t bits, bool joined);

  // The form of a name, underscores at its ends apart.
  void shape(const char* p, const char* end, uint8_t bits);

  void symbol(ByteKind kind, char c);

  // `=` alone, outside of brackets where a keyword argument may stand: blanks on both sides or not.
  void assignment(const char* begin, char next);

  // A colon that may give a type: after a parameter, or after a name that is declared.
  void annotation(const char* begin, bool after_name);

  void finish(Row& row) const;

  // The share of imported names that occur nowhere else; null where none is imported.
  double unused_imports() const;

  const Lexis& lexis_;
  const char* const text_;
  const char* const end_;
  const char* at_;
  const char* line_;      // where the present line begins
  const char* indented_;  // after its spaces and tabs, or where it begins
  Counts& names_;
  std::vector<uint64_t>& imported_;
  ImportWords* words_;  // null after the last that is wanted
  const char* words_end_;
  const bool counts_;
  LineCounter lines_;

  // What the last tokens were.
  char previous_ = '\0';
  bool after_name_ = false, joined_ = false, passes_ = false, seen_code_ = false, in_comment_ = false;
  bool constant_ = false, constant_seen_ = false, equals_ = false, declares_ = false, statement_ = false,
       semicolon_ = false;
  uint64_t chain_ = 0;
  int importing_ = 0;  // 1: after `from`; 2: among the names; 3: of a module that does not count
  int catching_ = 0, catch_dots_ = 0, heredoc_failures_ = 0;
  int64_t catch_depth_ = 0, lambda_ = -1;
  std::string heredoc_;
  // Open brackets; the kinds of the outer 256.
  int64_t depth_ = 0, inside_ = 0;
  std::array<char, 256> stack_;  // written before it is read
  // The comments at the top of the file.
  const char* header_ = nullptr;
  const char* header_end_ = nullptr;
  int64_t header_characters_ = 0, header_doc_ = 0;

  int64_t comment_characters_ = 0, doc_characters_ = 0, licence_characters_ = 0, comment_pieces_ = 0;
  int64_t judged_comments_ = 0, code_comments_ = 0, todos_ = 0;
  int64_t identifiers_ = 0, identifier_characters_ = 0, distinct_ = 0, numbered_ = 0;
  // Distinct names by form.
  enum Form : uint8_t { single, plain, snake, camel, pascal, constant, other, forms };
  std::array<int64_t, forms> shapes_{};
  int64_t numbers_ = 0, magic_numbers_ = 0, strings_ = 0, string_characters_ = 0, longest_string_ = 0;
  int64_t prints_ = 0, reads_ = 0, asserts_ = 0, risky_ = 0, bare_catches_ = 0, annotations_ = 0;
  int64_t parentheses_ = 0, brackets_ = 0, operators_ = 0, commas_ = 0, spaced_commas_ = 0;
  int64_t assignments_ = 0, spaced_assignments_ = 0, tokens_ = 0, decisions_ = 0;
  int64_t functions_ = 0, classes_ = 0, returns_ = 0, branches_ = 0, loops_ = 0, errors_ = 0, imports_ = 0, gotos_ = 0;
};

}  // namespace codeshell::text
