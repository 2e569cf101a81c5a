// What the lexer of `lexical.h` must know of a language: how comments and strings begin and end, and which words count
// as what. A `Lexis` is made once for each language from the table codeshell/scorers/lexis.toml.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/hash.h"

namespace codeshell::text {

// Bits of a byte in names. A byte with none of them is in no name.
enum NameBit : uint8_t { lower = 1, upper = 2, digit = 4, underscore = 8, foreign = 16 };

// What a word of a language counts as. `called` words count only before a bracket, or a `!` as in Rust's macros.
enum WordBit : uint32_t {
  keyword = 1u << 0,  // is no identifier
  kw_function = 1u << 1,
  kw_class = 1u << 2,
  kw_return = 1u << 3,
  kw_branch = 1u << 4,
  kw_loop = 1u << 5,
  kw_error = 1u << 6,
  kw_import = 1u << 7,
  kw_goto = 1u << 8,
  kw_and_or = 1u << 9,
  kw_catch = 1u << 10,
  kw_pass = 1u << 11,
  print = 1u << 12,
  reads = 1u << 13,
  asserts = 1u << 14,
  risky = 1u << 15,
  called = 1u << 16,
  declares = 1u << 17,  // `const`, `let`: a type may follow the next name
};

// How a thing that is no code begins and ends.
struct Marker {
  enum class Kind : uint8_t {
    line_comment,
    block_comment,
    nested_comment,
    string,       // ends with its line, a backslash escapes
    long_string,  // over several lines, a backslash escapes
    raw_string,   // over several lines, nothing escapes
    character,    // 'x' or '\n', else the quote is an operator
    raw_cpp,      // R"name( ... )name"
    raw_rust,     // r#" ... "#
    raw_lua,      // [==[ ... ]==], also after -- as a comment
    regex,        // /.../ where a value may begin
    heredoc,      // <<NAME ... NAME
  };
  std::string open;
  std::string close;
  Kind kind = Kind::line_comment;
  bool doc = false;          // a comment that documents
  bool first = false;        // only at the beginning of a line
  bool after_blank = false;  // only at the beginning of a line or after a blank
};

enum class Annotations : uint8_t { none, python, typescript };
enum class Catches : uint8_t { none, indented, braces };
enum class Imports : uint8_t {
  none,
  python,
  javascript,
  dotted,  // import a.b.c; using A.B; open A.B
  go,
  rust,
  c,
  php,
  ruby,
  perl,
  lua,
  r,
  julia,
  dart,
  haskell,
};

// An open-addressing table from the hash of a word to its bits. Few hundred words, built once.
class Words {
 public:
  void add(std::string_view dotted, uint32_t bits);
  // The bits of a word, 0 if it has none.
  uint32_t find(uint64_t hash) const {
    // Most names are no words: a bit for each few thousand hashes tells so from 512 bytes, which stay in the cache.
    if (!(filter_[hash >> 58] >> (hash >> 52 & 63) & 1)) return 0;
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].bits == 0) return 0;
      if (slots_[at].hash == hash) return slots_[at].bits;
    }
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t bits = 0;
  };
  void insert(uint64_t hash, uint32_t bits);
  std::array<uint64_t, 64> filter_{};
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

// What the lexer does at a byte. `marker` comes before the others: a marker may begin with a letter.
enum class ByteKind : uint8_t {
  symbol,  // one that only counts as a token
  blank,
  line_end,
  digit,
  name,
  marker,
  open,       // ( [ {
  close,      // ) ] }
  and_or,     // & |
  question,   // ?
  equals,     // =
  comma,      // ,
  semicolon,  // ;
  dot,        // .
  colon,      // :
  minus,      // -
  operation,  // any other operator
};

struct Lexis {
  std::vector<Marker> markers;
  Words words;
  std::array<uint8_t, 256> name_bits{};
  std::array<bool, 256> starts_name{};
  std::array<ByteKind, 256> kinds{};
  std::array<ByteKind, 256> plain_kinds{};  // what a byte is where no marker begins
  bool prefixes = false;                    // a short name before a quote belongs to the string: r"..."
  bool docstrings = false;                  // a string that is the first statement of a block documents it
  Annotations annotations = Annotations::none;
  Catches catches = Catches::none;
  Imports imports = Imports::none;
  int64_t line_limit = 100;  // characters
  std::vector<std::string> import_words;

  // markers_at[byte] is the list of markers that begin with the byte, the longest first, as a range of `order`.
  struct Range {
    uint16_t begin = 0, end = 0;
  };
  std::array<Range, 256> markers_at{};
  std::vector<uint16_t> order;

  // Sorts the markers and fills the tables of bytes; `letters` are further bytes of names, such as `$`.
  void finish(std::string_view letters);
};

}  // namespace codeshell::text
