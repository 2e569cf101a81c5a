// What a text shows without its language being known: classes of bytes, runs, encoded data, repeated words, and how far
// it can be compressed.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>

#include "text/find.h"
#include "text/lexical.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace codeshell::text {

void Counts::clear(size_t expected) {
  // As small as the text allows, so that a short text stays within the first-level cache, whatever was measured before.
  size_t wanted = 64;
  while (wanted < 2 * expected) wanted *= 2;
  if (slots_.size() < wanted) slots_.resize(wanted);
  mask_ = wanted - 1;
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
    if (slots_[i].stamp == stamp_) {
      live.push_back(slots_[i]);
      slots_[i].stamp = 0;
    }
  }
  mask_ = 4 * (mask_ + 1) - 1;
  if (slots_.size() <= mask_) slots_.resize(mask_ + 1);
  for (const Slot& slot : live) {
    size_t at = slot.key & mask_;
    while (slots_[at].stamp == stamp_) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
}

uint32_t Counts::find(uint64_t key) const {
  for (size_t at = key & mask_; slots_[at].stamp == stamp_; at = (at + 1) & mask_) {
    if (slots_[at].key == key) return slots_[at].count;
  }
  return 0;
}

int64_t count_characters(const char* text, size_t size) {
  // Sums of bytes within blocks, which the compiler turns into vectors.
  int64_t count = 0;
  for (size_t i = 0; i < size;) {
    uint8_t part = 0;
    for (const size_t stop = std::min(size, i + 128); i < stop; ++i)
      part += (static_cast<uint8_t>(text[i]) & 0xC0) != 0x80;
    count += part;
  }
  return count;
}

namespace {

constexpr uint64_t gram_base = 0xA24BAED4963EE407u;  // odd

// Bits of a byte's class.
enum ByteBit : uint8_t { base64 = 1, white = 2, decimal = 4, hexadecimal = 8, word = 16 };

constexpr std::array<uint8_t, 256> byte_bits = [] {
  std::array<uint8_t, 256> bits{};
  bits.fill(word);
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
    if (number || letter || c == '_') value |= word;
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

// Bit i is set where byte p[i] is a blank or a line end.
uint64_t white_mask(const char* p) {
#if defined(__SSE2__)
  // Four vectors of 16 bytes. A byte from \t to \r lies, moved down by \t, at or below 4 as unsigned.
  uint64_t mask = 0;
  for (int part = 0; part < 4; ++part) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part));
    const __m128i moved = _mm_sub_epi8(bytes, _mm_set1_epi8('\t'));
    const __m128i ends = _mm_cmpeq_epi8(_mm_min_epu8(moved, _mm_set1_epi8(4)), moved);
    const __m128i blanks = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '));
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(_mm_or_si128(ends, blanks)))) << (16 * part);
  }
  return mask;
#else
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(has(p + i, white)) << i;
  return mask;
#endif
}

// Bit i is set where byte p[i] is the same as the byte after it.
uint64_t equal_mask(const char* p) {
  uint64_t mask = 0;
#if defined(__SSE2__)
  for (int part = 0; part < 4; ++part) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part));
    const __m128i next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part + 1));
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, next)))) << (16 * part);
  }
#else
  for (int i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(p[i] == p[i + 1]) << i;
#endif
  return mask;
}

// The longest run of one byte, blanks and line ends apart. Blocks of 64 bytes are looked at for three equal bytes in a
// row; only where they are is a run followed to both of its ends.
size_t find_longest_run(const char* text, size_t size) {
  size_t longest = 0, i = 0;
  uint64_t before = 0;  // whether the byte before the block is the block's first, in bit 0
  const auto follow = [&](size_t place) {
    size_t begin = place, end = place + 1;
    while (begin > 0 && text[begin - 1] == text[place]) --begin;
    while (end < size && text[end] == text[place]) ++end;
    longest = std::max(longest, end - begin);
    return end;
  };
  while (size - i > 64) {
    const uint64_t white_bytes = white_mask(text + i);
    const uint64_t equal = equal_mask(text + i) & ~white_bytes;
    longest = std::max(longest, equal ? size_t{2} : size_t{~white_bytes != 0});
    const uint64_t middles = equal & (equal << 1 | before);
    size_t next = i + 64;
    before = equal >> 63;
    for (uint64_t left = middles; left;) {
      const size_t end = follow(i + static_cast<size_t>(std::countr_zero(left)));
      if (end >= i + 64) {
        // The run leaves the block: the next block begins after it, so that a long one is followed once.
        next = end;
        before = 0;
        break;
      }
      left &= ~uint64_t{0} << (end - i);
    }
    i = next;
  }
  // The last bytes, and what belongs to a run that ends among them.
  while (i < size) i = has(text + i, white) ? i + 1 : follow(i);
  return longest;
}

// Characters in hexadecimal numbers and escapes.
int64_t count_hex(const char* text, size_t size) {
  int64_t hex = 0;
  const char *p = text, *const end = text + size;
  while ((p = static_cast<const char*>(std::memchr(p, '\\', static_cast<size_t>(end - p))))) {
    const size_t length = hex_literal(p, end);
    hex += static_cast<int64_t>(length);
    // Two backslashes are one character; the second begins no escape.
    p += length ? length : std::min<size_t>(2, static_cast<size_t>(end - p));
    if (p == end) break;
  }
  for (const char x : {'x', 'X'}) {
    p = text;
    while (p < end && (p = static_cast<const char*>(std::memchr(p, x, static_cast<size_t>(end - p))))) {
      if (p > text && p[-1] == '0' && (p - 1 == text || !has(p - 2, word)))
        hex += static_cast<int64_t>(hex_literal(p - 1, end));
      ++p;
    }
  }
  return hex;
}

// Classes of bytes, equal runs, encoded data.
void scan_bytes(const char* text, size_t size, Row& row) {
  constexpr size_t encoded_run = 64;  // StarCoder2's [a-zA-Z0-9+/\n=]{64,}
  int64_t whites = 0, decimals = 0, continuing = 0, high = 0, encoded = 0;
  for (size_t i = 0; i < size;) {
    uint8_t white_part = 0, decimal_part = 0, continuing_part = 0, high_part = 0;
    for (const size_t stop = std::min(size, i + 128); i < stop; ++i) {
      const auto c = static_cast<uint8_t>(text[i]);
      white_part += (c == ' ') | (static_cast<uint8_t>(c - '\t') < 5);
      decimal_part += static_cast<uint8_t>(c - '0') < 10;
      continuing_part += (c & 0xC0) == 0x80;
      high_part += c >= 0xC0;
    }
    whites += white_part;
    decimals += decimal_part;
    continuing += continuing_part;
    high += high_part;
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
  const auto characters = static_cast<double>(static_cast<int64_t>(size) - continuing);
  const auto share = [characters](int64_t part) {
    return characters > 0 ? static_cast<double>(part) / characters : 0.0;
  };
  at(row, Column::white_share) = share(whites);
  at(row, Column::digit_share) = share(decimals);
  at(row, Column::non_ascii) = share(high);
  at(row, Column::encoded_share) = share(encoded);
  at(row, Column::hex_share) = share(count_hex(text, size));
  at(row, Column::longest_run) = static_cast<double>(find_longest_run(text, size));
}

// The words between blanks of the first bytes of a text, and sums over them: entry i of `hashes` and `bytes` is about
// all words before word i. Returns the number of words.
size_t split_words(const char* text, size_t size, Scratch& scratch, Row& row) {
  // Where words begin and end, in turns: a bit of `edges` for each. They are written eight at a time and the surplus is
  // written over, so that no branch depends on how many there are.
  auto& edges_of_words = scratch.edges;
  if (edges_of_words.size() < size + 80) edges_of_words.resize(size + 80);
  uint32_t* const places = edges_of_words.data();
  size_t found = 0;
  uint64_t before = 1;  // the byte before the text counts as a blank
  std::array<char, 64> rest;
  for (size_t at = 0; at < size; at += 64) {
    const char* block = text + at;
    if (size - at < 64) {
      // The last bytes, filled up with blanks; the word at the end of the text ends there.
      rest.fill(' ');
      std::memcpy(rest.data(), block, size - at);
      block = rest.data();
    }
    const uint64_t mask = white_mask(block);
    uint64_t edges = mask ^ (mask << 1 | before);
    const auto count = static_cast<size_t>(std::popcount(edges));
    for (size_t done = 0; done < count; done += 8) {
      for (size_t i = 0; i < 8; ++i) {
        places[found + done + i] = static_cast<uint32_t>(at) + static_cast<uint32_t>(std::countr_zero(edges));
        edges &= edges - 1;
      }
    }
    found += count;
    before = mask >> 63;
  }
  if (found % 2) places[found++] = static_cast<uint32_t>(size);
  const size_t all = found / 2, count = std::min(all, static_cast<size_t>(repetition_items));
  auto& hashes = scratch.hashes;
  auto& bytes = scratch.word_bytes;
  if (hashes.size() <= count) hashes.resize(count + 1);
  if (bytes.size() <= count) bytes.resize(count + 1);
  uint32_t longest = 0, sum = 0;
  uint64_t hash = 0;
  hashes[0] = bytes[0] = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t begin = places[2 * i], length = places[2 * i + 1] - begin;
    longest = std::max(longest, length);
    hash = hash * gram_base + hash_bytes(text + begin, length, text + size);
    sum += length;
    hashes[i + 1] = hash;
    bytes[i + 1] = sum;
  }
  for (size_t i = count; i < all; ++i) longest = std::max(longest, places[2 * i + 1] - places[2 * i]);
  at(row, Column::longest_word) = static_cast<double>(longest);
  return count;
}

// An entry of the table of sequences; where it is empty, the present sequence, which equals itself.
uint32_t entry_of(uint32_t entry, size_t present) {
  const uint32_t empty = uint32_t{0} - static_cast<uint32_t>(entry == 0);
  return entry | (static_cast<uint32_t>(present) & empty);
}

// Repeated sequences of words, as shares of the characters in words (Gopher's definitions). For 2, 3 and 4 words: the
// commonest sequence, its bytes times its count. For 5 and 10: the words within sequences that came before.
//
// A sequence of n words can only come again where its first words do, so each length looks only at the places that the
// length before it has left. Whether a sequence is new is not to be foreseen, so nothing branches on it.
void scan_words(const char* text, size_t size, Scratch& scratch, Row& row) {
  const size_t count = split_words(text, size, scratch, row);
  constexpr std::array<size_t, 5> lengths = {2, 3, 4, 5, 10};
  constexpr std::array<Column, 5> columns = {Column::top_2gram, Column::top_3gram, Column::top_4gram,
                                             Column::duplicate_5grams, Column::duplicate_10grams};
  const uint64_t* const hashes = scratch.hashes.data();
  const uint32_t* const bytes = scratch.word_bytes.data();
  for (auto* some : {&scratch.starts, &scratch.first, &scratch.times}) {
    if (some->size() <= count) some->resize(count + 1);
  }
  if (scratch.grams.size() <= count) scratch.grams.resize(count + 1);
  uint32_t* const starts = scratch.starts.data();  // of the sequences, in words
  uint32_t* const first = scratch.first.data();    // the number of the first equal sequence
  uint32_t* const times = scratch.times.data();    // how often it came; right at the first alone
  uint64_t* const grams = scratch.grams.data();    // their hashes
  size_t sequences = count;
  std::iota(starts, starts + sequences, uint32_t{0});
  for (size_t g = 0; g < lengths.size(); ++g) {
    const size_t n = lengths[g];
    uint64_t power = 1;
    for (size_t i = 0; i < n; ++i) power *= gram_base;
    while (sequences && starts[sequences - 1] + n > count) --sequences;
    if (!sequences) break;  // the columns of this and all greater lengths stay 0
    // A table from hashes to the number of the first such sequence, from 1 on; at most a quarter full.
    const size_t slots = std::bit_ceil(4 * sequences);
    const int shift = 64 - std::countr_zero(slots);
    auto& table = scratch.table;
    if (table.size() < slots) table.resize(slots);
    std::fill_n(table.data(), slots, 0u);
    std::fill_n(times, sequences + 1, 0u);
    const bool top = n < 5;
    uint32_t most = 2, covered = 0, marked = 0;  // words before `marked` are counted already
    uint64_t best = 0;
    for (size_t s = 1; s <= sequences; ++s) {
      const size_t i = starts[s - 1];
      // The polynomial of words i to i + n, from those of all words before i and before i + n.
      const uint64_t gram = hashes[i + n] - hashes[i] * power;
      grams[s] = gram;
      size_t slot = (gram * gram_base) >> shift;
      uint32_t original = entry_of(table[slot], s);
      while (grams[original] != gram) [[unlikely]] {
        slot = (slot + 1) & (slots - 1);
        original = entry_of(table[slot], s);
      }
      table[slot] = original;
      first[s] = original;
      const uint32_t seen = ++times[original];
      const uint32_t end_bytes = bytes[i + n];
      if (top) {
        // Of equally common sequences the one with most characters.
        if (seen >= most) {
          const uint64_t product = uint64_t{seen} * (end_bytes - bytes[i]);
          best = seen > most ? product : std::max(best, product);
          most = seen;
        }
      } else {
        const bool again = seen > 1;
        covered += again ? end_bytes - bytes[std::max<size_t>(marked, i)] : 0;
        marked = again ? static_cast<uint32_t>(i + n) : marked;
      }
    }
    const uint64_t part = top ? std::min<uint64_t>(best, bytes[count]) : covered;
    at(row, columns[g]) = static_cast<double>(part) / static_cast<double>(bytes[count]);
    // What remains: the places of sequences that came at least twice.
    size_t left = 0;
    for (size_t s = 0; s < sequences; ++s) {
      starts[left] = starts[s];
      left += times[first[s + 1]] > 1;
    }
    sequences = left;
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
      // Eight bytes at a time; where they differ, the first bit that does says how many bytes are equal.
      while (true) {
        if (size - i - length < 8) {
          while (i + length < size && before[length] == text[i + length]) ++length;
          break;
        }
        uint64_t a, b;
        std::memcpy(&a, before + length, 8);
        std::memcpy(&b, text + i + length, 8);
        if (a != b) {
          length += equal_bytes(a ^ b);
          break;
        }
        length += 8;
      }
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

void measure_lexical(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row) {
  row.fill(0.0);
  measure_tokens(lexis, text, size, scratch, row, nullptr);
  measure_repetition(text, size, scratch, row);
}

}  // namespace codeshell::text
