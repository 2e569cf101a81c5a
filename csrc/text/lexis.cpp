#include "text/lexis.h"

#include <algorithm>
#include <numeric>

namespace codeshell::text {

namespace {

ByteKind symbol_kind(char c) {
  switch (c) {
    case '(':
    case '[':
    case '{': return ByteKind::open;
    case ')':
    case ']':
    case '}': return ByteKind::close;
    case '&':
    case '|': return ByteKind::and_or;
    case '?': return ByteKind::question;
    case '=': return ByteKind::equals;
    case ',': return ByteKind::comma;
    case ';': return ByteKind::semicolon;
    case '.': return ByteKind::dot;
    case ':': return ByteKind::colon;
    case '-': return ByteKind::minus;
    case '+':
    case '*':
    case '/':
    case '%':
    case '<':
    case '>':
    case '!':
    case '^':
    case '~': return ByteKind::operation;
    default: return ByteKind::symbol;
  }
}

}  // namespace

void Words::insert(uint64_t hash, uint32_t bits) {
  size_t at = hash & mask_;
  while (slots_[at].bits && slots_[at].hash != hash) at = (at + 1) & mask_;
  size_ += slots_[at].bits == 0;
  slots_[at].hash = hash;
  slots_[at].bits |= bits;
  filter_[hash >> 58] |= uint64_t{1} << (hash >> 52 & 63);
}

// The parts of a dotted word are hashed as the lexer meets them: `console.log` is two names and what joins them.
void Words::add(std::string_view dotted, uint32_t bits) {
  // At most a quarter full, so that a look-up nearly always ends at its first slot.
  if (4 * (size_ + 1) > slots_.size()) {
    std::vector<Slot> old = std::move(slots_);
    slots_.assign(std::max<size_t>(64, 2 * old.size()), Slot{});
    mask_ = slots_.size() - 1;
    size_ = 0;
    for (const Slot& slot : old) {
      if (slot.bits) insert(slot.hash, slot.bits);
    }
  }
  uint64_t hash = 0;
  bool joined = false;
  for (size_t begin = 0; begin <= dotted.size();) {
    const size_t end = std::min(dotted.find('.', begin), dotted.size());
    const uint64_t part = hash_bytes(dotted.data() + begin, end - begin);
    hash = joined ? join_hashes(hash, part) : part;
    joined = true;
    begin = end + 1;
  }
  insert(hash, bits);
}

void Lexis::finish(std::string_view letters) {
  for (int c = 0; c < 256; ++c) {
    name_bits[static_cast<size_t>(c)] = c >= 'a' && c <= 'z'   ? lower
                                        : c >= 'A' && c <= 'Z' ? upper
                                        : c >= '0' && c <= '9' ? digit
                                        : c == '_'             ? underscore
                                        : c >= 0x80            ? foreign
                                                               : 0;
  }
  for (size_t c = 0; c < 256; ++c) starts_name[c] = name_bits[c] && name_bits[c] != digit;
  // A sign may stand within a name (`empty?`, `list->vector`), but only a sigil begins one.
  for (const char c : letters) {
    name_bits[static_cast<uint8_t>(c)] = foreign;
    starts_name[static_cast<uint8_t>(c)] = c == '$' || c == '@';
  }
  order.resize(markers.size());
  std::iota(order.begin(), order.end(), uint16_t{0});
  // By first byte, then the longest first: `"""` before `"`, `--[[` before `--`.
  std::stable_sort(order.begin(), order.end(), [this](uint16_t a, uint16_t b) {
    const std::string &left = markers[a].open, &right = markers[b].open;
    const auto first = static_cast<uint8_t>(left[0]), second = static_cast<uint8_t>(right[0]);
    return first != second ? first < second : left.size() > right.size();
  });
  markers_at.fill({});
  for (size_t i = 0; i < order.size(); ++i) {
    Range& range = markers_at[static_cast<uint8_t>(markers[order[i]].open[0])];
    if (range.begin == range.end) range.begin = static_cast<uint16_t>(i);
    range.end = static_cast<uint16_t>(i + 1);
  }
  for (size_t c = 0; c < 256; ++c) {
    const bool blank = c == ' ' || c == '\t' || c == '\v' || c == '\f', line_end = c == '\n' || c == '\r';
    plain_kinds[c] = blank                   ? ByteKind::blank
                     : line_end              ? ByteKind::line_end
                     : name_bits[c] == digit ? ByteKind::digit
                     : starts_name[c]        ? ByteKind::name
                                             : symbol_kind(static_cast<char>(c));
    const bool marks = markers_at[c].begin != markers_at[c].end && !blank && !line_end;
    kinds[c] = marks ? ByteKind::marker : plain_kinds[c];
  }
}

}  // namespace codeshell::text
