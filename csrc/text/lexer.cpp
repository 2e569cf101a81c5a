// The lexer: one walk over the bytes of a text, which counts as it goes. It knows a language only through its `Lexis`.
//
// It never goes back by more than a bounded number of bytes, so that every text takes linear time: a character literal
// is at most 12 bytes, a regular expression at most 1,024, and a here-document whose end is missing is tried four times.
#include <algorithm>
#include <cstring>
#include <limits>

#include "text/lexical.h"
#include "text/line_counter.h"
#include "text/utf8.h"

namespace codeshell::text {

namespace {

constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
constexpr std::ptrdiff_t longest_character = 12, longest_regex = 1024;
constexpr int heredoc_attempts = 4;
constexpr size_t licence_bytes = 8192;       // of a comment that are searched for the words of a licence
constexpr size_t most_imported = 4096;       // names
const uint64_t no_name = hash_bytes("", 0);  // before the dot of a member of anything

bool blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }
bool line_end(char c) { return c == '\n' || c == '\r'; }
bool letter(char c) { return static_cast<uint8_t>((c | 32) - 'a') < 26; }
bool decimal(char c) { return static_cast<uint8_t>(c - '0') < 10; }

bool starts_with(const char* p, const char* end, std::string_view word) {
  return static_cast<size_t>(end - p) >= word.size() && std::memcmp(p, word.data(), word.size()) == 0;
}

// Whether a text holds a word that licences have. Case does not count.
bool speaks_of_licence(const char* p, const char* end) {
  constexpr std::string_view words[] = {"copyright", "license", "licence", "spdx-"};
  for (; p < end; ++p) {
    const char c = static_cast<char>(*p | 32);
    if (c != 'c' && c != 'l' && c != 's') continue;
    for (const std::string_view word : words) {
      if (static_cast<size_t>(end - p) < word.size()) continue;
      size_t i = 0;
      while (i < word.size() && static_cast<char>(p[i] | 32) == word[i]) ++i;
      if (i == word.size()) return true;
    }
  }
  return false;
}

// Whether a line of a comment, its markers and blanks taken off, looks like code that was commented out.
bool looks_like_code(const char* p, const char* end) {
  if (end - p < 3) return false;
  const char last = end[-1];
  if (last == ';' || last == '{' || last == '}') return true;
  const char* word = p;
  while (word < end && (letter(*word) || decimal(*word) || *word == '_' || *word == '.')) ++word;
  if (word == p || decimal(*p)) return false;
  const std::string_view name(p, static_cast<size_t>(word - p));
  // A call alone: name(...)
  if (word < end && *word == '(' && last == ')') return true;
  // An assignment: name = value
  const char* sign = word;
  while (sign < end && blank(*sign)) ++sign;
  if (sign < end && std::strchr("+-*/|&", *sign) && sign + 1 < end && sign[1] == '=') return true;
  if (sign + 1 < end && *sign == '=' && sign[1] != '=' && sign[1] != '>') return true;
  // A statement: its first word, and what only code has after it.
  for (const std::string_view opening :
       {"if", "for", "while", "def", "class", "elif", "else", "try", "except", "with"}) {
    if (name == opening && last == ':') return true;
  }
  if (name == "import" || name == "from") {
    // "from x import y", "import x": no prose of more words.
    return std::count_if(p, end, blank) <= 3 && last != '.';
  }
  return name == "return" && last != '.' && std::count_if(p, end, blank) <= 1;
}

class Lexer {
 public:
  Lexer(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, std::vector<size_t>* import_words)
      : lexis_(lexis),
        text_(text),
        end_(text + size),
        at_(text),
        line_(text),
        names_(scratch.names),
        imported_(scratch.imported),
        import_words_(import_words),
        lines_(lexis.line_limit, skip_ascii(text, end_) == end_, scratch.lines, text) {
    names_.clear();
    imported_.clear();
  }

  void run(Row& row) {
    if (starts_with(at_, end_, "\xEF\xBB\xBF")) at_ += 3;
    while (at_ < end_) {
      const char c = *at_;
      if (blank(c)) {
        ++at_;
        continue;
      }
      if (line_end(c)) {
        newline();
        continue;
      }
      const auto byte = static_cast<uint8_t>(c);
      const Lexis::Range range = lexis_.markers_at[byte];
      if (range.begin != range.end && marker(range)) continue;
      if (lexis_.name_bits[byte] == digit) {
        number();
      } else if (lexis_.starts_name[byte]) {
        name();
      } else {
        symbol(c);
      }
    }
    if (line_ < end_) lines_.end(line_, end_);
    close_header();
    finish(row);
  }

 private:
  // ---- lines

  // The line ends at `at_`, which is at its line end.
  void end_of_line() {
    const bool was_blank = !lines_.code && !lines_.comment;
    lines_.end(line_, at_);
    at_ += *at_ == '\r' && at_ + 1 < end_ && at_[1] == '\n' ? 2 : 1;
    line_ = at_;
    constant_ = equals_ = declares_ = words_ = false;
    semicolon_ = false;
    if (was_blank && !in_comment_) close_header();
    if (importing_ && !inside_) importing_ = 0;
  }

  void newline() {
    end_of_line();
    lines_.continued = inside_ > 0;
    if (!heredoc_.empty()) heredoc_body();
  }

  // Takes [at_, stop) as text of one thing; each of its lines is noted as code or as comment and given to `piece`.
  template <typename Piece>
  void take(const char* stop, bool is_comment, Piece piece) {
    while (true) {
      const char* const begin = at_;
      while (at_ < stop && !line_end(*at_)) ++at_;
      if (at_ > begin) {
        (is_comment ? lines_.comment : lines_.code) = true;
        piece(begin, at_);
      }
      if (at_ >= stop) return;
      end_of_line();
      // A \r\n whose two bytes the end of the thing parts is not possible: things end with their closing mark.
      lines_.continued = true;
      if (at_ >= stop) return;
    }
  }

  // ---- comments

  void comment(const char* stop, bool documents) {
    in_comment_ = true;
    take(stop, true, [&](const char* from, const char* to) {
      const int64_t characters = lines_.characters(from, to);
      comment_characters_ += characters;
      if (documents) doc_characters_ += characters;
      comment_pieces_ += 1;
      if (!seen_code_) {
        if (!header_) header_ = from;
        header_end_ = to;
        header_characters_ += characters;
        if (documents) header_doc_ += characters;
      }
      comment_line(from, to, documents);
    });
    in_comment_ = false;
  }

  void comment_line(const char* from, const char* to, bool documents) {
    for (const char* p = from; p + 3 <= to; ++p) {
      if (*p != 'T' && *p != 'F' && *p != 'X' && *p != 'H') continue;
      if (p > from && letter(p[-1])) continue;
      for (const std::string_view word : {"TODO", "FIXME", "XXX", "HACK"}) {
        if (starts_with(p, to, word) && (p + word.size() == to || !letter(p[word.size()]))) {
          ++todos_;
          p += word.size() - 1;
          break;
        }
      }
    }
    if (documents) return;
    while (from < to && (blank(*from) || std::strchr("/*#;%!-", *from))) ++from;
    while (from < to && (blank(to[-1]) || (to - from >= 2 && to[-1] == '/' && to[-2] == '*'))) {
      to -= blank(to[-1]) ? 1 : 2;
    }
    if (from == to) return;
    judged_comments_ += 1;
    code_comments_ += looks_like_code(from, to);
  }

  // The comments at the top of a file, up to a blank line or to code, are its licence if they speak of one.
  void close_header() {
    if (!header_) return;
    const auto size = std::min(static_cast<size_t>(header_end_ - header_), licence_bytes);
    if (speaks_of_licence(header_, header_ + size)) {
      licence_characters_ += header_characters_;
      comment_characters_ -= header_characters_;
      doc_characters_ -= header_doc_;
    }
    header_ = nullptr;
    header_characters_ = header_doc_ = 0;
  }

  // ---- strings

  // A string from at_ (or a little before, its prefix) to `stop`.
  void string(const char* stop) {
    const bool documents = lexis_.docstrings && !lines_.code && !depth_ && (previous_ == ':' || !seen_code_);
    const char* const begin = at_;
    if (documents) {
      take(stop, true, [&](const char* from, const char* to) {
        const int64_t characters = lines_.characters(from, to);
        comment_characters_ += characters;
        doc_characters_ += characters;
        comment_pieces_ += 1;
      });
      seen_code_ = true;
      previous_ = '"';
      return;
    }
    token('"');
    int64_t characters = 0;
    take(stop, false, [&](const char* from, const char* to) { characters += lines_.characters(from, to); });
    (void)begin;
    strings_ += 1;
    string_characters_ += characters;
    longest_string_ = std::max(longest_string_, characters);
  }

  // The end of a string that begins at `p`, after its closing mark. Without one it ends with its line, or with the text.
  const char* string_end(const char* p, const Marker& marker) const {
    const std::string& close = marker.close;
    const bool escapes = marker.kind != Marker::Kind::raw_string;
    const bool one_line = marker.kind == Marker::Kind::string;
    for (; p < end_; ++p) {
      if (*p == close[0] && starts_with(p, end_, close)) return p + close.size();
      if (*p == '\\' && escapes) {
        // An escaped line end is \r\n at times.
        if (p + 2 < end_ && p[1] == '\r' && p[2] == '\n') ++p;
        if (++p == end_) break;
        continue;
      }
      if (one_line && line_end(*p)) return p;
    }
    return end_;
  }

  // The end of a block comment. Nested ones need as many ends as beginnings.
  const char* block_end(const char* p, const Marker& marker) const {
    int64_t open = 1;
    while (p < end_) {
      if (*p == marker.close[0] && starts_with(p, end_, marker.close) &&
          (!marker.first || p == text_ || line_end(p[-1]))) {
        p += marker.close.size();
        if (--open == 0) return p;
      } else if (marker.kind == Marker::Kind::nested_comment && starts_with(p, end_, marker.open)) {
        p += marker.open.size();
        ++open;
      } else {
        ++p;
      }
    }
    return end_;
  }

  const char* find(const char* p, std::string_view what) const {
    const size_t place = std::string_view(p, static_cast<size_t>(end_ - p)).find(what);
    return place == std::string_view::npos ? end_ : p + place + what.size();
  }

  const char* rest_of_line(const char* p) const {
    while (p < end_ && !line_end(*p)) ++p;
    return p;
  }

  // [==[ ... ]==]: the end, or null if at `p` is no such bracket.
  const char* long_bracket(const char* p) const {
    const char* q = p + 1;
    while (q < end_ && *q == '=') ++q;
    if (q == end_ || *q != '[') return nullptr;
    return find(q + 1, ']' + std::string(static_cast<size_t>(q - p - 1), '=') + ']');
  }

  // Whether a value, and so a regular expression, may stand after the last token.
  bool value_may_begin() const {
    return !(previous_ == 'a' || previous_ == '0' || previous_ == '"' || previous_ == ')' || previous_ == ']' ||
             previous_ == '}');
  }

  const char* regex_end(const char* p) const {
    const char* const stop = std::min(end_, p + longest_regex);
    bool in_class = false;
    for (++p; p < stop && !line_end(*p); ++p) {
      if (*p == '\\') {
        ++p;
      } else if (*p == '[') {
        in_class = true;
      } else if (*p == ']') {
        in_class = false;
      } else if (*p == '/' && !in_class) {
        ++p;
        while (p < end_ && letter(*p)) ++p;  // its flags
        return p;
      }
    }
    return nullptr;
  }

  const char* character_end(const char* p) const {
    const char quote = *p++;
    if (p == end_ || line_end(*p) || *p == quote) return nullptr;
    if (*p == '\\') {
      const char* const stop = std::min(end_, p + longest_character);
      for (p += 2; p < stop && !line_end(*p); ++p) {
        if (*p == quote) return p + 1;
      }
      return nullptr;
    }
    p += decode(p, end_).size;
    return p < end_ && *p == quote ? p + 1 : nullptr;
  }

  // <<NAME and its relations: notes NAME, whose body begins on the next line.
  bool heredoc(const char* p, const Marker& marker) {
    p += marker.open.size();
    if (heredoc_failures_ >= heredoc_attempts || !heredoc_.empty() || (p < end_ && *p == '<')) return false;
    if (p < end_ && (*p == '-' || *p == '~')) ++p;
    while (p < end_ && blank(*p) && marker.open.size() == 3) ++p;
    const bool quoted = p < end_ && (*p == '"' || *p == '\'');
    p += quoted;
    const char* const name = p;
    if (p == end_ || (!letter(*p) && *p != '_')) return false;
    while (p < end_ && (letter(*p) || decimal(*p) || *p == '_')) ++p;
    heredoc_.assign(name, p);
    token('"');
    at_ = p + (quoted && p < end_ ? 1 : 0);
    if (at_ < end_ && quoted && line_end(at_[-1])) --at_;
    return true;
  }

  void heredoc_body() {
    const std::string name = std::move(heredoc_);
    heredoc_.clear();
    for (const char* p = at_; p < end_;) {
      const char* q = p;
      while (q < end_ && blank(*q)) ++q;
      if (starts_with(q, end_, name)) {
        const char* const stop = q + name.size();
        if (stop == end_ || !(letter(*stop) || decimal(*stop) || *stop == '_')) {
          int64_t characters = 0;
          take(stop, false, [&](const char* from, const char* to) { characters += lines_.characters(from, to); });
          strings_ += 1;
          string_characters_ += characters;
          longest_string_ = std::max(longest_string_, characters);
          return;
        }
      }
      p = rest_of_line(p);
      if (p < end_) ++p;
    }
    ++heredoc_failures_;
  }

  // Tries the markers that begin with the byte at at_, the longest first. False if none of them is meant.
  bool marker(Lexis::Range range) {
    for (uint16_t i = range.begin; i < range.end; ++i) {
      const Marker& m = lexis_.markers[lexis_.order[i]];
      if (!starts_with(at_, end_, m.open)) continue;
      if (m.first && at_ != line_) {
        const char* p = line_;
        while (p < at_ && blank(*p)) ++p;
        if (p != at_) continue;
      }
      if (m.after_blank && at_ > text_ && !blank(at_[-1]) && !line_end(at_[-1]) && !std::strchr(";(", at_[-1]))
        continue;
      const char* const inside = at_ + m.open.size();
      const char* stop = nullptr;
      switch (m.kind) {
        case Marker::Kind::line_comment:
          // `////` is a rule, no documentation.
          comment(rest_of_line(inside), m.doc && !(inside < end_ && *inside == m.open.back()));
          return true;
        case Marker::Kind::block_comment:
        case Marker::Kind::nested_comment: {
          // `/**/` is `/*` and its end; the marker of documentation must not take the end's star.
          const bool ended = m.doc && inside < end_ && *inside == '/';
          comment(ended ? inside + 1 : block_end(inside, m), m.doc && !ended);
          return true;
        }
        case Marker::Kind::string:
        case Marker::Kind::long_string:
        case Marker::Kind::raw_string: string(string_end(inside, m)); return true;
        case Marker::Kind::character:
          stop = character_end(at_);
          if (!stop) continue;
          string(stop);
          return true;
        case Marker::Kind::raw_lua: {
          const bool is_comment = m.open[0] == '-';
          stop = long_bracket(is_comment ? inside - 1 : at_);
          if (!stop) continue;
          is_comment ? comment(stop, false) : string(stop);
          return true;
        }
        case Marker::Kind::regex:
          stop = value_may_begin() ? regex_end(at_) : nullptr;
          if (!stop) continue;
          string(stop);
          return true;
        case Marker::Kind::heredoc:
          if (!heredoc(at_, m)) continue;
          return true;
        case Marker::Kind::raw_cpp:
        case Marker::Kind::raw_rust: continue;  // these begin with a name: `prefixed_string`
      }
    }
    return false;
  }

  // A string whose prefix is [begin, p), where p is at a quote or at Rust's `#`. False if it is none.
  bool prefixed_string(const char* begin, const char* p) {
    for (const Marker& m : lexis_.markers) {
      if (m.kind == Marker::Kind::raw_cpp && p[-1] == 'R' && *p == '"') {
        const char* q = p + 1;
        while (q < end_ && q - p <= 17 && *q != '(' && !line_end(*q)) ++q;
        if (q == end_ || *q != '(') return false;
        at_ = begin;
        string(find(q + 1, ')' + std::string(p + 1, q) + '"'));
        return true;
      }
      if (m.kind == Marker::Kind::raw_rust && p[-1] == 'r') {
        const char* q = p;
        while (q < end_ && *q == '#') ++q;
        if (q == end_ || *q != '"') return false;
        at_ = begin;
        string(find(q + 1, '"' + std::string(p, q)));
        return true;
      }
    }
    if (*p == '#') return false;
    // The quote's own marker does the rest; the prefix is part of the string.
    const Lexis::Range range = lexis_.markers_at[static_cast<uint8_t>(*p)];
    at_ = p;
    return range.begin != range.end && marker(range);
  }

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
  void catch_token(char kind) {
    if (lexis_.catches == Catches::indented) {
      if (catching_ == 1) {
        catching_ = kind == ':' ? 0 : 2;
        empty_catches_ += kind == ':';
      } else if (catching_ == 2 && kind == ':' && depth_ == catch_depth_) {
        catching_ = 3;
      } else if (catching_ == 3) {
        empty_catches_ += kind == 'k' && passes_;
        catching_ = 0;
      }
      return;
    }
    // 1: after the word; 2: in its brackets; 3: after them; 4: in the block.
    if (catching_ == 1 && kind == '(') {
      catching_ = 2;
      catch_dots_ = 0;
    } else if (catching_ == 2) {
      catch_dots_ = kind == '.' ? catch_dots_ + 1 : 0;
      if (catch_dots_ == 3) {
        empty_catches_ += 1;
        catching_ = 0;
      } else if (kind == ')' && depth_ == catch_depth_) {
        catching_ = 3;
      }
    } else if (catching_ == 4 || kind != '{') {
      empty_catches_ += catching_ == 4 && kind == '}';
      catching_ = 0;
    } else {
      catching_ = 4;
    }
  }

  void number() {
    const char* const begin = at_;
    const char* p = at_;
    const bool hex = *p == '0' && p + 1 < end_ && (p[1] | 32) == 'x';
    for (++p; p < end_; ++p) {
      const uint8_t bits = lexis_.name_bits[static_cast<uint8_t>(*p)];
      if (bits & (lower | upper | digit | underscore)) continue;
      const bool more = p + 1 < end_ && decimal(p[1]);
      if (*p == '.' && (more || p + 1 == end_ || (p[1] != '.' && !letter(p[1]) && p[1] != '_'))) continue;
      if ((*p == '+' || *p == '-') && more && !hex && (p[-1] | 32) == 'e') continue;
      if (*p == '\'' && more && lexis_.prefixes) continue;  // C++'s 1'000
      break;
    }
    token('0');
    numbers_ += 1;
    magic_numbers_ += !constant_ && is_magic(begin, p);
    after_name_ = false;
    at_ = p;
  }

  // A number is magic unless it is 0, 1, 2 or a power of ten up to 1,000, with or without a suffix and zeros after the
  // point.
  static bool is_magic(const char* p, const char* end) {
    int64_t value = 0;
    for (; p < end && (decimal(*p) || *p == '_'); ++p) {
      if (*p != '_') value = std::min<int64_t>(value * 10 + (*p - '0'), 1'000'000);
    }
    if (p < end && *p == '.') {
      for (++p; p < end && decimal(*p); ++p) {
        if (*p != '0') return true;
      }
    }
    // A suffix such as `UL`; anything longer, or hexadecimal, is a number of its own.
    if (end - p > 3 || (p < end && (*p | 32) == 'x')) return true;
    return !(value <= 2 || value == 10 || value == 100 || value == 1000);
  }

  void name() {
    const char* const begin = at_;
    uint8_t bits = 0;
    const char* p = at_;
    for (uint8_t b; p < end_ && (b = lexis_.name_bits[static_cast<uint8_t>(*p)]); ++p) bits |= b;
    const auto size = static_cast<size_t>(p - begin);
    if (lexis_.prefixes && size <= 3 && p < end_ && (*p == '"' || *p == '\'' || *p == '#') &&
        bits < digit + lower + upper + 1 && prefixed_string(begin, p)) {
      return;
    }
    at_ = p;
    const uint64_t hash = hash_bytes(begin, size);
    const bool joined = joined_;
    chain_ = joined ? join_hashes(chain_, hash) : hash;
    uint32_t word = lexis_.words.find(chain_);
    if (joined) word |= lexis_.words.find(join_hashes(no_name, hash));
    if (starts_with(begin, p, "assert")) word |= asserts;
    if (word & called) {
      const char* q = p;
      while (q < end_ && blank(*q)) ++q;
      if (q == end_ || (*q != '(' && *q != '!')) word = 0;
    }
    if (word) count_word(word, begin);
    passes_ = word & kw_pass;
    if (word & keyword) {
      token('k');
      if (word & kw_catch) {
        catching_ = 1;
        catch_depth_ = depth_;
      }
      declares_ |= (word & declares) != 0;
      words_ = true;
      after_name_ = false;
      import_keyword(word, begin, size);
      return;
    }
    token('a');
    after_name_ = true;
    identifier(begin, p, hash, bits, joined);
  }

  void count_word(uint32_t word, const char* begin) {
    functions_ += (word & kw_function) != 0;
    classes_ += (word & kw_class) != 0;
    returns_ += (word & kw_return) != 0;
    branches_ += (word & kw_branch) != 0;
    loops_ += (word & kw_loop) != 0;
    errors_ += (word & kw_error) != 0;
    gotos_ += (word & kw_goto) != 0;
    decisions_ += (word & (kw_branch | kw_loop | kw_and_or)) != 0;
    prints_ += (word & print) != 0;
    reads_ += (word & reads) != 0;
    asserts_ += (word & asserts) != 0;
    risky_ += (word & risky) != 0;
    if (word & kw_import) {
      imports_ += (word & keyword) != 0;
      if (import_words_) import_words_->push_back(static_cast<size_t>(begin - text_));
    }
  }

  // `import a, b as c`, `from x import a`, `import a, {b as c} from 'x'`: notes which names the statement binds.
  void import_keyword(uint32_t word, const char* begin, size_t size) {
    const std::string_view text(begin, size);
    const bool python = lexis_.imports == Imports::python;
    if (!python && lexis_.imports != Imports::javascript) return;
    if (text == "from" && python) {
      importing_ = 1;
    } else if (word & kw_import && text == "import") {
      importing_ = importing_ == 3 ? 0 : 2;
    } else if (importing_ == 2 && text == "as" && !imported_.empty()) {
      imported_.pop_back();
    } else if (importing_ && text != "as" && text != "type") {
      importing_ = 0;
    }
  }

  void identifier(const char* begin, const char* end, uint64_t hash, uint8_t bits, bool joined) {
    identifiers_ += 1;
    identifier_characters_ += bits & foreign ? count_characters(begin, static_cast<size_t>(end - begin)) : end - begin;
    if (importing_) {
      if (importing_ == 1 && std::string_view(begin, static_cast<size_t>(end - begin)) == "__future__") importing_ = 3;
      // In JavaScript `from` is no keyword; it ends the names.
      const bool from = lexis_.imports == Imports::javascript && starts_with(begin, end, "from") && end - begin == 4;
      if (from) importing_ = 0;
      if (importing_ == 2 && !joined && imported_.size() < most_imported) imported_.push_back(hash);
    }
    if (!equals_ && !(bits & lower) && (bits & upper) && end - begin > 1) constant_seen_ = true;
    if (constant_seen_ && previous_line_name_ != line_) {
      previous_line_name_ = line_;
    }
    if (identifiers_ > repetition_items) return;
    uint32_t& times = names_[hash];
    if (times++ == 0) shape(begin, end);
  }

  // The form of a name, underscores at its ends apart.
  void shape(const char* p, const char* end) {
    distinct_ += 1;
    numbered_ += end - p > 1 && decimal(end[-1]);
    while (p < end && (*p == '_' || *p == '$' || *p == '@')) ++p;
    while (p < end && end[-1] == '_') --end;
    uint8_t bits = 0;
    for (const char* q = p; q < end; ++q) bits |= lexis_.name_bits[static_cast<uint8_t>(*q)];
    const bool under = bits & underscore;
    if (p == end || bits & foreign) {
      other_ += 1;
    } else if (end - p == 1) {
      single_ += 1;
    } else if (!(bits & upper)) {
      (under ? snake_ : lower_) += 1;
    } else if (!(bits & lower)) {
      constants_ += 1;
    } else if (under) {
      other_ += 1;
    } else {
      (lexis_.name_bits[static_cast<uint8_t>(*p)] == upper ? pascal_ : camel_) += 1;
    }
  }

  void symbol(char c) {
    const char next = at_ + 1 < end_ ? at_[1] : '\n';
    if (c == '.' && decimal(next) && !(previous_ == 'a' || previous_ == ')' || previous_ == ']')) {
      number();
      return;
    }
    const bool after_name = after_name_ && at_ > line_ && lexis_.name_bits[static_cast<uint8_t>(at_[-1])];
    const char before = previous_;
    token(c);
    after_name_ = false;
    const char* const begin = at_++;
    switch (c) {
      case '(':
      case '[':
      case '{':
        brackets_ += 1;
        parentheses_ += c == '(';
        if (depth_ < static_cast<int64_t>(stack_.size())) stack_[static_cast<size_t>(depth_)] = c;
        ++depth_;
        inside_ += c != '{';
        break;
      case ')':
      case ']':
      case '}':
        brackets_ += 1;
        if (depth_ > 0) --depth_;
        if (c != '}' && inside_ > 0) --inside_;
        // A brace closes whatever round bracket was left open in it.
        if (depth_ == 0) inside_ = 0;
        break;
      case '&':
      case '|':
        operators_ += 1;
        if (next == c) {
          operators_ += 1;
          decisions_ += 1;
          ++at_;
        }
        break;
      case '?':
        operators_ += 1;
        if (next == '.') {
          joined_ = after_name;
          ++at_;
        } else if (next == '?') {
          ++at_;
        } else {
          decisions_ += !std::strchr(":;),?>]=", next) && blank(next);
        }
        break;
      case '=':
        operators_ += 1;
        assignment(begin, next, before);
        break;
      case ',':
        commas_ += 1;
        spaced_commas_ += blank(next) || line_end(next) || next == ')' || next == ']' || next == '}';
        break;
      case ';':
        if (!inside_) semicolon_ = true;
        lines_.semicolon = true;
        importing_ = 0;
        break;
      case '.': joined_ = after_name; break;
      case ':':
        if (next == ':') {
          joined_ = after_name;
          ++at_;
        } else if (lexis_.annotations != Annotations::none) {
          annotation(begin, after_name);
        }
        break;
      case '-':
        operators_ += 1;
        if (next == '>') {
          joined_ = after_name;
          annotations_ += lexis_.annotations == Annotations::python;
          ++at_;
        }
        break;
      case '+':
      case '*':
      case '/':
      case '%':
      case '<':
      case '>':
      case '!':
      case '^':
      case '~': operators_ += 1; break;
      default: break;
    }
  }

  // `=` alone, outside of brackets where a keyword argument may stand: blanks on both sides or not.
  void assignment(const char* begin, char next, char before) {
    const bool alone =
        next != '=' && next != '>' && next != '~' && !(begin > text_ && std::strchr("=!<>+-*/%&|^:~?.@", begin[-1]));
    if (next == '=' || next == '>') ++at_;
    if (!alone) return;
    equals_ = true;
    constant_ = constant_ || constant_seen_;
    constant_seen_ = false;
    (void)before;
    if (inside_) return;
    assignments_ += 1;
    spaced_assignments_ += begin > text_ && blank(begin[-1]) && (blank(next) || line_end(next));
  }

  // A colon that may give a type: after a parameter, or after a name that is declared.
  void annotation(const char* begin, bool after_name) {
    const char top =
        depth_ > 0 && depth_ <= static_cast<int64_t>(stack_.size()) ? stack_[static_cast<size_t>(depth_ - 1)] : '\0';
    if (lexis_.annotations == Annotations::python) {
      annotations_ += after_name && (top == '(' || (depth_ == 0 && !words_));
      return;
    }
    const bool after_close = begin > text_ && (begin[-1] == ')' || begin[-1] == '?');
    annotations_ += (after_name && (top == '(' || declares_)) || after_close;
  }

  void finish(Row& row) const {
    lines_.finish(row);
    const int64_t code = lines_.code_lines(), characters = lines_.characters(text_, end_);
    const auto set = [&row](Column column, double value) { at(row, column) = value; };
    const auto per_line = [&](Column column, int64_t count) { set(column, ratio(count, code)); };
    const auto per_name = [&](Column column, int64_t count) { set(column, ratio(count, distinct_)); };
    set(Column::comment_share, ratio(comment_characters_, characters));
    set(Column::docstring_share, ratio(doc_characters_, characters));
    set(Column::licence_share, ratio(licence_characters_, characters));
    set(Column::comment_length, ratio(comment_characters_ + licence_characters_, comment_pieces_));
    set(Column::commented_code, ratio(code_comments_, judged_comments_));
    set(Column::todos, ratio(todos_, lines_.filled_lines()));
    set(Column::final_newline, end_ > text_ && line_end(end_[-1]));
    set(Column::identifiers, static_cast<double>(identifiers_));
    set(Column::identifier_length, ratio(identifier_characters_, identifiers_));
    set(Column::identifier_distinct, ratio(distinct_, std::min(identifiers_, repetition_items)));
    per_name(Column::name_single, single_);
    per_name(Column::name_lower, lower_);
    per_name(Column::name_snake, snake_);
    per_name(Column::name_camel, camel_);
    per_name(Column::name_pascal, pascal_);
    per_name(Column::name_constant, constants_);
    per_name(Column::name_other, other_);
    per_name(Column::name_numbered, numbered_);
    set(Column::unused_imports, unused_imports());
    per_line(Column::numbers, numbers_);
    per_line(Column::magic_numbers, magic_numbers_);
    per_line(Column::strings, strings_);
    set(Column::string_share, ratio(string_characters_, characters));
    set(Column::longest_string, static_cast<double>(longest_string_));
    per_line(Column::prints, prints_);
    per_line(Column::console_reads, reads_);
    per_line(Column::asserts, asserts_);
    set(Column::risky_calls, static_cast<double>(risky_));
    set(Column::empty_catches, static_cast<double>(empty_catches_));
    per_line(Column::type_annotations, annotations_);
    if (lexis_.annotations == Annotations::none) set(Column::type_annotations, nothing);
    per_line(Column::parentheses, parentheses_);
    set(Column::brackets, ratio(brackets_, characters));
    set(Column::operators, ratio(operators_, characters));
    set(Column::spaced_commas, ratio(spaced_commas_, commas_, nothing));
    set(Column::spaced_assignments, ratio(spaced_assignments_, assignments_, nothing));
    per_line(Column::tokens_per_line, tokens_);
    per_line(Column::decisions, decisions_);
    per_line(Column::kw_functions, functions_);
    per_line(Column::kw_classes, classes_);
    per_line(Column::kw_returns, returns_);
    per_line(Column::kw_branches, branches_);
    per_line(Column::kw_loops, loops_);
    per_line(Column::kw_errors, errors_);
    per_line(Column::kw_imports, imports_);
    per_line(Column::kw_gotos, gotos_);
  }

  // The share of imported names that occur nowhere else; null where none is imported.
  double unused_imports() const {
    int64_t unused = 0;
    for (const uint64_t hash : imported_) unused += names_.find(hash) == 1;
    return ratio(unused, static_cast<int64_t>(imported_.size()), nothing);
  }

  const Lexis& lexis_;
  const char* const text_;
  const char* const end_;
  const char* at_;
  const char* line_;  // where the present line begins
  Counts& names_;
  std::vector<uint64_t>& imported_;
  std::vector<size_t>* const import_words_;
  LineCounter lines_;

  // What the last tokens were.
  char previous_ = '\0';
  bool after_name_ = false, joined_ = false, passes_ = false, seen_code_ = false, in_comment_ = false;
  bool constant_ = false, constant_seen_ = false, equals_ = false, declares_ = false, words_ = false,
       semicolon_ = false;
  const char* previous_line_name_ = nullptr;
  uint64_t chain_ = 0;
  int importing_ = 0;  // 1: after `from`; 2: among the names; 3: of a module that does not count
  int catching_ = 0, catch_dots_ = 0, heredoc_failures_ = 0;
  int64_t catch_depth_ = 0;
  std::string heredoc_;
  // Open brackets; the kinds of the outer 256.
  int64_t depth_ = 0, inside_ = 0;
  std::array<char, 256> stack_{};
  // The comments at the top of the file.
  const char* header_ = nullptr;
  const char* header_end_ = nullptr;
  int64_t header_characters_ = 0, header_doc_ = 0;

  int64_t comment_characters_ = 0, doc_characters_ = 0, licence_characters_ = 0, comment_pieces_ = 0;
  int64_t judged_comments_ = 0, code_comments_ = 0, todos_ = 0;
  int64_t identifiers_ = 0, identifier_characters_ = 0, distinct_ = 0, numbered_ = 0;
  int64_t single_ = 0, lower_ = 0, snake_ = 0, camel_ = 0, pascal_ = 0, constants_ = 0, other_ = 0;
  int64_t numbers_ = 0, magic_numbers_ = 0, strings_ = 0, string_characters_ = 0, longest_string_ = 0;
  int64_t prints_ = 0, reads_ = 0, asserts_ = 0, risky_ = 0, empty_catches_ = 0, annotations_ = 0;
  int64_t parentheses_ = 0, brackets_ = 0, operators_ = 0, commas_ = 0, spaced_commas_ = 0;
  int64_t assignments_ = 0, spaced_assignments_ = 0, tokens_ = 0, decisions_ = 0;
  int64_t functions_ = 0, classes_ = 0, returns_ = 0, branches_ = 0, loops_ = 0, errors_ = 0, imports_ = 0, gotos_ = 0;
};

}  // namespace

void measure_tokens(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                    std::vector<size_t>* import_words) {
  Lexer(lexis, text, size, scratch, import_words).run(row);
}

}  // namespace codeshell::text
