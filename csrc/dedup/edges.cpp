#include "dedup/edges.h"

#include <array>
#include <bit>

#include "text/unicode_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace codeshell::dedup {

namespace {

struct Decoded {
  uint32_t code;  // 0 where the bytes are not well-formed UTF-8
  uint32_t size;
};

// Decodes the character at `p`, whose first byte is 0x80 or more. Overlong forms, surrogates and values beyond U+10FFFF
// are not well-formed (Unicode 3.9, table 3-7); then only their first byte is skipped. The bytes after the text are
// zero, so a character that is cut off is not well-formed either.
Decoded decode(const char* p) {
  const auto byte = [p](int i) { return static_cast<uint8_t>(p[i]); };
  const auto tail = [&](int i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  if (first >= 0xC2 && first < 0xE0 && tail(1)) {
    return {(first & 0x1Fu) << 6 | (byte(1) & 0x3Fu), 2};
  }
  if ((first & 0xF0) == 0xE0 && tail(1) && tail(2)) {
    const uint32_t code = (first & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3};
  }
  if ((first & 0xF8) == 0xF0 && tail(1) && tail(2) && tail(3)) {
    const uint32_t code = (first & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    if (code >= 0x10000 && code <= 0x10FFFF) return {code, 4};
  }
  return {0, 1};
}

// Kana, Han and Hangul: each character is a token, because Chinese and Japanese write no spaces between words.
bool stands_alone(uint32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xAC00 && code <= 0xD7AF) || (code >= 0xF900 && code <= 0xFAFF);
}

// Adds the edges of tokens of non-ASCII characters to those of the block that begins at `first`. Bit i of `high` says
// that byte i is 0x80 or more. Not inlined, because most blocks of code never come here.
[[gnu::noinline]] void add_non_ascii(const char* text, size_t first, uint64_t high, EdgeState& state, uint64_t& starts,
                                     uint64_t& ends) {
  // A token of the block before ends in this one.
  ends |= state.ends;
  state.ends = 0;
  // Marks an end, in this block or in the next one: a character of up to four bytes may cross the border.
  const auto end_at = [&](size_t at) {
    at -= first;
    (at < edge_block ? ends : state.ends) |= uint64_t{1} << (at % edge_block);
  };
  for (;;) {
    // The next high byte that is not decoded yet; shifting down and up clears the bits of those that are.
    const size_t done = state.decoded > first ? state.decoded - first : 0;
    const uint64_t left = done < edge_block ? high >> done << done : 0;
    const size_t at = first + static_cast<size_t>(std::countr_zero(left));
    // The run ends unless the next high byte follows immediately.
    if (state.in_run && (!left || at != state.decoded)) {
      if (done >= edge_block) break;  // only the next block can tell whether the token continues
      end_at(state.decoded);
      state.in_run = false;
    }
    if (!left) break;
    const auto [code, size] = decode(text + at);
    // Classify the character; ill-formed bytes (code 0) separate like spaces.
    const uint64_t bit = uint64_t{1} << (at - first);
    const bool alone = stands_alone(code);
    const bool in_run = !alone && code && (text::is_letter(code) || text::is_number(code));
    if (state.in_run && !in_run) end_at(at);
    if (alone || (in_run && !state.in_run)) starts |= bit;
    if (alone) end_at(at + size);
    state.in_run = in_run;
    state.decoded = at + size;
  }
  state.unfinished = state.in_run || state.ends;
}

// Writes the positions of the set bits, ascending. It always writes twelve, whatever their number, because a branch on
// the number would often be mispredicted: 64 bytes of code have seven tokens on average, and seldom more than twelve.
// `bits & (bits - 1)` clears the lowest set bit; places after the last position get rubbish, which the next call
// overwrites.
ALWAYS_INLINE uint32_t* write_positions(uint64_t bits, uint32_t first, uint32_t* out) {
  const int count = std::popcount(bits);
  for (int done = 0; done == 0 || done < count; done += 12) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i, bits &= bits - 1)
      out[done + i] = first + static_cast<uint32_t>(std::countr_zero(bits));
  }
  return out + count;
}

// From the masks of a block to its edges.
ALWAYS_INLINE void add_block(const char* text, size_t first, uint64_t word, uint64_t high, EdgeState& state,
                             uint64_t& starts, uint64_t& ends) {
  const uint64_t before = word << 1 | state.in_word;
  state.in_word = word >> 63;
  starts = word & ~before;
  ends = before & ~word;
  if (high || state.unfinished) add_non_ascii(text, first, high, state, starts, ends);
}

// ---- one function per instruction set: the masks of 64 bytes ----
//
// All of them differ only in how they make the masks; add_block and write_positions are common.
constexpr std::array<uint8_t, 256> make_word_table() {
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    table[c] = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  }
  return table;
}

constexpr std::array<uint8_t, 256> is_word = make_word_table();

void find_edges_scalar(const char* text, size_t blocks, EdgeState& state, Edges& edges) {
  for (size_t first = 0; first < blocks * edge_block; first += edge_block) {
    uint64_t word = 0, high = 0, starts, ends;
    for (size_t i = 0; i < edge_block; ++i) {
      const auto c = static_cast<uint8_t>(text[first + i]);
      word |= static_cast<uint64_t>(is_word[c]) << i;
      high |= static_cast<uint64_t>(c >> 7) << i;
    }
    add_block(text, first, word, high, state, starts, ends);
    edges.starts = write_positions(starts, static_cast<uint32_t>(first), edges.starts);
    edges.ends = write_positions(ends, static_cast<uint32_t>(first), edges.ends);
  }
}

#if defined(__x86_64__)

// In all of these, setting bit 5 maps A-Z onto a-z and no other byte into a-z. A byte of 0x80 or more stays out of all
// three classes. AVX2 has no unsigned comparison of bytes: x <= 25 is written as min(x, 25) == x, after subtracting the
// first byte of the class (bytes below it wrap to large values).
__attribute__((target("avx2"))) inline uint32_t word_mask(__m256i v) {
  const __m256i letter = _mm256_sub_epi8(_mm256_or_si256(v, _mm256_set1_epi8(0x20)), _mm256_set1_epi8('a'));
  const __m256i digit = _mm256_sub_epi8(v, _mm256_set1_epi8('0'));
  const __m256i is_letter = _mm256_cmpeq_epi8(_mm256_min_epu8(letter, _mm256_set1_epi8(25)), letter);
  const __m256i is_digit = _mm256_cmpeq_epi8(_mm256_min_epu8(digit, _mm256_set1_epi8(9)), digit);
  const __m256i is_underscore = _mm256_cmpeq_epi8(v, _mm256_set1_epi8('_'));
  return static_cast<uint32_t>(
      _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(is_letter, is_digit), is_underscore)));
}

__attribute__((target("avx2,bmi,bmi2,popcnt"))) void find_edges_avx2(const char* text, size_t blocks, EdgeState& state,
                                                                     Edges& edges) {
  for (size_t first = 0; first < blocks * edge_block; first += edge_block) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + first));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + first + 32));
    const uint64_t word = uint64_t{word_mask(b)} << 32 | word_mask(a);
    const uint64_t high =
        uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(b))} << 32 | static_cast<uint32_t>(_mm256_movemask_epi8(a));
    uint64_t starts, ends;
    add_block(text, first, word, high, state, starts, ends);
    edges.starts = write_positions(starts, static_cast<uint32_t>(first), edges.starts);
    edges.ends = write_positions(ends, static_cast<uint32_t>(first), edges.ends);
  }
}

// AVX-512BW compares unsigned bytes directly into a 64-bit mask.
__attribute__((target("avx512f,avx512bw"))) inline uint64_t word_mask(__m512i v) {
  const __m512i letter = _mm512_sub_epi8(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), _mm512_set1_epi8('a'));
  const __m512i digit = _mm512_sub_epi8(v, _mm512_set1_epi8('0'));
  return _mm512_cmplt_epu8_mask(letter, _mm512_set1_epi8(26)) | _mm512_cmplt_epu8_mask(digit, _mm512_set1_epi8(10)) |
         _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('_'));
}

__attribute__((target("avx512f,avx512bw,bmi,bmi2,popcnt"))) void find_edges_avx512(const char* text, size_t blocks,
                                                                                   EdgeState& state, Edges& edges) {
  for (size_t first = 0; first < blocks * edge_block; first += edge_block) {
    const __m512i v = _mm512_loadu_si512(text + first);
    uint64_t starts, ends;
    add_block(text, first, word_mask(v), _mm512_movepi8_mask(v), state, starts, ends);
    edges.starts = write_positions(starts, static_cast<uint32_t>(first), edges.starts);
    edges.ends = write_positions(ends, static_cast<uint32_t>(first), edges.ends);
  }
}

// With VBMI2 the positions are one instruction: vpcompressb moves the bytes 0..63 that the mask selects to the front.
// They are widened to 32 bits, 16 at a time, and stored after adding the block's position.
__attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi,bmi2,popcnt"))) inline uint32_t* squeeze_positions(
    uint64_t bits, __m512i all, __m512i first, uint32_t* out) {
  const __m512i positions = _mm512_maskz_compress_epi8(bits, all);
  const int count = static_cast<int>(_mm_popcnt_u64(bits));
  _mm512_storeu_si512(out, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(positions))));
  // The first 16 are always stored; more are rare, so this branch is predictable.
  if (count > 16) {
    const __m128i more = _mm512_extracti32x4_epi32(positions, 1);
    _mm512_storeu_si512(out + 16, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(more)));
    // More than 32 only where non-ASCII characters stand between others, as in "aéaé".
    const __m128i most = _mm512_extracti32x4_epi32(positions, 2);
    _mm512_storeu_si512(out + 32, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(most)));
  }
  return out + count;
}

__attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi,bmi2,popcnt"))) void find_edges_vbmi2(const char* text,
                                                                                              size_t blocks,
                                                                                              EdgeState& state,
                                                                                              Edges& edges) {
  alignas(64) static constexpr auto counting = [] {
    std::array<uint8_t, 64> bytes{};
    for (uint8_t i = 0; i < 64; ++i) bytes[i] = i;
    return bytes;
  }();
  const __m512i all = _mm512_load_si512(counting.data());
  for (size_t first = 0; first < blocks * edge_block; first += edge_block) {
    const __m512i v = _mm512_loadu_si512(text + first);
    uint64_t starts, ends;
    add_block(text, first, word_mask(v), _mm512_movepi8_mask(v), state, starts, ends);
    const __m512i base = _mm512_set1_epi32(static_cast<int>(first));
    edges.starts = squeeze_positions(starts, all, base, edges.starts);
    edges.ends = squeeze_positions(ends, all, base, edges.ends);
  }
}

#elif defined(__aarch64__)

// Turns four vectors of 0 or 255 into a 64-bit mask (NEON has no movemask). Each byte keeps the bit of its place modulo
// 8, and three rounds of pairwise sums put eight neighbouring bytes into one.
inline uint64_t bit_mask(const uint8x16_t v[4]) {
  static constexpr uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t place = vld1q_u8(bits);
  const uint8x16_t low = vpaddq_u8(vandq_u8(v[0], place), vandq_u8(v[1], place));
  const uint8x16_t high = vpaddq_u8(vandq_u8(v[2], place), vandq_u8(v[3], place));
  const uint8x16_t all = vpaddq_u8(low, high);
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

void find_edges_neon(const char* text, size_t blocks, EdgeState& state, Edges& edges) {
  for (size_t first = 0; first < blocks * edge_block; first += edge_block) {
    uint8x16_t word[4], high[4];
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t v = vld1q_u8(reinterpret_cast<const uint8_t*>(text + first + 16 * i));
      const uint8x16_t letter = vsubq_u8(vorrq_u8(v, vdupq_n_u8(0x20)), vdupq_n_u8('a'));
      const uint8x16_t digit = vsubq_u8(v, vdupq_n_u8('0'));
      word[i] = vorrq_u8(vorrq_u8(vcltq_u8(letter, vdupq_n_u8(26)), vcltq_u8(digit, vdupq_n_u8(10))),
                         vceqq_u8(v, vdupq_n_u8('_')));
      high[i] = vcgeq_u8(v, vdupq_n_u8(0x80));
    }
    // Most blocks are ASCII; the maximum over all lanes tells so with one instruction.
    const uint8x16_t any = vorrq_u8(vorrq_u8(high[0], high[1]), vorrq_u8(high[2], high[3]));
    uint64_t starts, ends;
    add_block(text, first, bit_mask(word), vmaxvq_u8(any) ? bit_mask(high) : 0, state, starts, ends);
    edges.starts = write_positions(starts, static_cast<uint32_t>(first), edges.starts);
    edges.ends = write_positions(ends, static_cast<uint32_t>(first), edges.ends);
  }
}

#endif

}  // namespace

FindEdges find_edges(simd::Level level) {
#if defined(__x86_64__)
  static const bool vbmi2 = __builtin_cpu_supports("avx512vbmi2");
  if (level == simd::Level::avx512) return vbmi2 ? find_edges_vbmi2 : find_edges_avx512;
  if (level == simd::Level::avx2) return find_edges_avx2;
#elif defined(__aarch64__)
  if (level == simd::Level::neon) return find_edges_neon;
#else
  (void)level;
#endif
  return find_edges_scalar;
}

}  // namespace codeshell::dedup
