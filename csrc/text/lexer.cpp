// The walk of the lexer: names, numbers, symbols, and the columns at the end.
#include "text/lexer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace codeshell::text {

namespace {

constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
constexpr size_t most_imported = 4096;  // names
// Whether a byte before `=` makes another operator of both.
constexpr bool extends_equals(char c) {
  // A bit for each byte below 64; the others are `@`, `^`, `|` and `~`.
  constexpr uint64_t below = [] {
    uint64_t bits = 1;  // NUL
    for (const char sign : {'=', '!', '<', '>', '+', '-', '*', '/', '%', '&', ':', '?', '.'})
      bits |= uint64_t{1} << sign;
    return bits;
  }();
  const auto byte = static_cast<uint8_t>(c);
  return byte < 64 ? below >> byte & 1 : c == '@' || c == '^' || c == '|' || c == '~';
}

const uint64_t no_name = hash_bytes("", 0);  // before the dot of a member of anything

}  // namespace

void Lexer::run(Row& row) {
  if (starts_with(at_, end_, "\xEF\xBB\xBF")) at_ += 3;
  while (at_ < end_) {
    const char c = *at_;
    const auto byte = static_cast<uint8_t>(c);
    ByteKind kind = lexis_.kinds[byte];
    if (kind == ByteKind::marker) {
      if (marker(lexis_.markers_at[byte])) continue;
      kind = lexis_.plain_kinds[byte];
    }
    switch (kind) {
      case ByteKind::blank: at_ = skip_spaces(at_ + 1, end_); break;
      case ByteKind::line_end: newline(); break;
      case ByteKind::digit: number(); break;
      case ByteKind::name: name(); break;
      default: symbol(kind, c); break;
    }
  }
  if (!counts_) return;
  if (line_ < end_) lines_.end(line_, indented_, end_);
  close_header();
  finish(row);
}

void Lexer::catch_token(char kind) {
  if (lexis_.catches == Catches::indented) {
    if (catching_ == 1) {
      catching_ = kind == ':' ? 0 : 2;
      bare_catches_ += kind == ':';
    } else if (catching_ == 2 && kind == ':' && depth_ == catch_depth_) {
      catching_ = 3;
    } else if (catching_ == 3) {
      bare_catches_ += kind == 'k' && passes_;
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
      bare_catches_ += 1;
      catching_ = 0;
    } else if (kind == ')' && depth_ == catch_depth_ + 1) {
      catching_ = 3;
    }
  } else if (catching_ == 4 || kind != '{') {
    bare_catches_ += catching_ == 4 && kind == '}';
    catching_ = 0;
  } else {
    catching_ = 4;
  }
}

void Lexer::number() {
  const char* const begin = at_;
  const char* p = at_;
  const bool hex = *p == '0' && p + 1 < end_ && (p[1] | 32) == 'x';
  for (++p; p < end_; ++p) {
    const uint8_t bits = lexis_.name_bits[static_cast<uint8_t>(*p)];
    if (bits & (lower | upper | digit | underscore)) continue;
    const bool more = p + 1 < end_ && is_decimal(p[1]);
    if (*p == '.' && (more || p + 1 == end_ || (p[1] != '.' && !is_letter(p[1]) && p[1] != '_'))) continue;
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

bool Lexer::is_magic(const char* p, const char* end) {
  int64_t value = 0;
  for (; p < end && (is_decimal(*p) || *p == '_'); ++p) {
    if (*p != '_') value = std::min<int64_t>(value * 10 + (*p - '0'), 1'000'000);
  }
  if (p < end && *p == '.') {
    for (++p; p < end && is_decimal(*p); ++p) {
      if (*p != '0') return true;
    }
  }
  // A suffix such as `UL`; anything longer, or hexadecimal, is a number of its own.
  if (end - p > 3 || (p < end && (*p | 32) == 'x')) return true;
  return !(value <= 2 || value == 10 || value == 100 || value == 1000);
}

const char* Lexer::name_end(const char* p, uint8_t& bits) const {
  // The first byte is of the name, whatever it is: the others are read sixteen at a time.
  bits = lexis_.name_bits[static_cast<uint8_t>(*p)];
  ++p;
  while (end_ - p >= 16) {
    const NameMasks masks = name_masks(p);
    const auto size = static_cast<size_t>(std::countr_one(masks.name));
    const uint32_t inside = low_bits(size);
    bits = static_cast<uint8_t>(bits | ((masks.lower & inside) != 0) * lower | ((masks.upper & inside) != 0) * upper |
                                ((masks.foreign & inside) != 0) * foreign);
    p += size;
    if (size < 16) break;
  }
  // The last bytes of the text, and signs that are of names in this language alone.
  for (uint8_t b; p < end_ && (b = lexis_.name_bits[static_cast<uint8_t>(*p)]); ++p) bits |= b;
  return p;
}

void Lexer::name() {
  const char* const begin = at_;
  uint8_t bits = 0;
  const char* const p = name_end(at_, bits);
  const auto size = static_cast<size_t>(p - begin);
  if (p >= words_end_ && words_) [[unlikely]]
    last_import_word(begin, p);
  if (p < end_ && (*p == '"' || *p == '\'' || *p == '#') && size <= 3 && lexis_.prefixes &&
      std::all_of(begin, p, [](char c) { return is_letter(c) || is_decimal(c); }) && prefixed_string(begin, p)) {
    return;
  }
  at_ = p;
  skip_space();
  const uint64_t hash = hash_bytes(begin, size, end_);
  const bool joined = joined_;
  chain_ = joined ? join_hashes(chain_, hash) : hash;
  uint32_t word = lexis_.words.find(chain_);
  if (joined) word |= lexis_.words.find(join_hashes(no_name, hash));
  if (*begin == 'a' && starts_with(begin, p, "assert")) word |= asserts;
  if (word & called) {
    const char* q = p;
    while (q < end_ && is_blank(*q)) ++q;
    if (words_ && q >= words_end_ && word & kw_import) words_->depends = true;
    if (q == end_ || (*q != '(' && *q != '!')) word = 0;
  }
  if (word & kw_import && words_) words_->places.push_back(static_cast<size_t>(begin - text_));
  if (!counts_) {
    // The walk needs to know what the last token was.
    token(word & keyword ? 'k' : 'a');
    after_name_ = !(word & keyword);
    return;
  }
  if (word) count_word(word);
  passes_ = word & kw_pass;
  if (word & keyword) {
    token('k');
    if (word & kw_catch) {
      catching_ = 1;
      catch_depth_ = depth_;
    }
    declares_ |= (word & declares) != 0;
    if (lexis_.docstrings && std::string_view(begin, size) == "lambda") lambda_ = depth_;
    statement_ = true;
    after_name_ = false;
    import_keyword(word, begin, size);
    return;
  }
  token('a');
  after_name_ = true;
  identifier(begin, p, hash, bits, joined);
}

void Lexer::last_import_word(const char* begin, const char* end) {
  if (begin < words_end_) {
    // The name, or what the end of the words leaves of it, may import.
    const auto whole = static_cast<size_t>(end - begin), cut = static_cast<size_t>(words_end_ - begin);
    for (const size_t size : {whole, cut}) {
      const uint64_t hash = hash_bytes(begin, size, end_);
      uint32_t word = lexis_.words.find(hash);
      if (joined_) {
        word |= lexis_.words.find(join_hashes(chain_, hash)) | lexis_.words.find(join_hashes(no_name, hash));
      }
      if (word & kw_import) words_->depends = true;
    }
  }
  // Where the text ends there, the name is still one of those that are wanted.
  if (words_end_ != end_) words_ = nullptr;
}

void Lexer::count_word(uint32_t word) {
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
  imports_ += (word & kw_import) && (word & keyword);
}

void Lexer::import_keyword(uint32_t word, const char* begin, size_t size) {
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

void Lexer::identifier(const char* begin, const char* end, uint64_t hash, uint8_t bits, bool joined) {
  identifiers_ += 1;
  identifier_characters_ += bits & foreign ? lines_.characters(begin, end) : end - begin;
  if (importing_) {
    if (importing_ == 1 && std::string_view(begin, static_cast<size_t>(end - begin)) == "__future__") importing_ = 3;
    // In JavaScript `from` is no keyword; it ends the names.
    const bool from = lexis_.imports == Imports::javascript && starts_with(begin, end, "from") && end - begin == 4;
    if (from) importing_ = 0;
    if (importing_ == 2 && !joined && imported_.size() < most_imported) imported_.push_back(hash);
  }
  if (!equals_ && !(bits & lower) && (bits & upper) && end - begin > 1) constant_seen_ = true;
  if (identifiers_ > repetition_items) return;
  if (names_.add(hash) == 0) shape(begin, end, bits);
}

void Lexer::shape(const char* p, const char* end, uint8_t bits) {
  distinct_ += 1;
  numbered_ += end - p > 1 && is_decimal(end[-1]);
  const auto size = static_cast<size_t>(end - p);
  size_t length = 0;  // without underscores at the ends
  bool under = false, begins_upper = false;
  if (size <= 16 && end_ - p >= 16 && !(bits & foreign)) {
    const NameMasks masks = name_masks(p);
    const uint32_t inside = masks.name & ~masks.underscore & low_bits(size);
    if (inside) {
      const int first = std::countr_zero(inside);
      length = static_cast<size_t>(32 - std::countl_zero(inside) - first);
      under = std::popcount(inside) < static_cast<int>(length);
      begins_upper = masks.upper >> first & 1;
    }
  } else {
    while (p < end && (*p == '_' || *p == '$' || *p == '@')) ++p;
    while (p < end && end[-1] == '_') --end;
    length = static_cast<size_t>(end - p);
    bits = 0;
    for (const char* q = p; q < end; ++q) bits |= lexis_.name_bits[static_cast<uint8_t>(*q)];
    under = bits & underscore;
    begins_upper = length && lexis_.name_bits[static_cast<uint8_t>(*p)] == upper;
  }
  Form form;
  if (length == 0 || bits & foreign) {
    form = other;
  } else if (length == 1) {
    form = single;
  } else if (!(bits & upper)) {
    form = under ? snake : plain;
  } else if (!(bits & lower)) {
    form = constant;
  } else {
    form = under ? other : begins_upper ? pascal : camel;
  }
  shapes_[form] += 1;
}

void Lexer::symbol(ByteKind kind, char c) {
  const char next = at_ + 1 < end_ ? at_[1] : '\n';
  if (kind == ByteKind::dot && is_decimal(next) && !(previous_ == 'a' || previous_ == ')' || previous_ == ']')) {
    number();
    return;
  }
  token(c);
  const char* const begin = at_;
  // Whether a name ends where the symbol begins.
  const auto after_name = [this, begin, named = after_name_] {
    return named && begin > line_ && lexis_.name_bits[static_cast<uint8_t>(begin[-1])];
  };
  after_name_ = false;
  ++at_;
  switch (kind) {
    case ByteKind::open:
      brackets_ += 1;
      parentheses_ += c == '(';
      if (depth_ < static_cast<int64_t>(stack_.size())) stack_[static_cast<size_t>(depth_)] = c;
      ++depth_;
      inside_ += c != '{';
      break;
    case ByteKind::close:
      brackets_ += 1;
      if (depth_ > 0) --depth_;
      if (c != '}' && inside_ > 0) --inside_;
      // A brace closes whatever round bracket was left open in it.
      if (depth_ == 0) inside_ = 0;
      break;
    case ByteKind::and_or:
      operators_ += 1;
      if (next == c) {
        operators_ += 1;
        decisions_ += 1;
        ++at_;
      }
      break;
    case ByteKind::question:
      operators_ += 1;
      if (next == '.') {
        joined_ = after_name();
        ++at_;
      } else if (next == '?') {
        ++at_;
      } else {
        decisions_ += is_blank(next);
      }
      break;
    case ByteKind::equals:
      operators_ += 1;
      assignment(begin, next);
      break;
    case ByteKind::comma:
      commas_ += 1;
      spaced_commas_ += is_blank(next) || is_line_end(next) || next == ')' || next == ']' || next == '}';
      break;
    case ByteKind::semicolon:
      if (!inside_) semicolon_ = true;
      lines_.semicolon = true;
      importing_ = 0;
      break;
    case ByteKind::dot: joined_ = after_name(); break;
    case ByteKind::colon:
      if (next == ':') {
        joined_ = after_name();
        ++at_;
      } else if (lexis_.annotations != Annotations::none) {
        annotation(begin, after_name());
      }
      break;
    case ByteKind::minus:
      operators_ += 1;
      if (next == '>') {
        joined_ = after_name();
        annotations_ += lexis_.annotations == Annotations::python;
        ++at_;
      }
      break;
    case ByteKind::operation: operators_ += 1; break;
    default: break;
  }
  skip_space();
}

void Lexer::assignment(const char* begin, char next) {
  const bool alone = next != '=' && next != '>' && next != '~' && !(begin > text_ && extends_equals(begin[-1]));
  if (next == '=' || next == '>') ++at_;
  if (!alone) return;
  equals_ = true;
  constant_ = constant_ || constant_seen_;
  constant_seen_ = false;
  if (inside_) return;
  assignments_ += 1;
  spaced_assignments_ += begin > text_ && is_blank(begin[-1]) && (is_blank(next) || is_line_end(next));
}

void Lexer::annotation(const char* begin, bool after_name) {
  const char top =
      depth_ > 0 && depth_ <= static_cast<int64_t>(stack_.size()) ? stack_[static_cast<size_t>(depth_ - 1)] : '\0';
  if (lexis_.annotations == Annotations::python) {
    // The colon of a lambda ends its names.
    if (lambda_ == depth_) {
      lambda_ = -1;
      return;
    }
    annotations_ += after_name && (top == '(' || (depth_ == 0 && !statement_));
    return;
  }
  const bool after_close = begin > text_ && (begin[-1] == ')' || begin[-1] == '?');
  annotations_ += (after_name && (top == '(' || (declares_ && !equals_))) || after_close;
}

void Lexer::finish(Row& row) const {
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
  set(Column::final_newline, end_ > text_ && is_line_end(end_[-1]));
  set(Column::identifiers, static_cast<double>(identifiers_));
  set(Column::identifier_length, ratio(identifier_characters_, identifiers_));
  set(Column::identifier_distinct, ratio(distinct_, std::min(identifiers_, repetition_items)));
  per_name(Column::name_single, shapes_[single]);
  per_name(Column::name_lower, shapes_[plain]);
  per_name(Column::name_snake, shapes_[snake]);
  per_name(Column::name_camel, shapes_[camel]);
  per_name(Column::name_pascal, shapes_[pascal]);
  per_name(Column::name_constant, shapes_[constant]);
  per_name(Column::name_other, shapes_[other]);
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
  set(Column::bare_catches, static_cast<double>(bare_catches_));
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

double Lexer::unused_imports() const {
  int64_t unused = 0;
  for (const uint64_t hash : imported_) unused += names_.find(hash) == 1;
  return ratio(unused, static_cast<int64_t>(imported_.size()), nothing);
}

void measure_tokens(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                    ImportWords* import_words) {
  Lexer(lexis, text, size, scratch, import_words).run(row);
}

}  // namespace codeshell::text
