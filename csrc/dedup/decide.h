// Which documents stay, from verified edges: the greedy choice in the keep order, and the classic connected components.
//
// A rank is a document's place in the keep order; an edge is (later, earlier), two ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace codeshell::dedup {

// A document is dropped if and only if its Jaccard with a document before it that was KEPT reaches the threshold. So no
// chain of resemblances wipes out a cluster, and every dropped document names a kept one that it truly resembles: the
// one of highest Jaccard, and the earliest of these if several are equal. Memory: one bit per document.
class Greedy {
 public:
  explicit Greedy(uint32_t documents) : documents_(documents), dropped_((size_t{documents} + 63) / 64) {}

  uint32_t documents() const { return documents_; }
  bool dropped(uint32_t rank) const { return dropped_[rank / 64] >> rank % 64 & 1; }
  void drop(uint32_t rank) { dropped_[rank / 64] |= uint64_t{1} << rank % 64; }

  // A document that is dropped, the kept one that it names, and their Jaccard.
  struct Drop {
    uint32_t later, kept;
    double jaccard;
  };
  // Takes edges ordered by their later document, and appends a Drop for every document that it drops. A Jaccard that is
  // NaN reaches nothing. Throws std::invalid_argument for edges that are out of order or out of range, and for a later
  // document that does not come after those of the calls before; nothing is decided then.
  void decide(const uint32_t* edges, const double* jaccard, size_t count, double threshold, std::vector<Drop>& drops);

  // Throws std::invalid_argument unless all edges are (later, earlier) below `documents`, ordered by later.
  void check(const uint32_t* edges, size_t count) const;

 private:
  const uint32_t documents_;
  uint64_t decided_ = 0;  // ranks below it have had their turn
  std::vector<uint64_t> dropped_;
};

// Union-find whose root is the smallest rank of its component. Memory: four bytes per document.
class Components {
 public:
  explicit Components(uint32_t documents);

  // Unites the two documents of each edge. Throws std::invalid_argument for an edge out of range; those before it
  // count.
  void add(const uint32_t* edges, size_t count);

  // The smallest rank of each document's component, by rank. Valid until the next add.
  const std::vector<uint32_t>& labels();

 private:
  uint32_t root(uint32_t rank);

  std::vector<uint32_t> parent_;  // never a larger rank
};

}  // namespace codeshell::dedup
