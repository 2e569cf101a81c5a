#include "dedup/decide.h"

#include <numeric>
#include <stdexcept>
#include <string>

namespace codeshell::dedup {

namespace {

// An edge for an error message.
std::string show(const uint32_t* edge) {
  return "edges: (" + std::to_string(edge[0]) + ", " + std::to_string(edge[1]) + ")";
}

}  // namespace

// Everything is checked before anything is decided, so that an error leaves the object as it was.
void Greedy::check(const uint32_t* edges, size_t count) const {
  for (const uint32_t* edge = edges; edge < edges + 2 * count; edge += 2) {
    if (edge[0] >= documents_) {
      throw std::invalid_argument(show(edge) + " is out of range of " + std::to_string(documents_) + " documents");
    }
    if (edge[1] >= edge[0]) throw std::invalid_argument(show(edge) + " is not (later, earlier)");
    if (edge > edges && edge[-2] > edge[0]) throw std::invalid_argument(show(edge) + " is not in order of the later");
  }
}

void Greedy::decide(const uint32_t* edges, const double* jaccard, size_t count, double threshold,
                    std::vector<Drop>& drops) {
  check(edges, count);
  if (!count) return;
  if (edges[0] < decided_) throw std::invalid_argument(show(edges) + " comes after later documents were decided");
  // One document per round: all its edges are consecutive. Documents before it are final, because edges ascend by the
  // later one; this is what makes the greedy choice one pass.
  for (size_t e = 0; e < count;) {
    const uint32_t later = edges[2 * e];
    const bool open = !dropped(later);
    // -1 is below every Jaccard: no kept document was found yet.
    Drop best{later, 0, -1.0};
    for (; e < count && edges[2 * e] == later; ++e) {
      // `!(x >= threshold)` instead of `x < threshold`, so that NaN is refused too.
      const uint32_t earlier = edges[2 * e + 1];
      if (!open || !(jaccard[e] >= threshold) || dropped(earlier)) continue;
      if (jaccard[e] > best.jaccard || (jaccard[e] == best.jaccard && earlier < best.kept)) {
        best.kept = earlier;
        best.jaccard = jaccard[e];
      }
    }
    // No kept document resembles it (or it was dropped before): nothing to record.
    if (best.jaccard < 0.0) continue;
    drop(later);
    drops.push_back(best);
  }
  // Later calls may only decide on later documents.
  decided_ = uint64_t{edges[2 * (count - 1)]} + 1;
}

Components::Components(uint32_t documents) : parent_(documents) { std::iota(parent_.begin(), parent_.end(), 0u); }

// The root of a component. Path halving: every second document on the way is linked to its grandparent, so that no
// chain stays long.
uint32_t Components::root(uint32_t rank) {
  while (parent_[rank] != rank) {
    parent_[rank] = parent_[parent_[rank]];
    rank = parent_[rank];
  }
  return rank;
}

void Components::add(const uint32_t* edges, size_t count) {
  constexpr size_t ahead = 16;  // edges: their documents are anywhere in memory
  for (size_t e = 0; e < count; ++e) {
    const uint32_t* const edge = edges + 2 * e;
    if (edge[0] >= parent_.size() || edge[1] >= parent_.size()) {
      throw std::invalid_argument(show(edge) + " is out of range of " + std::to_string(parent_.size()) + " documents");
    }
    if (e + ahead < count) {  // an address that is out of range does no harm
      __builtin_prefetch(parent_.data() + edge[2 * ahead], 1);
      __builtin_prefetch(parent_.data() + edge[2 * ahead + 1], 1);
    }
    // The larger root is linked to the smaller one, so the root stays the smallest rank, which is the document that is
    // kept.
    const uint32_t a = root(edge[0]), b = root(edge[1]);
    if (a < b) parent_[b] = a;
    if (b < a) parent_[a] = b;
  }
}

const std::vector<uint32_t>& Components::labels() {
  // A parent is a smaller rank (or the document itself), so its label is final when this pass reads it.
  for (uint32_t& parent : parent_) parent = parent_[parent];
  return parent_;
}

}  // namespace codeshell::dedup
