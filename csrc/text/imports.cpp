#include "text/imports.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "text/find.h"

namespace codeshell::text {

namespace {

constexpr size_t longest_name = 256;             // bytes; what is longer is no module
constexpr std::ptrdiff_t longest_block = 65536;  // bytes of one statement

bool blank(char c) { return c == ' ' || c == '\t' || c == '\f' || c == '\v'; }
bool line_end(char c) { return c == '\n' || c == '\r'; }
bool name_byte(char c) {
  return static_cast<uint8_t>((c | 32) - 'a') < 26 || static_cast<uint8_t>(c - '0') < 10 || c == '_' ||
         static_cast<uint8_t>(c) >= 0x80;
}

// Reads one statement. `p` is after its first word.
class Reader {
 public:
  Reader(const char* text, const char* end, ImportList& list) : text_(text), end_(end), list_(list) {}

  // Reads the statement whose word begins at `place`, and returns the place after what it has read.
  const char* read(Imports form, const char* place) {
    const char* const word = place;
    p_ = place;
    while (p_ < end_ && name_byte(*p_)) ++p_;
    const std::string_view name(word, static_cast<size_t>(p_ - word));
    switch (form) {
      case Imports::python: name == "from" ? python_from() : python_import(); break;
      case Imports::javascript: javascript(); break;
      case Imports::dotted: dotted(); break;
      case Imports::go: go(); break;
      case Imports::rust: rust(name == "extern"); break;
      case Imports::c: include(word); break;
      case Imports::php:
        if (name == "use") php();
        break;
      case Imports::ruby:
        open_bracket();
        quoted(name == "require_relative" ? ImportKind::own : ImportKind::other);
        break;
      case Imports::lua:
        open_bracket();
        quoted(ImportKind::other);
        break;
      case Imports::perl: perl(); break;
      case Imports::r:
        if (open_bracket()) {
          if (!quoted(name == "source" ? ImportKind::own : ImportKind::other) && name != "source")
            emit(dotted_name("."));
        }
        break;
      case Imports::julia:
        if (name == "include") {
          open_bracket();
          quoted(ImportKind::own);
        } else {
          list_of_names();
        }
        break;
      case Imports::dart:
        skip_blanks();
        quoted(ImportKind::other);
        break;
      case Imports::haskell: haskell(); break;
      case Imports::none: break;
    }
    return p_;
  }

 private:
  void skip_blanks() {
    while (p_ < end_ && blank(*p_)) ++p_;
  }

  // An opening bracket, if there is one, and the blanks around it.
  bool open_bracket() {
    skip_blanks();
    const bool open = p_ < end_ && *p_ == '(';
    p_ += open;
    skip_blanks();
    return open;
  }

  // Names joined by the bytes of `joints`.
  std::string_view dotted_name(const char* joints) {
    const char* const begin = p_;
    while (p_ < end_ && (name_byte(*p_) || (*p_ && std::strchr(joints, *p_)))) ++p_;
    return {begin, static_cast<size_t>(p_ - begin)};
  }

  bool word(std::string_view wanted) {
    skip_blanks();
    const auto room = static_cast<size_t>(end_ - p_);
    if (room < wanted.size() || std::memcmp(p_, wanted.data(), wanted.size()) != 0) return false;
    if (room > wanted.size() && name_byte(p_[wanted.size()])) return false;
    p_ += wanted.size();
    return true;
  }

  void emit(std::string_view name, ImportKind kind = ImportKind::other) {
    if (name.empty() || name.size() > longest_name) return;
    list_.text.append(name);
    list_.ends.push_back(static_cast<int64_t>(list_.text.size()));
    list_.kinds.push_back(static_cast<uint8_t>(kind));
  }

  // A string at p_: its content is a module, which a leading dot or slash makes one of the project's own.
  bool quoted(ImportKind kind) {
    if (p_ == end_ || !(*p_ == '"' || *p_ == '\'' || *p_ == '`')) return false;
    const char quote = *p_++;
    const char* const begin = p_;
    while (p_ < end_ && *p_ != quote && !line_end(*p_)) ++p_;
    const std::string_view name(begin, static_cast<size_t>(p_ - begin));
    const bool closed = p_ < end_ && *p_ == quote;
    p_ += closed;
    if (!closed || name.empty()) return closed;
    emit(name, std::strchr("./~#", name[0]) || name.starts_with("@/") ? ImportKind::own : kind);
    return true;
  }

  void python_from() {
    skip_blanks();
    const std::string_view name = dotted_name(".");
    // `raise X from e` and `yield from x` import nothing.
    if (name.empty() || !word("import")) return;
    emit(name, name[0] == '.' ? ImportKind::own : ImportKind::other);
  }

  void python_import() {
    do {
      skip_blanks();
      emit(dotted_name("."));
      if (word("as")) {
        skip_blanks();
        dotted_name("");
      }
      skip_blanks();
    } while (p_ < end_ && *p_ == ',' && ++p_);
  }

  // import 'x', import('x'), require('x') and, from the word `from` on, import a from 'x'.
  void javascript() {
    open_bracket();
    quoted(ImportKind::other);
  }

  void dotted() {
    while (word("static") || word("type") || word("class") || word("struct") || word("func") || word("global")) {
    }
    skip_blanks();
    std::string_view name = dotted_name(".");
    skip_blanks();
    // using Alias = A.B;
    if (p_ < end_ && *p_ == '=') {
      ++p_;
      skip_blanks();
      name = dotted_name(".");
      skip_blanks();
    }
    const bool ends = p_ == end_ || line_end(*p_) || std::strchr(";{*,/", *p_) || word("as") || word("hiding");
    while (!name.empty() && name.back() == '.') name.remove_suffix(1);
    if (ends) emit(name);
  }

  void go() {
    skip_blanks();
    if (p_ < end_ && *p_ != '(') {
      go_entry();
      return;
    }
    const char* const stop = std::min(end_, p_ + longest_block);
    if (p_ < end_) ++p_;
    while (p_ < stop && *p_ != ')') {
      if (blank(*p_) || line_end(*p_)) {
        ++p_;
      } else if (*p_ == '/') {
        while (p_ < stop && !line_end(*p_)) ++p_;
      } else if (!go_entry()) {
        return;
      }
    }
  }

  // An entry is `"path"`, `name "path"`, `_ "path"` or `. "path"`.
  bool go_entry() {
    dotted_name(".");
    skip_blanks();
    return quoted(ImportKind::other);
  }

  void rust(bool is_extern) {
    if (is_extern && !word("crate")) return;
    skip_blanks();
    while (p_ < end_ && *p_ == ':') ++p_;
    const std::string_view name = dotted_name("");
    const bool own = name == "crate" || name == "self" || name == "super";
    emit(name, own ? ImportKind::own : ImportKind::other);
  }

  // #include <x> and #include "x"; the word must follow a `#`.
  void include(const char* word) {
    const char* before = word;
    while (before > text_ && blank(before[-1])) --before;
    if (before == text_ || before[-1] != '#') return;
    skip_blanks();
    if (p_ == end_ || (*p_ != '<' && *p_ != '"')) return;
    const char close = *p_ == '<' ? '>' : '"';
    const char* const begin = ++p_;
    while (p_ < end_ && *p_ != close && !line_end(*p_)) ++p_;
    if (p_ == end_ || *p_ != close) return;
    const std::string_view name(begin, static_cast<size_t>(p_ - begin));
    emit(name, name.starts_with('.') ? ImportKind::own : close == '>' ? ImportKind::other : ImportKind::quoted);
  }

  // use A\B\C as D, E\F; a closure's `use ($x)` and a trait without a namespace are none.
  void php() {
    do {
      if (!word("function")) word("const");
      skip_blanks();
      const std::string_view name = dotted_name("\\");
      if (name.find('\\') != std::string_view::npos) emit(name);
      if (word("as")) {
        skip_blanks();
        dotted_name("");
      }
      skip_blanks();
    } while (p_ < end_ && *p_ == ',' && ++p_);
  }

  void perl() {
    skip_blanks();
    const std::string_view name = dotted_name(":");
    const bool version =
        !name.empty() && (static_cast<uint8_t>(name[0] - '0') < 10 ||
                          (name[0] == 'v' && name.size() > 1 && static_cast<uint8_t>(name[1] - '0') < 10));
    if (!version) emit(name);
  }

  void list_of_names() {
    do {
      skip_blanks();
      const std::string_view name = dotted_name(".");
      emit(name, !name.empty() && name[0] == '.' ? ImportKind::own : ImportKind::other);
      skip_blanks();
    } while (p_ < end_ && *p_ == ',' && ++p_);
  }

  void haskell() {
    while (word("safe") || word("qualified")) {
    }
    skip_blanks();
    if (p_ < end_ && *p_ == '"') {
      quoted(ImportKind::other);
      return;
    }
    emit(dotted_name(".'"));
  }

  const char* const text_;
  const char* const end_;
  ImportList& list_;
  const char* p_ = nullptr;
};

// Whether the word [begin, end) of the text may import something, by what stands next to it. True more often than it
// does; the lexer and the reader decide.
bool may_import(const Lexis& lexis, const char* text, const char* text_end, const char* begin, const char* end) {
  if (end < text_end && lexis.name_bits[static_cast<uint8_t>(*end)]) return false;
  if (begin > text && lexis.name_bits[static_cast<uint8_t>(begin[-1])]) return false;
  switch (lexis.imports) {
    case Imports::javascript:
    case Imports::lua:
    case Imports::r:
    case Imports::ruby: {
      // A quote or a bracket follows.
      const char* p = end;
      while (p < text_end && blank(*p)) ++p;
      return p < text_end && std::strchr("'\"`([", *p);
    }
    default: {
      // Words alone stand before it on its line.
      constexpr std::ptrdiff_t looked_at = 64;
      const char* const stop = begin - std::min(begin - text, looked_at);
      for (const char* p = begin; p > stop && !line_end(p[-1]); --p) {
        if (!name_byte(p[-1]) && !blank(p[-1]) && !std::strchr("#;:(){}", p[-1])) return false;
      }
      return true;
    }
  }
}

// The end of the last word that may import something, 0 if there is none.
size_t last_import(const Lexis& lexis, const char* text, size_t size) {
  const char *const end = text + size, *last = text;
  for (const std::string& word : lexis.import_words) {
    for (const char* p = last; p < end;) {
      const char* const found = find_word(p, end, word);
      if (!found) break;
      p = found + word.size();
      if (may_import(lexis, text, end, found, p)) last = p;
    }
  }
  return static_cast<size_t>(last - text);
}

// What is lexed beyond the last word that may import, so that the lexer sees what follows it.
constexpr size_t beyond = 256;

// Reads the statements whose words are at the places that the lexer has noted.
void read_statements(const Lexis& lexis, const char* text, size_t size, const Scratch& scratch, ImportList& list) {
  Reader reader(text, text + size, list);
  const char* done = text;
  for (const size_t place : scratch.import_words) {
    // `from x import y` has two such words; the first has read both.
    if (text + place >= done) done = reader.read(lexis.imports, text + place);
  }
}

// Lexes the text up to `end` for its words that import, and nothing else.
void find_words(const Lexis& lexis, const char* text, size_t end, Scratch& scratch) {
  Row row;
  scratch.import_words.clear();
  ImportWords words{scratch.import_words, end, true};
  measure_tokens(lexis, text, end, scratch, row, &words);
}

}  // namespace

void find_imports(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, ImportList& list) {
  if (lexis.imports == Imports::none) return;
  const size_t last = last_import(lexis, text, size);
  if (last == 0) return;
  find_words(lexis, text, std::min(size, last + beyond), scratch);
  read_statements(lexis, text, size, scratch, list);
}

void measure_with_imports(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                          ImportList& list) {
  const size_t last = lexis.imports == Imports::none ? 0 : last_import(lexis, text, size);
  if (last == 0) {
    measure_lexical(lexis, text, size, scratch, row);
    return;
  }
  const size_t end = std::min(size, last + beyond);
  scratch.import_words.clear();
  ImportWords words{scratch.import_words, end};
  row.fill(0.0);
  measure_tokens(lexis, text, size, scratch, row, &words);
  measure_repetition(text, size, scratch, row);
  // `find_imports` ends its text there. Where that makes a difference, as within a long string, it is lexed as it does.
  if (words.depends) find_words(lexis, text, end, scratch);
  read_statements(lexis, text, size, scratch, list);
}

}  // namespace codeshell::text
