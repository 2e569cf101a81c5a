// Who stays, from verified edges: the greedy choice in the keep order, and the classic connected components.
//
// A rank is a document's place in the keep order; an edge is (later, earlier), two ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace codeshell::dedup {

// A document is dropped if and only if its Jaccard with a document before it that was KEPT reaches the threshold. So no
// chain of resemblances wipes out a cluster, and every dropped document names a kept one that it truly resembles: the
// one of highest Jaccard, the earliest of equals. One bit a document.
class Greedy {
 public:
  explicit Greedy(uint32_t documents) : documents_(documents), dropped_((size_t{documents} + 63) / 64) {}

  uint32_t documents() const { return documents_; }
  bool dropped(uint32_t rank) const { return dropped_[rank / 64] >> rank % 64 & 1; }
  void drop(uint32_t rank) { dropped_[rank / 64] |= uint64_t{1} << rank % 64; }

  struct Drop {
    uint32_t later, kept;
    double jaccard;
  };
  // Takes edges ordered by their later document, and appends a line for every document that it drops. A Jaccard that is
  // NaN reaches nothing. Throws std::invalid_argument for edges out of order or of range, and for a later document that
  // is not behind those of the calls before; nothing is decided then.
  void decide(const uint32_t* edges, const double* jaccard, size_t count, double threshold, std::vector<Drop>& drops);

  // Throws std::invalid_argument unless all edges are (later, earlier) below `documents`, ordered by later.
  void check(const uint32_t* edges, size_t count) const;

 private:
  const uint32_t documents_;
  uint64_t decided_ = 0;  // ranks below it have had their turn
  std::vector<uint64_t> dropped_;
};

// Union-find whose root is the smallest rank of its component. Four bytes a document.
class Components {
 public:
  explicit Components(uint32_t documents);

  // Unites. Throws std::invalid_argument for an edge out of range; those before it count.
  void add(const uint32_t* edges, size_t count);

  // By document: the smallest rank of its component. Valid until the next add.
  const std::vector<uint32_t>& labels();

 private:
  uint32_t root(uint32_t rank);

  std::vector<uint32_t> parent_;  // never a larger rank
};

}  // namespace codeshell::dedup
