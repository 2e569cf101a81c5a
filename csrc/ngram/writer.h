// Writes a model file (csrc/ngram/format.h) from n-grams that come in any order within their length.
//
// One length is held at a time. Where it does not fit `memory_bytes`, sorted runs go to files beside the path and are
// merged. The bytes of the file depend on the n-grams and options alone.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ngram/format.h"
#include "ngram/quantise.h"

namespace codeshell::ngram {

struct WriterOptions {
  // Probabilities and backoffs as 8-bit codes with a codebook per order, and checks of 16 bits: 3 to 4 bytes per slot.
  // One search in about 5,000 for an n-gram that is not in the model then finds another one's entry.
  bool quantise = false;
  // Entries per slot, in hundredths; 0 is the default: 67, or 80 if quantised.
  uint32_t load = 0;
  // The n-grams' words are kept, so that the file can be written as ARPA. Scoring does not read them.
  bool keep_words = false;
  // The suffix of every n-gram is in the model too. Training by counts guarantees it; `check_suffixes` looks for each
  // one, at the price of a search per n-gram, and records what it finds.
  bool suffix_closed = true;
  bool check_suffixes = false;
  // For the n-grams of one length; at least a megabyte is taken.
  uint64_t memory_bytes = uint64_t{1} << 30;
  // Ids of <s> and </s>.
  uint32_t begin = 1, end = 2;
};

class RecordSorter;

class ModelWriter {
 public:
  // counts[k - 1] is the number of n-grams of length k that will be added; counts[0] is the size of the vocabulary, and
  // ids are below it. Everything is written to `path`; who needs a file that is whole or absent renames it afterwards.
  // Throws std::invalid_argument for impossible arguments and std::system_error for the disk.
  ModelWriter(std::string path, uint32_t order, std::vector<uint64_t> counts, std::string unit_blob,
              std::string metadata_json, const WriterOptions& options = {});
  // Without `finish`, what was written is removed.
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  // An n-gram of `length` words, the oldest first. Lengths must rise. Probability and backoff are base-10 logarithms;
  // the backoff of the highest order is not stored. Unigrams that are not added have -100 and 0.
  void add(uint32_t length, const uint32_t* words, float probability, float backoff);
  // The same by key (csrc/ngram/key.h), from a file that has no words. Not with `keep_words` or `check_suffixes`.
  void add_key(uint32_t length, uint64_t key, float probability, float backoff);
  // For a vocabulary that is known only after the unigrams were read.
  void set_units(std::string unit_blob) { units_ = std::move(unit_blob); }
  void set_metadata(std::string json) { metadata_ = std::move(json); }
  void set_ends(uint32_t begin, uint32_t end);
  // Writes the rest and the header. Throws std::invalid_argument if an order has other than the announced count.
  void finish();
  // N-grams that were added twice (the one of the smaller probability stayed).
  uint64_t repeated() const { return repeated_; }

 private:
  void open_length(uint32_t length);
  void close_length();
  void close_unigrams();
  void look_for_suffixes();
  void write(const void* data, size_t bytes);
  void pad();

  std::string path_;
  std::FILE* file_ = nullptr;
  uint64_t position_ = 0;
  Header header_{};
  std::vector<uint64_t> counts_;
  std::string units_, metadata_;
  WriterOptions options_;
  uint32_t length_ = 1;
  uint64_t added_ = 0, repeated_ = 0;
  std::vector<float> unigrams_;
  std::unique_ptr<RecordSorter> sorter_;
  std::unique_ptr<Histogram> probabilities_, backoffs_;
  std::vector<Codebook> books_;  // two per order
  // The spread keys of the order before, sorted, and suffixes that were not looked for yet.
  std::vector<uint64_t> shorter_, keys_, suffixes_;
};

}  // namespace codeshell::ngram
