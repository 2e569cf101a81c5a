// The exact highest Jaccard of each document of a small set with all documents of a large stream: it measures how much
// of held-out documents leaks into training data. Nothing is sampled: an inverted index over the shingles of the small
// set counts the shared ones of every pair that shares any.
//
// Cost: one look-up per distinct shingle of the stream, and one addition per document of the small set that has it.
#pragma once

#include <cstdint>
#include <vector>

#include "dedup/shingles.h"
#include "dedup/texts.h"

namespace codeshell::dedup {

class Overlap {
 public:
  Overlap(const Texts& texts, uint32_t ngram, simd::Level level);

  // Compares the next documents of the stream; they are counted from 0 over all calls.
  void compare(const Texts& texts, unsigned threads);

  // By document of the small set: the highest Jaccard so far, and the earliest document of the stream that has it
  // (-1: no document shares a shingle).
  const std::vector<double>& jaccard() const { return jaccard_; }
  const std::vector<int64_t>& match() const { return match_; }

 private:
  struct Slot {
    uint64_t shingle = 0;
    uint32_t first = 0;  // its documents are documents_[first .. first + count)
    uint32_t count = 0;  // 0: free
  };

  const Slot& find(uint64_t shingle) const;

  const uint32_t ngram_;
  const simd::Level level_;
  int64_t next_ = 0;
  std::vector<uint32_t> sizes_;  // distinct shingles by document
  std::vector<uint32_t> documents_;
  std::vector<Slot> slots_;  // open addressing; a power of two
  std::vector<double> jaccard_;
  std::vector<int64_t> match_;
};

}  // namespace codeshell::dedup
