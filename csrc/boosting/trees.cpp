#include "boosting/trees.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace codeshell::boosting {

namespace {

// Documents that go through a tree together. Their places in it are kept in registers.
constexpr size_t together = 16;

// Far beyond any ensemble; with it, node numbers fit 31 bits and sums of leaves 63.
constexpr size_t most_nodes = size_t{1} << 28;

[[noreturn]] void refuse(const std::string& what, size_t where) {
  throw std::invalid_argument(what + " (at " + std::to_string(where) + ")");
}

}  // namespace

Trees::Trees(const StoredTrees& s) : features_(s.features), targets_(s.targets) {
  if (s.features == 0 || s.features > 65536) refuse("trees: number of columns out of range", s.features);
  if (s.targets == 0 || s.targets > 64) refuse("trees: number of targets out of range", s.targets);
  if (s.nodes > most_nodes || s.leaves > most_nodes) refuse("trees: too many nodes", s.nodes);
  if ((s.trees == 0) != (s.nodes == 0)) refuse("trees: nodes without a tree, or a tree without nodes", s.trees);
  values_.assign(s.values, s.values + s.leaves * s.targets);
  // Nodes are laid out again, the two children of a node side by side; `place` is where a stored node lies now.
  std::vector<uint32_t> place(s.nodes);
  std::vector<uint32_t> depth(s.nodes);
  std::vector<uint8_t> has_parent(s.nodes);
  nodes_.resize(s.nodes);
  uint32_t next = 0;
  for (size_t t = 0; t < s.trees; ++t) {
    const int64_t first = s.roots[t], last = t + 1 < s.trees ? s.roots[t + 1] : static_cast<int64_t>(s.nodes);
    if (first < 0 || first >= last || last > static_cast<int64_t>(s.nodes) || (t == 0 && first != 0)) {
      refuse("trees: roots do not ascend from 0", t);
    }
    const auto begin = static_cast<size_t>(first), end = static_cast<size_t>(last);
    place[begin] = next++;
    has_parent[begin] = 1;
    depth[begin] = 0;
    uint32_t deepest = 0;
    // Children come after their parents: one pass in order has each node's place and depth before it is reached.
    for (size_t i = begin; i < end; ++i) {
      if (!has_parent[i]) refuse("trees: a node that no other leads to", i);
      Node& node = nodes_[place[i]];
      deepest = std::max(deepest, depth[i]);
      if (s.feature[i] < 0) {
        if (s.left[i] < 0 || static_cast<size_t>(s.left[i]) >= s.leaves) refuse("trees: a leaf without its value", i);
        // A number is at most infinity and NaN goes left: every document stays here.
        node = {std::numeric_limits<double>::infinity(), 0, place[i], 0, static_cast<uint32_t>(s.left[i])};
        continue;
      }
      if (static_cast<size_t>(s.feature[i]) >= s.features) refuse("trees: a column that is not there", i);
      if (s.threshold[i] != s.threshold[i]) refuse("trees: a threshold that is no number", i);
      if (s.missing_left[i] > 1) refuse("trees: a direction that is neither 0 nor 1", i);
      for (const int32_t child : {s.left[i], s.right[i]}) {
        if (child <= static_cast<int64_t>(i) || child >= last) refuse("trees: a child outside of its tree", i);
        if (has_parent[static_cast<size_t>(child)]) refuse("trees: a node with two parents", i);
        has_parent[static_cast<size_t>(child)] = 1;
        depth[static_cast<size_t>(child)] = depth[i] + 1;
      }
      node = {s.threshold[i], static_cast<uint32_t>(s.feature[i]), next, s.missing_left[i] ? 0u : 1u, 0};
      place[static_cast<size_t>(s.left[i])] = next++;
      place[static_cast<size_t>(s.right[i])] = next++;
    }
    trees_.push_back({place[begin], deepest});
  }
}

void Trees::sum(const double* rows, size_t count, int64_t* results) const {
  std::fill(results, results + count * targets_, 0);
  const Node* const nodes = nodes_.data();
  for (size_t first = 0; first < count; first += together) {
    const size_t n = std::min(together, count - first);
    // Of an incomplete block the last document is repeated; what it adds is thrown away.
    const double* row[together];
    for (size_t d = 0; d < together; ++d) row[d] = rows + (first + std::min(d, n - 1)) * features_;
    for (const Tree& tree : trees_) {
      uint32_t at[together];
      for (size_t d = 0; d < together; ++d) at[d] = tree.root;
      for (uint32_t step = 0; step < tree.depth; ++step) {
        for (size_t d = 0; d < together; ++d) {
          const Node& node = nodes[at[d]];
          const double value = row[d][node.feature];
          // Without a branch: a branch here is taken by chance, and each wrong guess costs more than the whole step.
          const uint32_t greater = value > node.threshold;
          const uint32_t missing = value != value;
          at[d] = node.child + (greater | (missing & node.missing_right));
        }
      }
      for (size_t d = 0; d < n; ++d) {
        const int32_t* const value = values_.data() + size_t{nodes[at[d]].value} * targets_;
        int64_t* const result = results + (first + d) * targets_;
        for (size_t t = 0; t < targets_; ++t) result[t] += value[t];
      }
    }
  }
}

}  // namespace codeshell::boosting
