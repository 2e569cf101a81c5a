// Who stays. Documents come in order; one is dropped if and only if its exact Jaccard with a document that was KEPT
// before it reaches the threshold, so no chain of resemblances wipes out a cluster, and every dropped document names a
// kept one that it truly resembles: the one of highest Jaccard found, the earliest of equals.
//
// Candidates are the kept documents that share a band key. Only kept documents are registered, so ten thousand copies
// of one file are one entry; and a key takes its first `max_bucket` kept documents only, so that a licence header or a
// template that puts every document into one bucket costs a document at most bands * max_bucket comparisons. What that
// cap can lose is recall (a pair all of whose common keys are full), never precision; `capped_keys` counts full keys.
//
// Memory: the shingle sets (8 bytes a distinct shingle) and band keys of the kept documents that were added.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dedup/shingles.h"

namespace codeshell::dedup {

struct Match {
  int64_t index = -1;  // of the kept document, counted over everything added or skipped; -1: this one is kept
  double jaccard = 0.0;
};

class Matcher {
 public:
  Matcher(uint32_t ngram, size_t bands, double threshold, uint32_t max_bucket, simd::Level level);

  // Decides on the next document. `keys` are its band keys (see minhash.h). A document without tokens is dropped only
  // if a kept one has the same bytes; their Jaccard counts as 1.
  Match add(std::string_view text, const uint64_t* keys);

  // The next document is kept and can be matched by none: the caller knows that its keys occur nowhere else.
  void skip() { ++next_; }

  uint64_t candidate_pairs = 0;  // pairs whose shingle sets were compared
  uint64_t verified_pairs = 0;   // of those, the pairs that reach the threshold
  uint64_t capped_keys = 0;

 private:
  struct Kept {
    int64_t index;
    std::vector<uint64_t> set;
  };
  struct Slot {
    uint64_t key = 0;  // 0: free
    uint32_t head = 0;
    uint32_t count = 0;
  };
  struct Entry {
    uint32_t kept;
    uint32_t next;  // in entries_; no_entry ends the list
  };

  Match match_blank(std::string_view text);
  void collect(const uint64_t* keys);
  void keep(const uint64_t* keys);
  Slot& slot(uint64_t key);
  void grow();

  const uint32_t ngram_;
  const size_t bands_;
  const double threshold_;
  const uint32_t max_bucket_;
  const simd::Level level_;
  int64_t next_ = 0;
  Scratch scratch_;
  std::vector<Kept> kept_;
  std::vector<Slot> slots_;  // open addressing; a power of two
  size_t used_ = 0;
  std::vector<Entry> entries_;
  std::vector<int64_t> seen_;  // by kept document: the last document that had it as a candidate
  std::vector<uint32_t> candidates_;
  std::unordered_map<std::string, int64_t> blank_;  // documents without tokens, by their bytes
};

}  // namespace codeshell::dedup
