// Boosted regression trees: what a trained ensemble is, and its evaluation.
//
// A tree asks of a document one column at a time: is the value at most a threshold? NaN goes where the node says. The
// answer is an exact sum: thresholds are doubles that are compared as they are, and leaves are integers, in units of
// 2^-24 of the score. So the order of the additions does not matter, and every machine gives the same bits.
//
// Evaluation takes 16 documents through a tree together, step by step and without a branch: the loads of one document
// fill the time in which another one waits for its threshold. A leaf leads to itself, so that each document may take as
// many steps as the deepest leaf needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace codeshell::boosting {

inline constexpr int leaf_bits = 24;

// The columns of an ensemble as it is stored, one entry for each node. Node i of a tree has the children `left` and
// `right`, both larger than i, so that no walk can be endless; a leaf has feature -1 and its row of `values` in `left`.
struct StoredTrees {
  const int32_t* feature;
  const double* threshold;
  const int32_t* left;
  const int32_t* right;
  const uint8_t* missing_left;  // 1: NaN goes left
  size_t nodes;
  const int64_t* roots;  // (trees,) ascending, the first 0: a tree's nodes are roots[t] .. roots[t + 1]
  size_t trees;
  const int32_t* values;  // (leaves, targets)
  size_t leaves;
  size_t targets;
  size_t features;  // columns of a document
};

class Trees {
 public:
  // Copies what it is given. Throws std::invalid_argument for an ensemble that no training can have made: the file may
  // be foreign.
  explicit Trees(const StoredTrees& stored);

  size_t features() const { return features_; }
  size_t targets() const { return targets_; }

  // Adds up the leaves of each document.
  //   rows     (count, features), NaN for what is missing
  //   results  (count, targets), in units of 2^-24
  void sum(const double* rows, size_t count, int64_t* results) const;

 private:
  struct Node {
    double threshold;
    uint32_t feature;
    uint32_t child;  // the left one; the right one is the next. A leaf's is itself.
    uint32_t missing_right;
    uint32_t value;  // of a leaf: its row of `values_`
  };
  struct Tree {
    uint32_t root;
    uint32_t depth;
  };

  std::vector<Node> nodes_;
  std::vector<Tree> trees_;
  std::vector<int32_t> values_;
  size_t features_;
  size_t targets_;
};

}  // namespace codeshell::boosting
