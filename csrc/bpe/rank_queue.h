// The pairs of a long word that can be joined, to be taken by rank, and from left to right among those of one rank.
//
// Each rank has a list of places, and a tree of bits tells the lowest rank whose list is not empty. Pairs of one rank
// come up from left to right nearly always, so a list grows at its ends and is in order without sorting; a pair that
// would go between two others is kept in a heap instead. All steps but those of the heap take the same time whatever the
// length of the word is, and places are visited in the order in which they lie in memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace codeshell::bpe {

class RankQueue {
 public:
  // Makes room; the queue is empty before and, because every pair is popped or removed, after each use.
  void start(size_t places, size_t ranks) {
    if (heads_.size() < ranks) {
      heads_.assign(ranks, kEnd);
      tails_.assign(ranks, kEnd);
      levels_.clear();
      do levels_.emplace_back((ranks = (ranks + 63) / 64), 0);
      while (ranks > 1);
    }
    if (after_.size() < places) {
      after_.resize(places + places / 2);
      prior_.resize(places + places / 2);
    }
  }

  // A place is in the queue once at a time.
  void push(uint32_t rank, uint32_t at) {
    uint32_t &head = heads_[rank], &tail = tails_[rank];
    if (head == kEnd) {
      head = tail = at;
      after_[at] = prior_[at] = kEnd;
      set(rank);
    } else if (at > tail) {
      after_[tail] = at;
      prior_[at] = tail;
      after_[at] = kEnd;
      tail = at;
    } else if (at < head) {
      prior_[head] = at;
      after_[at] = head;
      prior_[at] = kEnd;
      head = at;
    } else {
      prior_[at] = kLoose;
      loose_.push_back(entry(rank, at));
      std::push_heap(loose_.begin(), loose_.end(), std::greater<>());
    }
  }

  void remove(uint32_t rank, uint32_t at) {
    // What is in the heap stays there until it comes up; `pop` knows it by its rank.
    if (prior_[at] == kLoose) return;
    const uint32_t before = prior_[at], next = after_[at];
    (before == kEnd ? heads_[rank] : after_[before]) = next;
    (next == kEnd ? tails_[rank] : prior_[next]) = before;
    if (heads_[rank] == kEnd) clear(rank);
  }

  // Takes the next pair; false if there is none. `ranks` are the ranks of the pairs now, by place.
  bool pop(const uint32_t* ranks, uint32_t& rank, uint32_t& at) {
    while (!loose_.empty() && ranks[static_cast<uint32_t>(loose_[0])] != loose_[0] >> 32) pop_loose();
    const bool listed = levels_.back()[0] != 0;
    if (listed) {
      rank = lowest();
      at = heads_[rank];
    }
    if (!loose_.empty() && (!listed || loose_[0] < entry(rank, at))) {
      rank = static_cast<uint32_t>(loose_[0] >> 32);
      at = static_cast<uint32_t>(loose_[0]);
      pop_loose();
      return true;
    }
    if (listed) remove(rank, at);
    return listed;
  }

 private:
  static constexpr uint32_t kEnd = UINT32_MAX, kLoose = UINT32_MAX - 1;

  static uint64_t entry(uint32_t rank, uint32_t at) { return static_cast<uint64_t>(rank) << 32 | at; }

  void pop_loose() {
    std::pop_heap(loose_.begin(), loose_.end(), std::greater<>());
    loose_.pop_back();
  }

  // Bit i of a level says whether word i of the level below has a bit; the last level is one word.
  void set(size_t rank) {
    for (std::vector<uint64_t>& level : levels_) {
      level[rank / 64] |= uint64_t{1} << (rank % 64);
      rank /= 64;
    }
  }
  void clear(size_t rank) {
    for (std::vector<uint64_t>& level : levels_) {
      if (level[rank / 64] &= ~(uint64_t{1} << (rank % 64))) return;
      rank /= 64;
    }
  }
  uint32_t lowest() const {
    size_t rank = 0;
    for (size_t level = levels_.size(); level-- > 0;) {
      rank = rank * 64 + static_cast<size_t>(std::countr_zero(levels_[level][rank]));
    }
    return static_cast<uint32_t>(rank);
  }

  std::vector<uint32_t> heads_, tails_;  // by rank
  std::vector<uint32_t> after_, prior_;  // by place
  std::vector<std::vector<uint64_t>> levels_;
  std::vector<uint64_t> loose_;
};

}  // namespace codeshell::bpe
