// Cuts any bytes into the lexical units of source code, in one scan, for no language in particular.
//
//   word    a longest run of [A-Za-z0-9_] and bytes of 0x80 and above; one that begins with a digit is a number, and
//           takes a point that a digit follows ("1.5e3")
//   mark    a punctuation character; one of the pairs below ("->"); or three and more of one character ("======")
//   control any other byte below 0x20, and 0x7F
//
// Blanks and line breaks are no units: with units for line breaks and indents, models agree no better with judged quality
// (docs/decisions.md), and there are an eighth more units. Quotes are marks like others and what is in a string or a comment is cut like the
// rest, because where strings and comments end depends on the language, and one wrong quote would hide half a file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace codeshell::ngram {

// Classes of bytes, as bits.
enum ByteClass : uint8_t {
  lower_byte = 1,
  upper_byte = 2,
  digit_byte = 4,
  underscore_byte = 8,
  high_byte = 16,  // 0x80 and above: letters of other scripts, or no UTF-8 at all
  word_byte = 31,
  mark_byte = 32,
  blank_byte = 64,  // space, tab, line feed, vertical tab, form feed, carriage return
};

inline constexpr std::array<uint8_t, 256> byte_classes = [] {
  std::array<uint8_t, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    uint8_t& of = classes[static_cast<size_t>(c)];
    if (c >= 'a' && c <= 'z')
      of = lower_byte;
    else if (c >= 'A' && c <= 'Z')
      of = upper_byte;
    else if (c >= '0' && c <= '9')
      of = digit_byte;
    else if (c == '_')
      of = underscore_byte;
    else if (c >= 0x80)
      of = high_byte;
    else if (c > ' ' && c < 0x7F)
      of = mark_byte;
    else if (c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r')
      of = blank_byte;
  }
  return classes;
}();

inline uint8_t class_of(char byte) { return byte_classes[static_cast<uint8_t>(byte)]; }

// The punctuation characters of ASCII but the underscore, in the order of their bytes, and the place of each.
inline constexpr std::string_view marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~";
inline constexpr size_t mark_count = marks.size();

inline constexpr std::array<uint8_t, 256> mark_places = [] {
  std::array<uint8_t, 256> places{};
  for (size_t i = 0; i < marks.size(); ++i) places[static_cast<uint8_t>(marks[i])] = static_cast<uint8_t>(i);
  return places;
}();

// Two characters that are one unit. Brackets always stand alone.
inline constexpr std::array<std::string_view, 39> mark_pairs = {
    "==", "!=", "<=", ">=", "+=",   "-=", "*=", "/=", "%=", "&=", "|=", "^=", ":=",
    "=>", "->", "<-", "::", "&&",   "||", "++", "--", "<<", ">>", "**", "//", "/*",
    "*/", "..", "?.", "??", "\"\"", "''", "``", "##", "$$", "~~", "</", "/>", "#!"};
inline constexpr size_t pair_count = mark_pairs.size();

// Number of the pair of two marks, from 1; 0 for none.
inline constexpr std::array<std::array<uint8_t, mark_count>, mark_count> pair_numbers = [] {
  std::array<std::array<uint8_t, mark_count>, mark_count> numbers{};
  for (size_t i = 0; i < pair_count; ++i) {
    const auto first = static_cast<uint8_t>(mark_pairs[i][0]), second = static_cast<uint8_t>(mark_pairs[i][1]);
    numbers[mark_places[first]][mark_places[second]] = static_cast<uint8_t>(i + 1);
  }
  return numbers;
}();

// Where the run of word bytes that begins at `at` ends.
inline const char* word_end(const char* at, const char* end) {
#if defined(__x86_64__)
  // Sixteen bytes at a time. Comparisons are signed, so that bytes of 0x80 and above are negative numbers.
  for (; end - at >= 16; at += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
    const auto above = [](__m128i x, char low) { return _mm_cmpgt_epi8(x, _mm_set1_epi8(static_cast<char>(low - 1))); };
    const auto below = [](__m128i x, char high) {
      return _mm_cmplt_epi8(x, _mm_set1_epi8(static_cast<char>(high + 1)));
    };
    const __m128i letter = _mm_and_si128(above(folded, 'a'), below(folded, 'z'));
    const __m128i digit = _mm_and_si128(above(bytes, '0'), below(bytes, '9'));
    const __m128i other = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('_')), bytes);  // the sign bit of high bytes
    const int word = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(letter, digit), other));
    if (word != 0xFFFF) return at + __builtin_ctz(static_cast<unsigned>(~word));
  }
#endif
  while (at < end && (class_of(*at) & word_byte)) ++at;
  return at;
}

// Calls, for each unit in order:
//   sink.word(begin, end, number)   number: it begins with a digit
//   sink.mark(c, begin, end)        one character
//   sink.pair(i, begin, end)        mark_pairs[i]
//   sink.run(c, begin, end)         three or more of the character c
//   sink.control(begin, end)
template <class Sink>
void scan(std::string_view text, Sink& sink) {
  const char *at = text.data(), *const end = at + text.size();
  while (at < end) {
    const uint8_t kind = class_of(*at);
    if (kind & word_byte) {
      const char* const begin = at;
      const bool number = kind == digit_byte;
      at = word_end(at + 1, end);
      if (number) {
        // A point with digits on both sides is part of the number; so are more of them, as in versions.
        while (end - at >= 2 && *at == '.' && class_of(at[1]) == digit_byte) at = word_end(at + 2, end);
      }
      sink.word(begin, at, number);
    } else if (kind == blank_byte) {
      ++at;
    } else if (kind == mark_byte) {
      const char *const begin = at++, c = *begin;
      if (at == end || class_of(*at) != mark_byte) {
        sink.mark(c, begin, at);
        continue;
      }
      const uint8_t pair = pair_numbers[mark_places[static_cast<uint8_t>(c)]][mark_places[static_cast<uint8_t>(*at)]];
      const bool bracket = c == '(' || c == ')' || c == '[' || c == ']' || c == '{' || c == '}';
      if (*at == c && !bracket && end - at >= 2 && at[1] == c) {
        while (at < end && *at == c) ++at;
        sink.run(c, begin, at);
      } else if (pair) {
        sink.pair(pair - 1u, begin, ++at);
      } else {
        sink.mark(c, begin, at);
      }
    } else {
      const char* const begin = at++;
      sink.control(begin, at);
    }
  }
}

}  // namespace codeshell::ngram
