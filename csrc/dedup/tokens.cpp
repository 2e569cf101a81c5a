// Two passes. The first classifies 64 bytes at a time into bit masks (the only part that differs by instruction set);
// the second walks over the bits where a run begins or ends, so its branches are per token, not per byte.
#include "dedup/tokens.h"

#include <array>
#include <bit>
#include <cstring>

#include "dedup/hash.h"
#include "text/unicode_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

static_assert(std::endian::native == std::endian::little, "token hashes are defined on little-endian words");

constexpr std::array<uint8_t, 256> make_word_table() {
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    table[c] = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  }
  return table;
}

constexpr std::array<uint8_t, 256> is_word = make_word_table();

void classify_scalar(const char* text, size_t blocks, uint64_t* word, uint64_t* high) {
  for (size_t b = 0; b < blocks; ++b) {
    uint64_t w = 0, h = 0;
    for (int i = 0; i < 64; ++i) {
      const auto c = static_cast<uint8_t>(text[64 * b + i]);
      w |= static_cast<uint64_t>(is_word[c]) << i;
      h |= static_cast<uint64_t>(c >> 7) << i;
    }
    word[b] = w;
    high[b] = h;
  }
}

#if defined(__x86_64__)

// Setting bit 5 maps A-Z onto a-z and no other byte into a-z; a byte of 0x80 or more stays out of all three classes.
__attribute__((target("avx2"))) void classify_avx2(const char* text, size_t blocks, uint64_t* word, uint64_t* high) {
  const __m256i case_bit = _mm256_set1_epi8(0x20), a = _mm256_set1_epi8('a'), letters = _mm256_set1_epi8(25);
  const __m256i zero = _mm256_set1_epi8('0'), digits = _mm256_set1_epi8(9), underscore = _mm256_set1_epi8('_');
  for (size_t b = 0; b < blocks; ++b) {
    uint64_t w = 0, h = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + 64 * b + 32 * half));
      const __m256i letter = _mm256_sub_epi8(_mm256_or_si256(v, case_bit), a);
      const __m256i digit = _mm256_sub_epi8(v, zero);
      const __m256i is_letter = _mm256_cmpeq_epi8(_mm256_min_epu8(letter, letters), letter);
      const __m256i is_digit = _mm256_cmpeq_epi8(_mm256_min_epu8(digit, digits), digit);
      const __m256i any = _mm256_or_si256(_mm256_or_si256(is_letter, is_digit), _mm256_cmpeq_epi8(v, underscore));
      w |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(any))) << (32 * half);
      h |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(v))) << (32 * half);
    }
    word[b] = w;
    high[b] = h;
  }
}

__attribute__((target("avx512f,avx512bw"))) void classify_avx512(const char* text, size_t blocks, uint64_t* word,
                                                                 uint64_t* high) {
  const __m512i case_bit = _mm512_set1_epi8(0x20), a = _mm512_set1_epi8('a'), zero = _mm512_set1_epi8('0');
  for (size_t b = 0; b < blocks; ++b) {
    const __m512i v = _mm512_loadu_si512(text + 64 * b);
    const __m512i letter = _mm512_sub_epi8(_mm512_or_si512(v, case_bit), a);
    word[b] = _mm512_cmplt_epu8_mask(letter, _mm512_set1_epi8(26)) |
              _mm512_cmplt_epu8_mask(_mm512_sub_epi8(v, zero), _mm512_set1_epi8(10)) |
              _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('_'));
    high[b] = _mm512_movepi8_mask(v);
  }
}

#endif

void classify(std::string_view text, simd::Level level, uint64_t* word, uint64_t* high) {
  auto run = classify_scalar;
#if defined(__x86_64__)
  if (level == simd::Level::avx2) run = classify_avx2;
  if (level == simd::Level::avx512) run = classify_avx512;
#else
  (void)level;
#endif
  const size_t whole = text.size() / 64, rest = text.size() % 64;
  run(text.data(), whole, word, high);
  if (rest) {
    char padded[64] = {};
    std::memcpy(padded, text.data() + 64 * whole, rest);
    run(padded, 1, word + whole, high + whole);
  }
}

// `end` is the end of the text: up to there eight bytes may be read beyond the token.
inline uint64_t hash_token(const char* token, size_t size, const char* end) {
  uint64_t hash = 0, w;
  for (; size > 8; token += 8, size -= 8) {
    std::memcpy(&w, token, 8);
    hash = mix64(hash ^ w);
  }
  if (end - token >= 8) {
    std::memcpy(&w, token, 8);
    w &= ~uint64_t{0} >> (64 - 8 * size);
  } else {
    w = 0;
    std::memcpy(&w, token, size);
  }
  return mix64(hash ^ w);
}

struct Decoded {
  uint32_t code;  // 0 where the bytes are not well-formed UTF-8
  uint32_t size;
};

// One character at `p`, whose first byte is 0x80 or more. Overlong forms, surrogates and values beyond U+10FFFF are
// not well-formed (Unicode 3.9, table 3-7); their first byte is then skipped alone.
Decoded decode(const char* p, const char* end) {
  const auto byte = [p](int i) { return static_cast<uint8_t>(p[i]); };
  const auto tail = [&](int i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  const auto left = end - p;
  if (first >= 0xC2 && first < 0xE0 && left >= 2 && tail(1)) {
    return {(first & 0x1Fu) << 6 | (byte(1) & 0x3Fu), 2};
  }
  if ((first & 0xF0) == 0xE0 && left >= 3 && tail(1) && tail(2)) {
    const uint32_t code = (first & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3};
  }
  if ((first & 0xF8) == 0xF0 && left >= 4 && tail(1) && tail(2) && tail(3)) {
    const uint32_t code = (first & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    if (code >= 0x10000 && code <= 0x10FFFF) return {code, 4};
  }
  return {0, 1};
}

bool stands_alone(uint32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xAC00 && code <= 0xD7AF) || (code >= 0xF900 && code <= 0xFAFF);
}

// The tokens of a run of bytes of 0x80 or more, which begins at `p`.
void hash_non_ascii(const char* p, const char* end, std::vector<uint64_t>& tokens) {
  const char* run = nullptr;
  const auto close = [&](const char* at) {
    if (run) tokens.push_back(hash_token(run, at - run, end));
    run = nullptr;
  };
  while (p < end && static_cast<uint8_t>(*p) >= 0x80) {
    const auto [code, size] = decode(p, end);
    if (stands_alone(code)) {
      close(p);
      tokens.push_back(hash_token(p, size, end));
    } else if (code && (text::is_letter(code) || text::is_number(code))) {
      if (!run) run = p;
    } else {
      close(p);
    }
    p += size;
  }
  close(p);
}

}  // namespace

void hash_tokens(std::string_view text, simd::Level level, Scratch& scratch) {
  const size_t blocks = (text.size() + 63) / 64;
  scratch.word.resize(blocks);
  scratch.high.resize(blocks);
  scratch.tokens.clear();
  classify(text, level, scratch.word.data(), scratch.high.data());

  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* open = nullptr;  // the [A-Za-z0-9_] run that has begun and not ended
  uint64_t word_carry = 0, high_carry = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const uint64_t word = scratch.word[b], high = scratch.high[b];
    // Where a word run begins or ends, and where a non-ASCII run begins. An open word ends at the next such bit.
    uint64_t edges = (word ^ (word << 1 | word_carry)) | (high & ~(high << 1 | high_carry));
    for (; edges; edges &= edges - 1) {
      const int bit = std::countr_zero(edges);
      const char* at = begin + 64 * b + bit;
      if (open) {
        scratch.tokens.push_back(hash_token(open, at - open, end));
        open = nullptr;
      }
      if (word >> bit & 1) {
        open = at;
      } else if (high >> bit & 1) {
        hash_non_ascii(at, end, scratch.tokens);
      }
    }
    word_carry = word >> 63;
    high_carry = high >> 63;
  }
  if (open) scratch.tokens.push_back(hash_token(open, end - open, end));
}

}  // namespace codeshell::dedup
