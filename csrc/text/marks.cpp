// Comments and strings: what begins with a mark of the language's table.
#include <algorithm>
#include <cstring>

#include "text/lexer.h"

namespace codeshell::text {

namespace {

constexpr std::ptrdiff_t longest_character = 12, longest_regex = 1024;  // bytes
constexpr int heredoc_attempts = 4;
constexpr size_t licence_bytes = 8192;  // of a comment that are searched for the words of a licence

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
  while (word < end && (is_letter(*word) || is_decimal(*word) || *word == '_' || *word == '.')) ++word;
  if (word == p || is_decimal(*p)) return false;
  const std::string_view name(p, static_cast<size_t>(word - p));
  // A call alone: name(...)
  if (word < end && *word == '(' && last == ')') return true;
  // An assignment: name = value
  const char* sign = word;
  while (sign < end && is_blank(*sign)) ++sign;
  if (sign < end && std::strchr("+-*/|&", *sign) && sign + 1 < end && sign[1] == '=') return true;
  if (sign + 1 < end && *sign == '=' && sign[1] != '=' && sign[1] != '>') return true;
  // A statement: its first word, and what only code has after it.
  for (const std::string_view opening :
       {"if", "for", "while", "def", "class", "elif", "else", "try", "except", "with"}) {
    if (name == opening && last == ':') return true;
  }
  if (name == "import" || name == "from") {
    // "from x import y", "import x": no prose of more words.
    return std::count_if(p, end, is_blank) <= 3 && last != '.';
  }
  return name == "return" && last != '.' && std::count_if(p, end, is_blank) <= 1;
}

}  // namespace

void Lexer::comment(const char* stop, bool documents) {
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

void Lexer::comment_line(const char* from, const char* to, bool documents) {
  // The shortest has three letters.
  const char* const stop = to - std::min<std::ptrdiff_t>(to - from, 2);
  for (const char* p = from; (p = find_any(p, stop, 'T', 'F', 'X', 'H')) < stop; ++p) {
    if (p > from && is_letter(p[-1])) continue;
    for (const std::string_view word : {"TODO", "FIXME", "XXX", "HACK"}) {
      if (starts_with(p, to, word) && (p + word.size() == to || !is_letter(p[word.size()]))) {
        ++todos_;
        p += word.size() - 1;
        break;
      }
    }
  }
  if (documents) return;
  while (from < to && (is_blank(*from) || std::strchr("/*#;%!-", *from))) ++from;
  while (from < to && (is_blank(to[-1]) || (to - from >= 2 && to[-1] == '/' && to[-2] == '*'))) {
    to -= is_blank(to[-1]) ? 1 : 2;
  }
  if (from == to) return;
  judged_comments_ += 1;
  code_comments_ += looks_like_code(from, to);
}

void Lexer::close_header() {
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

void Lexer::string(const char* stop) {
  const bool documents = lexis_.docstrings && !lines_.code && !depth_ && (previous_ == ':' || !seen_code_);
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
  strings_ += 1;
  string_characters_ += characters;
  longest_string_ = std::max(longest_string_, characters);
}

const char* Lexer::string_end(const char* p, const Marker& marker) const {
  const std::string& close = marker.close;
  const bool escapes = marker.kind != Marker::Kind::raw_string;
  const bool one_line = marker.kind == Marker::Kind::string;
  for (;; ++p) {
    // Bytes that mean nothing here are passed over.
    p = one_line ? find_any(p, end_, close[0], '\\', '\n', '\r') : find_any(p, end_, close[0], '\\');
    if (p >= end_) break;
    if (*p == close[0] && starts_with(p, end_, close)) return p + close.size();
    if (*p == '\\' && escapes) {
      // An escaped line end is \r\n at times.
      if (p + 2 < end_ && p[1] == '\r' && p[2] == '\n') ++p;
      if (++p == end_) break;
      continue;
    }
    if (one_line && is_line_end(*p)) return p;
  }
  return end_;
}

const char* Lexer::block_end(const char* p, const Marker& marker) const {
  const bool nested = marker.kind == Marker::Kind::nested_comment;
  int64_t open = 1;
  while (true) {
    p = nested ? find_any(p, end_, marker.close[0], marker.open[0]) : find_any(p, end_, marker.close[0]);
    if (p >= end_) break;
    if (*p == marker.close[0] && starts_with(p, end_, marker.close) &&
        (!marker.first || p == text_ || is_line_end(p[-1]))) {
      p += marker.close.size();
      if (--open == 0) return p;
    } else if (nested && starts_with(p, end_, marker.open)) {
      p += marker.open.size();
      ++open;
    } else {
      ++p;
    }
  }
  return end_;
}

const char* Lexer::find(const char* p, std::string_view what) const {
  const size_t place = std::string_view(p, static_cast<size_t>(end_ - p)).find(what);
  return place == std::string_view::npos ? end_ : p + place + what.size();
}

const char* Lexer::rest_of_line(const char* p) const { return find_any(p, end_, '\n', '\r'); }

const char* Lexer::long_bracket(const char* p) {
  const char* q = p + 1;
  while (q < end_ && *q == '=') ++q;
  looked_at(q + 1);
  if (q == end_ || *q != '[') return nullptr;
  return find(q + 1, ']' + std::string(static_cast<size_t>(q - p - 1), '=') + ']');
}

const char* Lexer::regex_end(const char* p) {
  const char* const stop = p + std::min(end_ - p, longest_regex);
  bool in_class = false;
  for (++p; p < stop && !is_line_end(*p); ++p) {
    if (*p == '\\') {
      ++p;
    } else if (*p == '[') {
      in_class = true;
    } else if (*p == ']') {
      in_class = false;
    } else if (*p == '/' && !in_class) {
      ++p;
      while (p < end_ && is_letter(*p)) ++p;  // its flags
      looked_at(p);
      return p;
    }
  }
  looked_at(p);
  return nullptr;
}

const char* Lexer::character_end(const char* p) {
  looked_at(p + longest_character + 4);
  const char quote = *p++;
  if (p == end_ || is_line_end(*p) || *p == quote) return nullptr;
  if (*p == '\\') {
    const char* const stop = p + std::min(end_ - p, longest_character);
    for (p += 2; p < stop && !is_line_end(*p); ++p) {
      if (*p == quote) return p + 1;
    }
    return nullptr;
  }
  p += decode(p, end_).size;
  return p < end_ && *p == quote ? p + 1 : nullptr;
}

bool Lexer::heredoc(const char* p, const Marker& marker) {
  p += marker.open.size();
  if (heredoc_failures_ >= heredoc_attempts || !heredoc_.empty() || (p < end_ && *p == '<')) return false;
  if (p < end_ && (*p == '-' || *p == '~')) ++p;
  while (p < end_ && is_blank(*p) && marker.open.size() == 3) ++p;
  const bool quoted = p < end_ && (*p == '"' || *p == '\'');
  p += quoted;
  const char* const name = p;
  if (p == end_ || (!is_letter(*p) && *p != '_')) return false;
  while (p < end_ && (is_letter(*p) || is_decimal(*p) || *p == '_')) ++p;
  heredoc_.assign(name, p);
  token('"');
  at_ = p + (quoted && p < end_ && (*p == '"' || *p == '\'') ? 1 : 0);
  return true;
}

void Lexer::heredoc_body() {
  const std::string name = std::move(heredoc_);
  heredoc_.clear();
  for (const char* p = at_; p < end_;) {
    const char* q = p;
    while (q < end_ && is_blank(*q)) ++q;
    if (starts_with(q, end_, name)) {
      const char* const stop = q + name.size();
      if (stop == end_ || !(is_letter(*stop) || is_decimal(*stop) || *stop == '_')) {
        looked_at(stop);
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
  looked_at(end_);
  ++heredoc_failures_;
}

bool Lexer::marker(Lexis::Range range) {
  for (uint16_t i = range.begin; i < range.end; ++i) {
    const Marker& m = lexis_.markers[lexis_.order[i]];
    if (!starts_with(at_, end_, m.open)) continue;
    if (m.first && at_ != line_) {
      const char* p = line_;
      while (p < at_ && is_blank(*p)) ++p;
      if (p != at_) continue;
    }
    if (m.after_blank && at_ > text_ && !is_blank(at_[-1]) && !is_line_end(at_[-1]) && !std::strchr(";(", at_[-1]))
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

bool Lexer::prefixed_string(const char* begin, const char* p) {
  for (const Marker& m : lexis_.markers) {
    if (m.kind == Marker::Kind::raw_cpp && p[-1] == 'R' && *p == '"') {
      const char* q = p + 1;
      while (q < end_ && q - p <= 17 && *q != '(' && !is_line_end(*q)) ++q;
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
  // The quote's own marker does the rest; the prefix counts as nothing.
  const Lexis::Range range = lexis_.markers_at[static_cast<uint8_t>(*p)];
  at_ = p;
  return range.begin != range.end && marker(range);
}

}  // namespace codeshell::text
