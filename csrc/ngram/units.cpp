// The ids of lexical units, in order: three special ones, classes of names and numbers, marks, pairs and runs of
// marks; then the words of the vocabulary. A model's blob holds only the words, so this order is part of the format:
// `format_version` counts its changes.
#include "ngram/units.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <unordered_set>

#include "ngram/lexer.h"
#include "text/utf8.h"

namespace codeshell::ngram {

static_assert(std::endian::native == std::endian::little, "hashes and blobs are defined on little-endian words");

namespace {

constexpr char format_version = 1;
constexpr std::string_view magic = "CSUNITS";

// Classes of words that are not in the vocabulary. A name's class has another one after it, for names with digits.
enum Shape : uint32_t {
  lower_name = 0,        // value
  upper_name = 2,        // VALUE
  snake_name = 4,        // a_value
  upper_snake_name = 6,  // A_VALUE
  camel_name = 8,        // aValue
  pascal_name = 10,      // AValue
  mixed_name = 12,       // A_value
  other_name = 14,       // with bytes of 0x80 and above
  long_name = 16,        // over `longest_word`
  two_digits,            // one or two digits
  four_digits,
  digits,
  point_number,  // 1.5
  hex_number,    // 0xFF
  other_number,  // 10px, 1e5
  control_class,
  shape_count,
};

constexpr std::array<std::string_view, shape_count> shape_words = {
    "<lower>", "<lower1>", "<UPPER>",  "<UPPER1>",  "<snake>",  "<snake1>",  "<UPPER_SNAKE>", "<UPPER_SNAKE1>",
    "<camel>", "<camel1>", "<Pascal>", "<Pascal1>", "<Mixed_>", "<Mixed_1>", "<other>",       "<other1>",
    "<long>",  "<12>",     "<1234>",   "<12345>",   "<1.5>",    "<0x1F>",    "<1a>",          "<control>"};

constexpr uint32_t shape_base = first_id, mark_base = shape_base + shape_count, pair_base = mark_base + mark_count,
                   run_base = pair_base + pair_count, word_base = run_base + mark_count;

// The class of a word that has no id of its own.
uint32_t shape(const char* begin, const char* end, bool number) {
  const size_t size = static_cast<size_t>(end - begin);
  if (size > longest_word) return long_name;
  uint8_t seen = 0;
  for (const char* p = begin; p < end; ++p) seen |= class_of(*p);
  if (number) {
    // Only a point is a mark: the lexer takes no other into a number.
    if (seen == digit_byte) return size <= 2 ? two_digits : size <= 4 ? four_digits : digits;
    if (seen == (digit_byte | mark_byte)) return point_number;
    return *begin == '0' && (begin[1] == 'x' || begin[1] == 'X') ? hex_number : other_number;
  }
  const uint32_t with_digits = (seen & digit_byte) ? 1 : 0;
  uint32_t of;
  if (seen & high_byte)
    of = other_name;
  else if ((seen & underscore_byte) && (seen & upper_byte))
    of = (seen & lower_byte) ? mixed_name : upper_snake_name;
  else if (seen & underscore_byte)
    of = snake_name;
  else if (!(seen & upper_byte))
    of = lower_name;
  else if (!(seen & lower_byte))
    of = upper_name;
  else
    of = (class_of(*begin) & upper_byte) ? pascal_name : camel_name;
  return of + with_digits;
}

// As in an ARPA file: what separates there, and what is no UTF-8, becomes \xHH.
std::string escaped(std::string_view word) {
  std::string out;
  const auto add = [&out](std::string_view bytes) {
    constexpr std::string_view hex = "0123456789ABCDEF";
    for (const char byte : bytes) {
      out += "\\x";
      out += hex[static_cast<uint8_t>(byte) >> 4];
      out += hex[static_cast<uint8_t>(byte) & 15];
    }
  };
  for (const char *p = word.data(), *const end = p + word.size(); p < end;) {
    const text::CodePoint c = text::decode(p, end);
    const std::string_view bytes(p, c.size);
    if (c.malformed || c.code <= ' ' || c.code == 0x7F)
      add(bytes);
    else
      out += bytes;
    p += c.size;
  }
  return out;
}

// Loads up to eight bytes; nothing after them is read.
uint64_t load(const char* at, size_t size) {
  uint64_t word = 0;
  std::memcpy(&word, at, size);
  return word;
}

}  // namespace

// A round for each eight bytes, then one for the size, so that zero bytes at the end count.
uint64_t hash_word(const char* begin, const char* end) {
  const auto mixed = [](uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
  };
  uint64_t hash = static_cast<uint64_t>(end - begin) * 0xD6E8FEB86659FD93u;
  const char* at = begin;
  for (; end - at > 8; at += 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    hash = mixed(hash, word);
  }
  const size_t left = static_cast<size_t>(end - at);
  // Two overlapping loads of four bytes for 4-8 bytes, three bytes for fewer: no loop over single bytes.
  uint64_t word = 0;
  if (left >= 4) {
    uint32_t low, high;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, end - 4, 4);
    word = low | static_cast<uint64_t>(high) << 32;
  } else if (left) {
    const auto byte = [at](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(at[i])); };
    word = byte(0) | byte(left / 2) << 8 | byte(left - 1) << 16;
  }
  hash = mixed(hash, word);
  return (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93u;
}

// Words to ids by their hashes: linear probing, at most half full. A place without a word has id 0.
class WordTable {
 public:
  explicit WordTable(size_t words) {
    size_t places = 16;
    while (places < 2 * words) places *= 2;
    places_.resize(places);
    shift_ = static_cast<uint32_t>(64 - std::countr_zero(places));
  }

  // False if the hash is there already.
  bool add(uint64_t hash, uint32_t id) {
    Place& place = places_[at(hash)];
    if (place.id) return false;
    place = {hash, id};
    return true;
  }

  // The id, or 0.
  uint32_t find(uint64_t hash) const { return places_[at(hash)].id; }

 private:
  struct Place {
    uint64_t hash;
    uint32_t id;
  };

  // Where the hash is, or the empty place where it would be.
  size_t at(uint64_t hash) const {
    size_t i = hash >> shift_;
    while (places_[i].id && places_[i].hash != hash) i = (i + 1) & (places_.size() - 1);
    return i;
  }

  std::vector<Place> places_;
  uint32_t shift_;
};

namespace {

// What `scan` calls: appends ids, and spans if they are asked for. Ids wait in a small buffer.
template <bool with_spans>
struct IdSink {
  const WordTable& table;
  const char* text;
  std::vector<uint32_t>& ids;
  std::vector<Span>* spans;
  size_t held = 0;
  std::array<uint32_t, 1024> buffer;

  void flush() {
    ids.insert(ids.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(held));
    held = 0;
  }

  void put(uint32_t id, const char* begin, const char* end) {
    buffer[held++] = id;
    if (held == buffer.size()) flush();
    if constexpr (with_spans)
      spans->push_back({static_cast<uint64_t>(begin - text), static_cast<uint64_t>(end - text)});
  }

  void word(const char* begin, const char* end, bool number) {
    const uint32_t known = static_cast<size_t>(end - begin) > longest_word ? 0 : table.find(hash_word(begin, end));
    put(known ? known : shape_base + shape(begin, end, number), begin, end);
  }
  void mark(char c, const char* begin, const char* end) { put(mark_base + place(c), begin, end); }
  void pair(size_t i, const char* begin, const char* end) { put(pair_base + static_cast<uint32_t>(i), begin, end); }
  void run(char c, const char* begin, const char* end) { put(run_base + place(c), begin, end); }
  void control(const char* begin, const char* end) { put(shape_base + control_class, begin, end); }

  static uint32_t place(char c) { return mark_places[static_cast<uint8_t>(c)]; }
};

template <bool with_spans>
void encode_lexical(std::string_view text, const WordTable& table, std::vector<uint32_t>& ids,
                    std::vector<Span>* spans) {
  IdSink<with_spans> sink{table, text.data(), ids, spans, 0, {}};
  scan(text, sink);
  sink.flush();
}

bool separates(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == '\0'; }

}  // namespace

Units::Units(UnitKind kind, std::vector<std::string> words, std::string extra)
    : kind_(kind), fixed_(fixed_count(kind)), words_(std::move(words)), extra_(std::move(extra)) {
  if (kind == UnitKind::bytes && !words_.empty()) throw std::invalid_argument("units: bytes have no words");
  if (words_.size() > (1u << 30)) throw std::invalid_argument("units: more than 2^30 words");
  table_ = std::make_unique<WordTable>(words_.size());
  uint32_t id = fixed_;
  for (const std::string& word : words_) {
    if (word.empty()) throw std::invalid_argument("units: an empty word");
    if (kind == UnitKind::lexical && word.size() > longest_word) {
      throw std::invalid_argument("units: a word of more than 64 bytes");
    }
    const char* const begin = word.data();
    if (!table_->add(hash_word(begin, begin + word.size()), id++)) {
      throw std::invalid_argument("units: the word " + escaped(word) + " is there twice");
    }
  }
}

Units::Units(Units&&) noexcept = default;
Units& Units::operator=(Units&&) noexcept = default;
Units::~Units() = default;

uint32_t Units::fixed_count(UnitKind kind) {
  switch (kind) {
    case UnitKind::lexical: return word_base;
    case UnitKind::bytes: return first_id + 256;
    default: return first_id;
  }
}

void Units::encode(std::string_view text, std::vector<uint32_t>& ids, std::vector<Span>* spans) const {
  switch (kind_) {
    case UnitKind::lexical:
      if (spans)
        encode_lexical<true>(text, *table_, ids, spans);
      else
        encode_lexical<false>(text, *table_, ids, nullptr);
      return;
    case UnitKind::bytes:
      for (size_t i = 0; i < text.size(); ++i) {
        ids.push_back(first_id + static_cast<uint8_t>(text[i]));
        if (spans) spans->push_back({i, i + 1});
      }
      return;
    case UnitKind::words:
      for (const char *begin = text.data(), *at = begin, *const end = begin + text.size(); at < end;) {
        if (separates(*at)) {
          ++at;
          continue;
        }
        const char* const first = at;
        while (at < end && !separates(*at)) ++at;
        ids.push_back(table_->find(hash_word(first, at)));
        if (spans) spans->push_back({static_cast<uint64_t>(first - begin), static_cast<uint64_t>(at - begin)});
      }
      return;
    case UnitKind::bpe: throw std::logic_error("units: BPE ids are made by the tokenizer, in Python");
  }
}

std::string Units::word(uint32_t id) const {
  if (id == unknown_id) return "<unk>";
  if (id == begin_id) return "<s>";
  if (id == end_id) return "</s>";
  if (id >= size()) throw std::out_of_range("units: no such id");
  if (id >= fixed_) return kind_ == UnitKind::lexical ? escaped(words_[id - fixed_]) : words_[id - fixed_];
  if (kind_ == UnitKind::bytes) {
    const char byte = static_cast<char>(id - first_id);
    // A backslash would be the beginning of an escape.
    return byte == '\\' ? "\\x5C" : escaped({&byte, 1});
  }
  if (id < mark_base) return std::string(shape_words[id - shape_base]);
  if (id < pair_base) return std::string(1, marks[id - mark_base]);
  if (id < run_base) return std::string(mark_pairs[id - pair_base]);
  return std::string(3, marks[id - run_base]);
}

uint32_t Units::find(std::string_view word) const {
  for (uint32_t id = 0; id < size(); ++id) {
    if (this->word(id) == word) return id;
  }
  return unknown_id;
}

std::string Units::serialize() const {
  std::string blob(magic);
  blob += format_version;
  blob += static_cast<char>(kind_);
  const auto number = [&blob](size_t value) {
    const auto low = static_cast<uint32_t>(value);
    blob.append(reinterpret_cast<const char*>(&low), 4);
  };
  number(words_.size());
  for (const std::string& word : words_) {
    number(word.size());
    blob += word;
  }
  number(extra_.size());
  return blob += extra_;
}

Units Units::deserialize(std::string_view blob) {
  const auto damaged = [] { return std::invalid_argument("units: damaged, or of a newer version of codeshell"); };
  size_t at = 0;
  const auto take = [&](size_t size) {
    if (blob.size() - at < size) throw damaged();
    at += size;
    return blob.substr(at - size, size);
  };
  const auto number = [&] { return static_cast<size_t>(load(take(4).data(), 4)); };
  if (take(magic.size()) != magic || take(1)[0] != format_version) throw damaged();
  const char kind = take(1)[0];
  if (kind < 0 || kind > static_cast<char>(UnitKind::words)) throw damaged();
  const size_t count = number();
  // Each word takes five bytes at least, so that a wrong count asks for no memory.
  if (count > blob.size() / 5) throw damaged();
  std::vector<std::string> words(count);
  for (std::string& word : words) word = take(number());
  std::string extra(take(number()));
  if (at != blob.size()) throw damaged();
  return Units(static_cast<UnitKind>(kind), std::move(words), std::move(extra));
}

}  // namespace codeshell::ngram
