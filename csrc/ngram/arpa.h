// ARPA files, the text form of n-gram models that all toolkits read:
//
//   \data\                     then a line "ngram k=count" per order
//   \k-grams:                  then lines "log10 probability TAB word … word TAB log10 backoff"; the backoff may be absent
//   \end\                      .
//
// The reader takes the file in pieces, so that it can come out of gzip, and trusts none of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ngram/score_texts.h"
#include "ngram/writer.h"

namespace codeshell::ngram {

class ArpaReader {
 public:
  // Writes the model to `output`. Its units are words between blanks, as KenLM takes a text. `metadata` is kept as it is.
  ArpaReader(std::string output, std::string metadata, const WriterOptions& options);
  // Throws std::invalid_argument with "line N: what is wrong", and what ModelWriter throws.
  void feed(std::string_view piece);
  // After the last piece.
  void finish();

 private:
  enum class State { before, counts, sections, entries, after };
  void line(std::string_view line);
  void count_line(std::string_view line);
  void section_line(std::string_view line);
  void entry_line(std::string_view line);
  void end_section();
  void start_tables();
  [[noreturn]] void fail(const std::string& what) const;

  std::string output_, metadata_;
  WriterOptions options_;
  State state_ = State::before;
  uint64_t line_number_ = 0;
  std::string rest_;  // of the last piece: a line that has not ended
  std::vector<uint64_t> counts_;
  uint32_t length_ = 0;  // of the section
  uint64_t seen_ = 0;    // entries of it
  struct Unigram {
    float probability, backoff;
    bool given;
  };
  std::vector<std::string> words_;
  std::vector<Unigram> unigrams_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> ids_;
  std::unique_ptr<ModelWriter> writer_;
  bool announced_unknown_ = false;
};

// Writes an ARPA file: counts first, then n-grams by rising length. Numbers have as many digits as a float32 needs to
// come back the same.
class ArpaWriter {
 public:
  // `word(id)` is the word of an id, without blanks. Throws std::system_error.
  ArpaWriter(std::string path, std::vector<uint64_t> counts, std::function<std::string(uint32_t)> word);
  ~ArpaWriter();
  ArpaWriter(const ArpaWriter&) = delete;
  ArpaWriter& operator=(const ArpaWriter&) = delete;
  void add(uint32_t length, const uint32_t* words, float probability, float backoff);
  void finish();

 private:
  void section(uint32_t length);
  void flush();
  std::string path_;
  std::FILE* file_;
  std::string buffer_;
  std::vector<uint64_t> counts_;
  std::function<std::string(uint32_t)> word_;
  std::vector<std::string> words_;  // by id, of the unigrams so far
  uint32_t length_ = 0;
};

// The n-grams of a model that keeps its words, as ARPA. Throws std::invalid_argument for one that does not.
void write_arpa(const TextModel& model, const std::string& path);

}  // namespace codeshell::ngram
