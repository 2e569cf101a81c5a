// Decides on the documents of a stream, one by one. Documents come in order. One is dropped if and only if its exact
// Jaccard with a document that was KEPT before it reaches the threshold. So no chain of resemblances wipes out a
// cluster, and every dropped document names a kept one that it truly resembles: the one of highest Jaccard that was
// found, and the earliest of these if several are equal.
//
// A document with the fingerprint of an earlier one needs no comparison: it is dropped in favour of that one, at
// Jaccard 1, or of the document that that one was dropped for. So a million copies of one file are one entry. For any
// other document, the candidates are the kept documents that share a band key and whose sketch agrees in `least` bytes.
//
// A key takes only its first `max_bucket` kept documents, so that a licence header or a template that puts every
// document into one bucket costs a document at most bands * max_bucket comparisons of sketches. This limit can lose
// recall (a pair all of whose common keys are full), never precision; `capped_keys` counts the full keys.
//
// Memory: 40 to 60 bytes per distinct document; for every kept one its sketch, 8 bytes per distinct shingle and 20 to
// 40 bytes per band key.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dedup/shingling.h"
#include "dedup/texts.h"
#include "dedup/tokens.h"
#include "dedup/workers.h"
#include "simd/cpu.h"

namespace codeshell::dedup {

class Matcher {
 public:
  struct Settings {
    Shingling shingling;
    size_t bands;
    double threshold;
    uint32_t max_bucket;
    size_t lanes;    // bytes of a sketch that count
    size_t width;    // bytes of a sketch
    uint32_t least;  // equal bytes of sketches that are worth a comparison; 0: any
  };

  // The next documents, with what sign.h makes of them.
  struct Batch {
    Texts texts;
    const uint64_t* keys;          // [count][bands]
    const uint8_t* sketches;       // [count][width]
    const uint64_t* fingerprints;  // [count][2]
    const bool* candidate;         // false: kept, and the caller knows that its keys occur nowhere else; null: all true
  };

  Matcher(const Settings& settings, simd::Level level);

  // Decides on the documents of a batch: kept[i] is the document that i resembles, counted over all batches, or -1
  // (jaccard 0) if i stays. Returns false if `stop` ended the work; documents() then says how far it came. `threads`
  // threads make the shingle sets; the outcome does not depend on their number.
  bool add(const Batch& batch, unsigned threads, const Stop& stop, int64_t* kept, double* jaccard);

  int64_t documents() const { return next_; }

  uint64_t candidate_pairs = 0;  // pairs whose shingle sets were compared
  uint64_t verified_pairs = 0;   // of those, the pairs that reach the threshold
  uint64_t capped_keys = 0;

 private:
  static constexpr uint32_t none = ~0u;

  // The decision for all documents of one fingerprint.
  struct Known {
    uint64_t fingerprint[2];
    int64_t index;   // of the kept document
    double jaccard;  // with it; 1 if this is it
  };
  struct Kept {
    int64_t index;
    std::vector<uint64_t> set;
  };
  // The kept documents of one band key: a linked list of entries, latest first. Entry e belongs to kept document
  // e / bands; following_[e] is the next entry.
  struct Bucket {
    uint64_t key = 0;  // 0: free
    uint32_t head = none;
    uint32_t count = 0;
  };

  void decide(const Batch& batch, size_t i, std::vector<uint64_t>& set, int64_t* kept, double* jaccard);
  const Known* find_known(const uint64_t* fingerprint) const;
  void add_known(const Known& known);
  void collect(const uint64_t* keys, const uint8_t* sketch);
  void keep(const Batch& batch, size_t i, std::vector<uint64_t>& set);
  Bucket& bucket(uint64_t key);
  void grow_buckets();

  const Settings settings_;
  const simd::Level level_;
  int64_t next_ = 0;
  std::vector<Known> known_;
  std::vector<uint32_t> known_slots_;  // open addressing into known_; a power of two
  std::vector<Kept> kept_;
  std::vector<uint8_t> sketches_;  // of kept_
  std::vector<Bucket> buckets_;    // open addressing; a power of two
  size_t used_ = 0;
  std::vector<uint32_t> following_;  // by entry: the next one of its list, or none
  std::vector<int64_t> seen_;        // by kept document: the last document that met it
  std::vector<uint32_t> candidates_;
};

}  // namespace codeshell::dedup
