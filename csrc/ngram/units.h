// Turns a text into the ids of an n-gram model's units, and tells the words that the ids stand for.
//
// Kinds of units:
//   lexical  words, numbers and marks of source code (lexer.h). The commonest words have ids of their own;
//            every other word is one of a few classes by its shape: `fooBar` is <camel>, `0x1F` is <hex>. No text has
//            <unk>, and no tokenizer is needed.
//   bpe      the ids of a tokenizer.json, three added; made in Python, because C++ has no BPE. The blob keeps the file.
//   bytes    one id for each byte.
//   words    what blanks and line breaks separate, as KenLM's own models have it; any word that is not known is <unk>.
//
// A document is one sentence: <s> w1 … wn </s>. What `encode` gives are w1 … wn.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace codeshell::ngram {

enum class UnitKind : uint8_t { lexical = 0, bpe = 1, bytes = 2, words = 3 };

inline constexpr uint32_t unknown_id = 0, begin_id = 1, end_id = 2, first_id = 3;

// Ids of a model at most: below 2^20, so that three of them fit in a key of 64 bits and six in one of 128.
inline constexpr uint32_t max_ids = 1u << 20;

// Longer words are never words of the vocabulary.
inline constexpr size_t longest_word = 64;

// Where a unit lies in its text, in bytes.
struct Span {
  uint64_t begin, end;
};

class WordTable;

class Units {
 public:
  // Of `kind`, with these words after the fixed ones: ids follow their order. `extra` is kept as it is (the tokenizer.json
  // of `bpe`). Throws std::invalid_argument for an empty, a repeated or an over-long word, or too many.
  Units(UnitKind kind, std::vector<std::string> words, std::string extra = {});
  Units(Units&&) noexcept;
  Units& operator=(Units&&) noexcept;
  ~Units();

  // The number of ids that `kind` has without any words of a vocabulary.
  static uint32_t fixed_count(UnitKind kind);

  UnitKind kind() const { return kind_; }
  uint32_t size() const { return fixed_ + static_cast<uint32_t>(words_.size()); }
  const std::string& extra() const { return extra_; }
  const std::vector<std::string>& words() const { return words_; }

  // Whether `encode` can do it: all but `bpe`.
  bool encodes() const { return kind_ != UnitKind::bpe; }

  // Appends the ids of a text; at most one for each byte. With `spans`, also where each unit lies.
  void encode(std::string_view text, std::vector<uint32_t>& ids, std::vector<Span>* spans = nullptr) const;

  // The word of an id as ARPA files have it: no blank, tab or line break in it; bytes that are no UTF-8 as \xHH.
  std::string word(uint32_t id) const;

  // The id of a word in that form; unknown_id if there is none. Slow: for tests and readers of a few words.
  uint32_t find(std::string_view word) const;

  // All of it as bytes, and back. Throws std::invalid_argument if the bytes are not what `serialize` made.
  std::string serialize() const;
  static Units deserialize(std::string_view blob);

 private:
  UnitKind kind_;
  uint32_t fixed_;
  std::vector<std::string> words_;  // as they are in texts; of `bpe` and ARPA files, as they are in ARPA files
  std::string extra_;
  std::unique_ptr<WordTable> table_;
};

// The hash under which a word is found; no other is compared. Two words of a text share one with a chance of 2^-64.
uint64_t hash_word(const char* begin, const char* end);

}  // namespace codeshell::ngram
