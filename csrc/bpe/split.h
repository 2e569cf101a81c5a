// The pre-tokenizer: cuts a text into the words within which BPE merges.
//
// A pattern is a regular expression of Hugging Face's files, written out as a scanner: from the begin of a word it finds
// the end, in one pass and without backtracking. What a character is comes from a table that is made of
// csrc/bpe/class_table.h once for each pattern. A new pattern is a line in `patterns` and its scanner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace codeshell::bpe {

// What a character is to a pattern. A digit is one that is a word of its own (Digits with individual_digits).
enum class Kind : uint8_t { letter, number, other, space, digit };

// The kind of every code point.
class Kinds {
 public:
  // With `digits`, what Rust takes for numeric is a digit, whatever else it is.
  explicit Kinds(bool digits);

  Kind of(uint32_t code) const { return blocks_[index_[code >> kShift]][code & (kBlock - 1)]; }

  // The kind of the character at `p`, which begins a well-formed one, and its size in bytes.
  Kind at(const char* p, uint32_t& size) const {
    const auto first = static_cast<uint8_t>(*p);
    if (first < 0x80) {
      size = 1;
      return ascii_[first];
    }
    return wide(p, size);
  }

  // The end of the run of characters of this kind that begins at `p`.
  const char* run(const char* p, const char* end, Kind kind) const {
    while (p < end) {
      uint32_t size;
      if (at(p, size) != kind) break;
      p += size;
    }
    return p;
  }

 private:
  static constexpr uint32_t kShift = 7, kBlock = 1u << kShift;

  Kind wide(const char* p, uint32_t& size) const {
    const auto byte = [p](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(p[i])); };
    const uint32_t first = byte(0);
    if (first >= 0xE5 && first <= 0xE9) {
      // U+5000 to U+9FFF: Chinese characters, all of them letters.
      size = 3;
      return Kind::letter;
    }
    if (first < 0xE0) {
      size = 2;
      return of((first & 0x1F) << 6 | (byte(1) & 0x3F));
    }
    if (first < 0xF0) {
      size = 3;
      return of((first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F));
    }
    size = 4;
    return of((first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F));
  }

  std::array<Kind, 128> ascii_;
  // The block of each 128 code points; equal blocks are stored once.
  std::vector<uint16_t> index_;
  std::vector<std::array<Kind, kBlock>> blocks_;
};

// A way to cut texts. All characters of a text are in its words.
class Splitter {
 public:
  virtual ~Splitter() = default;
  // The end of the word that begins at `p` < `end`. The text is well-formed UTF-8 and ends at `end`.
  virtual const char* next(const char* p, const char* end) const = 0;
};

// GPT-2's pattern, as ByteLevel has it:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// With `digits`, Digits(individual_digits) comes before it: each digit is a word, and what stands between two digits is
// cut as a text of its own.
class Gpt2Splitter final : public Splitter {
 public:
  explicit Gpt2Splitter(bool digits) : kinds_(digits) {}

  const char* next(const char* p, const char* end) const override {
    uint32_t size;
    const Kind kind = kinds_.at(p, size);
    const char* q = p + size;
    if (kind == Kind::space) [[unlikely]] {
      if (*p == ' ' && q < end) {
        // A space belongs to the letters, numbers or other characters after it.
        const Kind after = kinds_.at(q, size);
        if (after < Kind::space) return kinds_.run(q + size, end, after);
      }
      return white(p, q, end);
    }
    if (kind == Kind::digit) return q;
    if (*p == '\'') {
      if (const uint32_t letters = contraction(q, end)) return q + letters;
    }
    return kinds_.run(q, end, kind);
  }

 private:
  // White space that begins at `p`, and whose second character would be at `q`.
  const char* white(const char* p, const char* q, const char* end) const {
    const char* last = p;
    while (q < end) {
      uint32_t size;
      const Kind kind = kinds_.at(q, size);
      // At a digit the text ends, as far as the pattern can see.
      if (kind == Kind::digit) return q;
      // The last character is left for the word that follows; a single one is a word.
      if (kind != Kind::space) return last == p ? q : last;
      last = q;
      q += size;
    }
    return q;
  }

  // How many letters of a contraction follow an apostrophe: "s", "t", "m" and "d", or "re", "ve" and "ll".
  static uint32_t contraction(const char* q, const char* end) {
    if (q == end) return 0;
    if (*q == 's' || *q == 't' || *q == 'm' || *q == 'd') return 1;
    if (end - q < 2) return 0;
    return (q[1] == 'e' && (*q == 'r' || *q == 'v')) || (q[1] == 'l' && *q == 'l') ? 2 : 0;
  }

  Kinds kinds_;
};

// The splitter of that name ("gpt2", "digits-gpt2"), which is made at the first call and stays; null for a name that is
// unknown.
const Splitter* find_splitter(std::string_view name);

// The byte at which the first malformed character of a text begins; its size if the text is well-formed.
size_t malformed_at(std::string_view text);

}  // namespace codeshell::bpe
