#include "boosting/ngrams.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace codeshell::boosting {

namespace {

// Classes of bytes, as bits, so that a word's are gathered by one operation for each byte. Other bytes have none.
enum Class : uint8_t {
  lower = 1,
  upper = 2,
  digit = 4,
  underscore = 8,
  wide = 16,
  word = 31,
  blank = 32,
  line_end = 64
};

constexpr std::array<uint8_t, 256> make_classes() {
  std::array<uint8_t, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    classes[static_cast<size_t>(c)] = c >= 'a' && c <= 'z'                                           ? lower
                                      : c >= 'A' && c <= 'Z'                                         ? upper
                                      : c >= '0' && c <= '9'                                         ? digit
                                      : c == '_' || c == '$'                                         ? underscore
                                      : c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' ? blank
                                      : c == '\n'                                                    ? line_end
                                      : c >= 128                                                     ? wide
                                                                                                     : 0;
  }
  return classes;
}

constexpr auto classes = make_classes();

inline uint8_t class_of(char c) { return classes[static_cast<uint8_t>(c)]; }

// A multiplication carries every bit of its input into the upper half, and buckets are taken from there.
inline uint64_t spread(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return (x ^ (x >> 32)) * 0xBF58476D1CE4E5B9u;
}

inline uint64_t join(uint64_t before, uint64_t now) { return spread(before * 31 + now); }

// The bytes of a word, eight at a time. No word holds a zero byte, so the padding of the last ones is not ambiguous.
// `text_end` is where reading must end.
uint64_t hash_word(const char* begin, const char* end, const char* text_end) {
  uint64_t hash = 0;
  for (; end - begin >= 8; begin += 8) {
    uint64_t piece;
    std::memcpy(&piece, begin, 8);
    hash = join(hash, piece);
  }
  uint64_t last = 0;
  if (text_end - begin >= 8) {
    std::memcpy(&last, begin, 8);
    last &= (uint64_t{1} << 8 * (end - begin)) - 1;
  } else {
    for (int at = 0; begin + at < end; ++at) last |= uint64_t{static_cast<uint8_t>(begin[at])} << (8 * at);
  }
  return join(hash, last);
}

// Tokens that are no words have small numbers, far from the hashes of words; so have shapes.
constexpr uint64_t line_start = 256, number = 259, blanks = 260, first_shape = 264;

}  // namespace

static_assert(std::endian::native == std::endian::little, "hashes are defined on little-endian words");

// One place more: where a bucket that was hit before is written and forgotten.
NgramCounter::NgramCounter(uint32_t bits)
    : shift_(64 - bits), counts_(size_t{1} << bits), hit_((size_t{1} << bits) + 1) {}

void NgramCounter::count(std::string_view text) {
  for (size_t i = 0; i < hits_; ++i) counts_[hit_[i]] = 0;
  hits_ = 0;
  // The text begins as if after a line end; the two shapes before it are line ends, too.
  uint64_t shape1 = line_start, shape2 = line_start;
  size_t indentation = 0;
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const char* const begin = p;
    const uint8_t kind = class_of(*p);
    uint64_t token, shape;
    if (kind == digit) {
      // 0x1F, 1.5e3 and 10_000 are one number each; small ones are told apart, because 0 and 1 are not like others.
      while (p < end && ((class_of(*p) & word) || *p == '.')) ++p;
      token = shape = p - begin == 1 ? static_cast<uint64_t>(static_cast<uint8_t>(*begin)) : number;
    } else if (kind & word) {
      // Classes of the bytes after the first.
      uint8_t seen = 0;
      for (++p; p < end; ++p) {
        const uint8_t c = class_of(*p);
        if (!(c & word)) break;
        seen |= c;
      }
      const bool lowers = (seen | kind) & lower, uppers = (seen | kind) & upper;
      const bool inner = seen & upper, underscores = seen & underscore;
      const auto length = static_cast<uint64_t>(p - begin);
      token = hash_word(begin, p, end);
      // The order of the cases is the definition: one letter, CONSTANT, _private, snake_case, Pascal, camel, lower.
      shape = first_shape + (length == 1              ? 0
                             : uppers && !lowers      ? 1
                             : kind == underscore     ? 2
                             : underscores            ? 3
                             : kind == upper && inner ? 4
                             : kind == upper          ? 5
                             : inner                  ? 6
                                                      : 7 + std::min<uint64_t>(3, length / 4));
    } else if (kind == blank) {
      while (p < end && class_of(*p) == blank) ++p;
      token = shape = blanks;
    } else if (kind == line_end) {
      // With the blanks after it. An empty line is a line that stays.
      ++p;
      while (p < end && class_of(*p) == blank) ++p;
      const auto columns = static_cast<size_t>(p - begin) - 1;
      token = shape = line_start + (columns == indentation ? 0 : columns > indentation ? 1 : 2);
      indentation = columns;
    } else {
      ++p;
      token = shape = static_cast<uint8_t>(*begin);
    }
    add(spread(token));
    add(join(shape1 + 2, shape));
    add(join(join(shape2 + 3, shape1), shape));
    shape2 = shape1;
    shape1 = shape;
  }
}

std::vector<std::pair<uint32_t, uint32_t>> NgramCounter::sorted() const {
  std::vector<std::pair<uint32_t, uint32_t>> result;
  result.reserve(hits_);
  for (size_t i = 0; i < hits_; ++i) result.emplace_back(hit_[i], counts_[hit_[i]]);
  std::sort(result.begin(), result.end());
  return result;
}

void NgramCounter::score(const uint16_t* rarity, const int16_t* weights, size_t targets, double* scores) const {
  std::vector<int64_t> sums(targets);
  uint64_t squares = 0;
  for (size_t i = 0; i < hits_; ++i) {
    const uint32_t bucket = hit_[i];
    const int64_t value = damped(counts_[bucket]);
    const auto part = static_cast<uint64_t>(value) * std::min<uint32_t>(rarity[bucket], most_rarity);
    squares += part * part;
    const int16_t* const weight = weights + size_t{bucket} * targets;
    for (size_t t = 0; t < targets; ++t) sums[t] += value * weight[t];
  }
  const double length = std::sqrt(static_cast<double>(squares));
  for (size_t t = 0; t < targets; ++t) scores[t] = squares == 0 ? 0.0 : static_cast<double>(sums[t]) / length;
}

}  // namespace codeshell::boosting
