// Which problems of evaluation sets a text holds, by token n-grams: hashed, then compared as they are.
//
// A token is a longest run of ASCII letters, digits, _ and bytes from 0x80 on; but a character whose first byte is 0xE3
// to 0xED (kana, Han, Hangul) is a token by itself. Signs of Unicode (U+2000 to 2FFF, 3000 to 303F, F000 to FFFF) and all
// else of ASCII separate. Letters of ASCII count without case.
// So spacing, brackets, operators and quotes change nothing, and a name that was changed changes the n-grams over it.
//
// A problem has parts (its prompt, its solution, its tests). A part of n tokens or more is found by the share of its
// different n-grams that a text holds, anywhere and in any order. A shorter part, of `shortest` tokens or more, is
// found as a whole only, and then every character counts but white space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace codeshell::text {

class ContaminationIndex {
 public:
  static constexpr size_t max_tokens = 64;  // of an n-gram

  // Parts that are shorter than `shortest` tokens are in no text. 1 <= shortest <= n <= max_tokens.
  ContaminationIndex(std::span<const std::string_view> parts, size_t n, size_t shortest);

  struct Match {
    double share = 0;   // of the part's n-grams; 1 for a short part
    int64_t part = -1;  // the one with the largest share, of these with the most n-grams, of these the first; or -1
    int64_t grams = 0;  // n-grams of it that the text holds
  };

  // What one thread uses again for text after text.
  struct Scratch {
    explicit Scratch(const ContaminationIndex& index)
        : gram_seen(index.grams_.size(), 0), found(index.total_.size(), 0), touched() {}

    std::vector<uint32_t> gram_seen;  // number of the text that last held the n-gram
    std::vector<uint32_t> found;      // different n-grams of each part in the present text
    std::vector<uint32_t> touched;    // parts that have some
    uint32_t number = 0;              // of the present text
  };

  Match match(std::string_view text, Scratch& scratch) const;

  size_t grams() const { return grams_.size(); }

  // n-grams of each part; 0 for one that is too short.
  const std::vector<uint32_t>& totals() const { return total_; }

 private:
  // A different n-gram: where its first token is in `tokens_`, and the parts that have it.
  struct Gram {
    uint64_t key;
    uint32_t token;
    uint32_t length;                   // n, or the tokens of a short part
    uint32_t exact_begin, exact_size;  // in `exact_`: the characters of a short part that are no white space
    uint32_t parts_begin, parts_size;  // in `parts_`
  };

  // A token of a part, in lower case, in `bytes_`.
  struct Token {
    uint32_t begin, size;
  };

  struct Window;

  bool same(const Gram& gram, const Window& window, std::string_view text) const;

  std::vector<Gram> grams_;       // by key
  std::vector<uint32_t> table_;   // open addressing: 1 + place in grams_, 0 for none
  std::vector<uint64_t> filter_;  // three bits for each window, in one word
  std::vector<uint32_t> parts_;
  std::vector<uint32_t> total_;
  std::vector<Token> tokens_;
  std::string bytes_;
  std::string exact_;
  std::vector<uint32_t> lengths_;  // the different lengths of n-grams
  int filter_shift_ = 0;
  size_t n_;
};

}  // namespace codeshell::text
