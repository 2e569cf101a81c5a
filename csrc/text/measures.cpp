// Blocks of 64 ASCII bytes become three numbers each (Block). Only the positions of line ends are looked at one by one.
// Where a block has other bytes, up to 64 bytes are decoded character by character.
//
// `at` is a byte position, `characters` the same place counted in characters; line ends are given in characters.
#include "text/measures.h"

#include <algorithm>
#include <array>
#include <bit>

#include "text/unicode_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::text {

namespace {

constexpr size_t block_size = 64;

// The facts about 64 ASCII bytes. Bit i of `newlines` is set where byte i is \n or \r; the others are counts.
struct Block {
  uint64_t newlines;
  uint32_t letters;
  uint32_t digits;
};

// Classifies blocks from `text` on, until `count` are done or one holds a byte above 127. Returns how many are done.
using Classify = size_t (*)(const uint8_t* text, size_t count, Block* blocks);

// A letter is found with one comparison: (byte | 32) - 'a' < 26 as unsigned, because bit 5 folds the case. Four sums in
// one loop without a branch are vectorised by the compiler; the mask needs a second loop, for blocks with a line end.
size_t classify_scalar(const uint8_t* text, size_t count, Block* blocks) {
  for (size_t b = 0; b < count; ++b, text += block_size) {
    uint8_t high = 0, letters = 0, digits = 0, newlines = 0;
    for (size_t i = 0; i < block_size; ++i) {
      const uint8_t byte = text[i];
      high |= byte;
      letters += static_cast<uint8_t>((byte | 32) - 'a') < 26;
      digits += static_cast<uint8_t>(byte - '0') < 10;
      newlines += byte == '\n' || byte == '\r';
    }
    // One OR over all bytes finds any that is not ASCII.
    if (high & 0x80) return b;
    uint64_t mask = 0;
    for (size_t i = 0; newlines && i < block_size; ++i) {
      mask |= static_cast<uint64_t>(text[i] == '\n' || text[i] == '\r') << i;
    }
    blocks[b] = {mask, letters, digits};
  }
  return count;
}

#if defined(__x86_64__)

// Two vectors of 32 bytes. There is no unsigned comparison of bytes, so x < size is written as min(x, size - 1) == x.
__attribute__((target("avx2,popcnt"))) size_t classify_avx2(const uint8_t* text, size_t count, Block* blocks) {
  // The 32-bit mask of bytes in [first, first + size).
  const auto in_range = [](__m256i bytes, uint8_t first, uint8_t size) __attribute__((target("avx2"))) {
    const __m256i distance = _mm256_sub_epi8(bytes, _mm256_set1_epi8(static_cast<char>(first)));
    const __m256i last = _mm256_set1_epi8(static_cast<char>(size - 1));
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(distance, last), distance)));
  };
  for (size_t b = 0; b < count; ++b, text += block_size) {
    Block block{};
    for (size_t half = 0; half < 2; ++half) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + 32 * half));
      // The top bits: any byte above 127 ends the run of ASCII blocks.
      if (_mm256_movemask_epi8(bytes)) return b;
      const __m256i folded = _mm256_or_si256(bytes, _mm256_set1_epi8(32));
      const __m256i newlines = _mm256_or_si256(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\n')),
                                               _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\r')));
      // Each half gives 32 bits of the mask; letters and digits are only counted.
      block.newlines |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(newlines))) << (32 * half);
      block.letters += static_cast<uint32_t>(_mm_popcnt_u32(in_range(folded, 'a', 26)));
      block.digits += static_cast<uint32_t>(_mm_popcnt_u32(in_range(bytes, '0', 10)));
    }
    blocks[b] = block;
  }
  return count;
}

// One vector of 64 bytes; comparisons give 64-bit masks.
__attribute__((target("avx512f,avx512bw,popcnt"))) size_t classify_avx512(const uint8_t* text, size_t count,
                                                                          Block* blocks) {
  for (size_t b = 0; b < count; ++b, text += block_size) {
    const __m512i bytes = _mm512_loadu_si512(text);
    if (_mm512_movepi8_mask(bytes)) return b;
    const __m512i folded = _mm512_or_si512(bytes, _mm512_set1_epi8(32));
    const uint64_t letters =
        _mm512_cmplt_epu8_mask(_mm512_sub_epi8(folded, _mm512_set1_epi8('a')), _mm512_set1_epi8(26));
    const uint64_t digits = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8('0')), _mm512_set1_epi8(10));
    const uint64_t newlines =
        _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\n')) | _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\r'));
    blocks[b] = {newlines, static_cast<uint32_t>(_mm_popcnt_u64(letters)),
                 static_cast<uint32_t>(_mm_popcnt_u64(digits))};
  }
  return count;
}

#endif

// Never more than the processor has.
Classify choose(simd::Level at_most) {
  const simd::Level level = std::min(at_most, simd::level());
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return classify_avx512;
  if (level == simd::Level::avx2) return classify_avx2;
#endif
  (void)level;
  return classify_scalar;
}

// Decodes the character at `at` and moves `at` past it. Returns false for anything that Unicode (table 3-7) calls
// ill-formed: overlong forms, surrogates, values beyond U+10FFFF, characters that are cut off.
bool decode(const uint8_t*& at, const uint8_t* end, uint32_t& code_point) {
  const uint32_t lead = *at;
  if (lead < 0x80) {
    code_point = lead;
    ++at;
    return true;
  }
  // 0x80-0xBF continue a character, 0xC0 and 0xC1 would be overlong.
  if (lead < 0xC2 || lead > 0xF4) return false;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  if (end - at <= more) return false;
  uint32_t value = lead & (0x3Fu >> more);
  for (int i = 1; i <= more; ++i) {
    if ((at[i] & 0xC0) != 0x80) return false;
    value = value << 6 | (at[i] & 0x3Fu);
  }
  // What a lead byte alone does not exclude: overlong forms, surrogates, values beyond U+10FFFF.
  if (more == 2 && (value < 0x800 || (value >= 0xD800 && value <= 0xDFFF))) return false;
  if (more == 3 && (value < 0x10000 || value > 0x10FFFF)) return false;
  code_point = value;
  at += more + 1;
  return true;
}

// Counts lines from the positions of line ends, given in characters. A line is finished by \n, by \r, or by the end of
// the text if something follows the last line end.
class Lines {
 public:
  explicit Lines(Measures& measures) : measures_(measures) {}

  // The line end at `position` is \n or \r. after_return_ is where a \n would belong to a \r before it.
  void end_at(int64_t position, bool is_line_feed) {
    // The \n of \r\n ends no line, and is not a character of the next line either.
    if (is_line_feed && after_return_ == position) {
      start_ = position + 1;
      return;
    }
    finish(position);
    start_ = position + 1;
    if (!is_line_feed) after_return_ = position + 1;
  }

  void end_of_text(int64_t position) {
    if (position > start_) finish(position);
  }

 private:
  void finish(int64_t position) {
    const int64_t length = position - start_;
    measures_.lines += 1;
    measures_.line_characters += length;
    measures_.max_line_length = std::max(measures_.max_line_length, length);
  }

  Measures& measures_;
  // start_: where the present line begins; after_return_: the place after the last \r.
  int64_t start_ = 0;
  int64_t after_return_ = -1;
};

}  // namespace

Measures measure(const uint8_t* text, size_t size, simd::Level at_most) {
  const Classify classify = choose(at_most);
  const uint8_t* at = text;
  const uint8_t* const end = text + size;
  Measures measures;
  Lines lines(measures);
  // 64 blocks of 16 bytes at a time: they stay in the first-level cache.
  int64_t characters = 0, letters = 0, digits = 0;
  std::array<Block, 64> blocks;

  while (at < end) {
    // As many whole blocks as there are, 64 at most; then their line ends, bit by bit.
    const size_t wanted = std::min(static_cast<size_t>(end - at) / block_size, blocks.size());
    const size_t done = wanted ? classify(at, wanted, blocks.data()) : 0;
    for (size_t b = 0; b < done; ++b, at += block_size, characters += block_size) {
      letters += blocks[b].letters;
      digits += blocks[b].digits;
      for (uint64_t mask = blocks[b].newlines; mask; mask &= mask - 1) {
        const int offset = std::countr_zero(mask);
        lines.end_at(characters + offset, at[offset] == '\n');
      }
    }
    // All of a full batch was ASCII: take the next.
    if (done == wanted && wanted == blocks.size()) continue;
    // A block with a byte above 127, or the last bytes: up to 64 bytes character by character, then whole blocks again.
    // A character may reach past `stop`; the next block begins after it.
    const uint8_t* const stop = at + std::min(static_cast<size_t>(end - at), block_size);
    while (at < stop) {
      uint32_t code_point = 0;
      if (!decode(at, end, code_point)) return Measures{.valid_utf8 = false};
      if (code_point == '\n' || code_point == '\r') lines.end_at(characters, code_point == '\n');
      letters += is_letter(code_point);
      digits += is_number(code_point);
      ++characters;
    }
  }
  lines.end_of_text(characters);
  measures.characters = characters;
  measures.letters = letters;
  // str.isalnum() counts letters and numbers.
  measures.alphanumeric = letters + digits;
  return measures;
}

}  // namespace codeshell::text
