// What a text shows without its language being known: classes of bytes, runs, encoded data, repeated words, and how far
// it can be compressed.
#include <algorithm>
#include <array>
#include <cstring>

#include "text/lexical.h"

namespace codeshell::text {

void Counts::clear() {
  // A small beginning keeps a short text within the first-level cache, whatever was measured before it.
  constexpr size_t first = 512;
  if (slots_.size() < first) slots_.resize(first);
  mask_ = first - 1;
  size_ = 0;
  // After 2^32 texts the stamps begin again: old entries are then wiped for once.
  if (++stamp_ == 0) {
    std::fill(slots_.begin(), slots_.end(), Slot{});
    stamp_ = 1;
  }
}

void Counts::grow() {
  std::vector<Slot> live;
  live.reserve(size_);
  for (size_t i = 0; i <= mask_; ++i) {
    if (slots_[i].stamp == stamp_) live.push_back(slots_[i]);
  }
  mask_ = 4 * (mask_ + 1) - 1;
  if (slots_.size() <= mask_) slots_.resize(mask_ + 1);
  // The larger range may hold entries of this stamp only in the part just read.
  for (size_t i = 0; i <= mask_; ++i) slots_[i].stamp = slots_[i].stamp == stamp_ ? 0 : slots_[i].stamp;
  for (const Slot& slot : live) {
    size_t at = slot.key & mask_;
    while (slots_[at].stamp == stamp_) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
}

uint32_t& Counts::operator[](uint64_t key) {
  if (2 * size_ > mask_) grow();
  size_t at = key & mask_;
  for (; slots_[at].stamp == stamp_; at = (at + 1) & mask_) {
    if (slots_[at].key == key) return slots_[at].count;
  }
  slots_[at] = {key, stamp_, 0};
  ++size_;
  return slots_[at].count;
}

uint32_t Counts::find(uint64_t key) const {
  for (size_t at = key & mask_; slots_[at].stamp == stamp_; at = (at + 1) & mask_) {
    if (slots_[at].key == key) return slots_[at].count;
  }
  return 0;
}

int64_t count_characters(const char* text, size_t size) {
  int64_t count = 0;
  for (size_t i = 0; i < size; ++i) count += (static_cast<uint8_t>(text[i]) & 0xC0) != 0x80;
  return count;
}

namespace {

// Bits of a byte's class.
enum ByteBit : uint8_t { base64 = 1, white = 2, decimal = 4, hexadecimal = 8 };

constexpr std::array<uint8_t, 256> byte_bits = [] {
  std::array<uint8_t, 256> bits{};
  for (int c = 0; c < 128; ++c) {
    const bool number = c >= '0' && c <= '9';
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool hex = number || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
    uint8_t value = 0;
    if (number || letter || c == '+' || c == '/' || c == '=' || c == '\n') value |= base64;
    if (blank) value |= white;
    if (number) value |= decimal;
    if (hex) value |= hexadecimal;
    bits[static_cast<size_t>(c)] = value;
  }
  return bits;
}();

bool has(const char* p, ByteBit bit) { return byte_bits[static_cast<uint8_t>(*p)] & bit; }

// Characters of `0x1F`, `\x1F` and `\u001F` from `p` on, which is a zero or a backslash; 0 for anything else.
size_t hex_literal(const char* p, const char* end) {
  if (end - p < 4) return 0;
  const bool number = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
  const size_t digits = number || p[0] != '\\' ? 1 : p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : 0;
  if (!digits || (p[0] == '0' && !number)) return 0;
  size_t found = 0;
  const auto room = static_cast<size_t>(end - p) - 2;
  while (found < room && has(p + 2 + found, hexadecimal)) ++found;
  if (!number) found = std::min(found, digits);
  return found >= digits ? found + 2 : 0;
}

// Classes of bytes, equal runs, long words, encoded data.
void scan_bytes(const char* text, size_t size, Row& row) {
  constexpr size_t encoded_run = 64;  // StarCoder2's [a-zA-Z0-9+/\n=]{64,}
  int64_t whites = 0, decimals = 0, continuing = 0, high = 0, encoded = 0, hex = 0;
  size_t longest_run = 0, longest_word = 0;
  // Counting alone is vectorised; the runs below jump.
  for (size_t i = 0; i < size; ++i) {
    const auto c = static_cast<uint8_t>(text[i]);
    whites += c == ' ' || static_cast<uint8_t>(c - '\t') < 5;
    decimals += static_cast<uint8_t>(c - '0') < 10;
    continuing += (c & 0xC0) == 0x80;
    high += c >= 0xC0;
  }
  const char* const end = text + size;
  // Runs of base64's alphabet: looked at every 64 bytes, backwards, so that most bytes are not read.
  for (const char* p = text; static_cast<size_t>(end - p) >= encoded_run;) {
    const char* q = p + encoded_run;
    while (q > p && has(q - 1, base64)) --q;
    if (q > p) {  // q[-1] is no such byte: no run of 64 begins before q
      p = q;
      continue;
    }
    q = p + encoded_run;
    while (q < end && has(q, base64)) ++q;
    encoded += q - p;
    p = q;
  }
  // Words between blanks, and runs of one byte within them.
  for (const char* p = text; p < end;) {
    if (has(p, white)) {
      ++p;
      continue;
    }
    const char* const begin = p;
    const char* run = p;
    for (; p < end && !has(p, white); ++p) {
      if (*p != *run) {
        longest_run = std::max(longest_run, static_cast<size_t>(p - run));
        run = p;
      }
      if (*p == '\\' || (*p == '0' && p + 1 < end && (p[1] | 32) == 'x'))
        hex += static_cast<int64_t>(hex_literal(p, end));
    }
    longest_run = std::max(longest_run, static_cast<size_t>(p - run));
    longest_word = std::max(longest_word, static_cast<size_t>(p - begin));
  }
  const auto characters = static_cast<double>(static_cast<int64_t>(size) - continuing);
  const auto share = [characters](int64_t part) {
    return characters > 0 ? static_cast<double>(part) / characters : 0.0;
  };
  at(row, Column::white_share) = share(whites);
  at(row, Column::digit_share) = share(decimals);
  at(row, Column::non_ascii) = share(high);
  at(row, Column::encoded_share) = share(encoded);
  at(row, Column::hex_share) = share(hex);
  at(row, Column::longest_run) = static_cast<double>(longest_run);
  at(row, Column::longest_word) = static_cast<double>(longest_word);
}

// Repeated sequences of words between blanks, as shares of the characters in words (Gopher's definitions). For 2, 3 and
// 4 words: the commonest sequence, its bytes times its count. For 5 and 10: the words within sequences that came
// before.
void scan_words(const char* text, size_t size, Scratch& scratch, Row& row) {
  auto& words = scratch.words;
  auto& sizes = scratch.word_sizes;
  words.clear();
  sizes.clear();
  int64_t total = 0;
  for (const char *p = text, *const end = text + size; p < end;) {
    if (has(p, white)) {
      ++p;
      continue;
    }
    const char* const begin = p;
    while (p < end && !has(p, white)) ++p;
    const auto length = static_cast<size_t>(p - begin);
    words.push_back(hash_bytes(begin, length));
    sizes.push_back(static_cast<uint32_t>(length));
    total += static_cast<int64_t>(length);
    if (words.size() == static_cast<size_t>(repetition_items)) break;
  }
  constexpr std::array<size_t, 5> lengths = {2, 3, 4, 5, 10};
  constexpr std::array<Column, 5> columns = {Column::top_2gram, Column::top_3gram, Column::top_4gram,
                                             Column::duplicate_5grams, Column::duplicate_10grams};
  const size_t count = words.size();
  for (size_t g = 0; g < lengths.size(); ++g) {
    const size_t n = lengths[g];
    double& result = at(row, columns[g]);
    result = 0.0;
    if (count < n) continue;
    // The hash of words i .. i + n: a polynomial in an odd base, moved on by one word at a time.
    constexpr uint64_t base = 0xA24BAED4963EE407u;
    uint64_t power = 1, hash = 0;
    int64_t bytes = 0;
    for (size_t i = 0; i < n; ++i) {
      hash = hash * base + words[i];
      bytes += sizes[i];
      if (i) power *= base;
    }
    Counts& seen = scratch.grams[g];
    seen.clear();
    const bool top = n < 5;
    int64_t best = 0, covered = 0;
    uint32_t most = 1;
    size_t marked = 0;  // words before this one are counted already
    for (size_t i = 0;; ++i) {
      uint32_t& times = seen[hash ^ hash >> 31];
      ++times;
      // The commonest sequence; of equally common ones the one with most characters.
      if (top && times >= 2 && (times > most || (times == most && times * bytes > best))) {
        most = times;
        best = times * bytes;
      } else if (!top && times >= 2) {
        for (size_t word = std::max(marked, i); word < i + n; ++word) covered += sizes[word];
        marked = i + n;
      }
      if (i + n == count) break;
      hash = (hash - words[i] * power) * base + words[i + n];
      bytes += static_cast<int64_t>(sizes[i + n]) - static_cast<int64_t>(sizes[i]);
    }
    result = static_cast<double>(top ? std::min(best, total) : covered) / static_cast<double>(total);
  }
}

// What a fast compressor of the LZ77 kind would leave: a literal costs one byte, a match of four bytes and more costs
// three, plus one for each 255 beyond. Matches are found by a table of the last place of each four bytes.
double compressed_share(const char* text, size_t size, Scratch& scratch) {
  if (size == 0) return 1.0;
  constexpr int bits = 12;
  auto& last = scratch.positions;
  last.assign(size_t{1} << bits, 0);  // place + 1; 0 is none
  size_t cost = 0, misses = 0;
  for (size_t i = 0; i < size;) {
    if (size - i < 4) {
      cost += size - i;
      break;
    }
    uint32_t word;
    std::memcpy(&word, text + i, 4);
    uint32_t& slot = last[(word * 2654435761u) >> (32 - bits)];
    const size_t candidate = slot;
    slot = static_cast<uint32_t>(i + 1);
    if (candidate && i + 1 - candidate < 65536 && std::memcmp(text + candidate - 1, &word, 4) == 0) {
      const char* const before = text + candidate - 1;
      size_t length = 4;
      for (uint64_t a, b; size - i - length >= 8; length += 8) {
        std::memcpy(&a, before + length, 8);
        std::memcpy(&b, text + i + length, 8);
        if (a != b) break;
      }
      while (i + length < size && before[length] == text[i + length]) ++length;
      cost += 3 + (length - 4) / 255;
      i += length;
      misses = 0;
    } else {
      // In what does not compress, steps become longer.
      const size_t step = std::min(1 + (misses++ >> 6), size - i);
      cost += step;
      i += step;
    }
  }
  return static_cast<double>(cost) / static_cast<double>(size);
}

}  // namespace

void measure_repetition(const char* text, size_t size, Scratch& scratch, Row& row) {
  scan_bytes(text, size, row);
  const size_t first = std::min(size, repetition_bytes);
  scan_words(text, first, scratch, row);
  at(row, Column::lz_ratio) = compressed_share(text, first, scratch);
}

void measure_lexical(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                     std::vector<size_t>* import_words) {
  row.fill(0.0);
  measure_tokens(lexis, text, size, scratch, row, import_words);
  measure_repetition(text, size, scratch, row);
}

}  // namespace codeshell::text
