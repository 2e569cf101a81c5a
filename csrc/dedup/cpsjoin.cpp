// CPSJoin over sketches. Corpus holds the documents in rank order; Found what all threads have found; Tree walks one
// repetition; cpsjoin() runs the trees and writes the edges.
//
// What the variables hold:
//   document   a number 0 .. count - 1 in rank order; ranks[document] is its place in the keep order
//   rows       (count, width) bytes: the sketches
//   columns    (lanes, count) bytes: the same, lane by lane, for splits
//   set        ascending documents; always a range of items_ (the sets of this level, one after the other)
//   path       a hash of the lanes and bytes that led to a set; all random choices of the set follow from it
#include "dedup/cpsjoin.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <utility>

#include "dedup/hash.h"
#include "dedup/neighbours.h"
#include "dedup/tasks.h"

namespace codeshell::dedup {

namespace {

constexpr double copies = 4;            // a level of a tree holds at most so many copies per document
constexpr size_t sample_size = 32;      // 496 comparisons per set, fewer than 2 per document at limit 250
constexpr size_t dense_share = 4;       // a cluster is at least 1 / 4 of the sample
constexpr unsigned most_clusters = 16;  // clusters taken out of one set
constexpr unsigned lane_tries = 16;     // tries per set to find lanes that vary
constexpr double most_lanes = 65536;    // a bound for 1 / threshold, which a tiny threshold makes huge
constexpr size_t values = 256;          // values of a byte
constexpr size_t scan_block = 512;      // sketches compared with the centre of a cluster at once

// The documents in the order of rank; from here on this order numbers them.
struct Corpus {
  Corpus(const Sketches& sketches, const uint32_t* positions, const uint32_t* rank, size_t count, size_t lanes)
      : count(count), width(sketches.width()), ranks(count) {
    // Sort by rank: rank << 32 | position. `identity`: the sketches lie in memory in this order already.
    const auto position = [&](size_t i) { return positions ? positions[i] : static_cast<uint32_t>(i); };
    std::vector<uint64_t> order(count);
    bool identity = count == sketches.count() && sketches.data();
    for (size_t i = 0; i < count; ++i) {
      order[i] = uint64_t{rank ? rank[i] : position(i)} << 32 | position(i);
      identity &= position(i) == i && (i == 0 || order[i - 1] < order[i]);
    }
    if (!identity) std::sort(order.begin(), order.end());
    for (size_t i = 0; i < count; ++i) {
      ranks[i] = static_cast<uint32_t>(order[i] >> 32);
      if (i && ranks[i] == ranks[i - 1]) throw std::invalid_argument("rank: has equal places");
    }
    // Use the sketches in place, or copy them in rank order.
    rows = sketches.data();
    if (!identity) {
      owned = aligned_bytes(count * width);
      for (size_t i = 0; i < count; ++i) sketches.read(static_cast<uint32_t>(order[i]), owned.get() + i * width);
      rows = owned.get();
    }
    // Transpose to columns, a block of rows at a time.
    columns = aligned_bytes(lanes * count);
    constexpr size_t block = 64;  // documents: their rows stay in the first-level cache
    for (size_t first = 0; first < count; first += block) {
      const size_t end = std::min(first + block, count);
      for (size_t lane = 0; lane < lanes; ++lane) {
        for (size_t i = first; i < end; ++i) columns.get()[lane * count + i] = rows[i * width + lane];
      }
    }
  }

  const uint8_t* row(uint32_t document) const { return rows + document * width; }
  // One lane of all documents. A split reads it at ascending places; in rows every document would miss the cache.
  const uint8_t* column(uint32_t lane) const { return columns.get() + lane * count; }

  const size_t count, width;
  std::vector<uint32_t> ranks;  // ascending
  AlignedBytes owned;
  const uint8_t* rows;
  AlignedBytes columns;
};

// The neighbours of all documents, which the threads share. The order in which they are found makes no difference; see
// Neighbours. A lock guards the documents of one residue modulo 1024.
class Found {
 public:
  Found(size_t count, const CpsJoinOptions& options)
      : capacity_(options.neighbours),
        sure_(options.sure),
        bytes_(aligned_bytes(count * capacity_ * sizeof(uint64_t))),
        slots_(reinterpret_cast<uint64_t*>(bytes_.get())),
        floors_(count),
        exhausted_(count) {
    std::fill_n(slots_, count * capacity_, 0);
  }

  // Offers a document some earlier ones: matches[i].index is an index into `earlier`.
  void add(uint32_t document, std::span<const Match> matches, const uint32_t* earlier) {
    // Most documents that look alike only by a template are worse than those that are already there. One read of a
    // small array, without the lock, tells. A stale floor is too low, never too high, so nothing is lost by it.
    const uint32_t floor = std::min(floors_[document].load(std::memory_order_relaxed), sure_);
    const auto counts = [&](const Match& match) { return match.equal >= floor; };
    const auto first = std::find_if(matches.begin(), matches.end(), counts);
    if (first == matches.end()) return;
    const std::lock_guard lock(locks_[document % locks_.size()]);
    Neighbours best = of(document);
    for (const Match& match : matches.subspan(static_cast<size_t>(first - matches.begin()))) {
      if (counts(match)) best.offer(earlier[match.index], match.equal, match.equal >= sure_);
    }
    floors_[document].store(best.floor(), std::memory_order_relaxed);
  }

  // Prefetches what add() will read, for it may be anywhere in memory.
  void prefetch(uint32_t document) const {
    __builtin_prefetch(&floors_[document]);
    const uint64_t* const best = slots_ + document * capacity_ + capacity_ / 2;
    for (size_t i = 0; i < capacity_ - capacity_ / 2; i += 64 / sizeof(uint64_t)) __builtin_prefetch(best + i);
  }

  // Reads first, because a store takes the cache line away from all other threads.
  void add_exhausted(uint32_t document) {
    if (!exhausted(document)) exhausted_[document].store(1, std::memory_order_relaxed);
  }
  bool exhausted(uint32_t document) const { return exhausted_[document].load(std::memory_order_relaxed); }

  Neighbours of(uint32_t document) { return {slots_ + document * capacity_, capacity_}; }

 private:
  const size_t capacity_;
  const uint32_t sure_;
  const AlignedBytes bytes_;
  uint64_t* const slots_;
  std::vector<std::atomic<uint32_t>> floors_;  // Neighbours::floor() of each; it never falls
  std::vector<std::atomic<uint8_t>> exhausted_;
  std::array<std::mutex, 1024> locks_;
};

// One repetition: one tree, walked level by level. A set is a range of document numbers, ascending.
class Tree {
 public:
  Tree(const Corpus& corpus, const CpsJoinOptions& options, simd::Level level, Found& found)
      : corpus_(corpus),
        options_(options),
        similar_(similar(level)),
        found_(found),
        rows_(aligned_bytes(corpus.width *
                            std::max({size_t{options.limit}, scan_block, sample_size, size_t{options.neighbours}}))),
        matches_(std::max({size_t{options.limit}, scan_block, sample_size, size_t{options.neighbours}})),
        spent_(corpus.count) {}

  // ---- the walk ----
  void run(uint32_t repetition) {
    repetition_ = repetition;
    // Every repetition has an equal part of each document's budget, whatever the threads do; the remainder of the
    // division goes to the first repetitions.
    allowance_ = options_.budget / options_.repetitions + (repetition < options_.budget % options_.repetitions);
    std::fill(spent_.begin(), spent_.end(), 0);
    items_.resize(corpus_.count);
    // The root is the set of all documents; its path differs between repetitions, and so does everything below it.
    std::iota(items_.begin(), items_.end(), 0u);
    nodes_.assign(1, {items_.size(), mix64(options_.seed ^ mix64(repetition + 1))});
    if (items_.size() <= options_.limit) {  // one tree compares all pairs, and has the whole budget
      allowance_ = options_.budget;
      if (repetition == 0) compare_pairs(items_);
      return;
    }
    for (uint64_t depth = 1; !nodes_.empty(); ++depth) {
      counts.depth = std::max(counts.depth, depth);
      // The lanes per set on this level: 1 / threshold, but so few that the next level has at most `room` documents.
      const double room = copies * static_cast<double>(corpus_.count);
      const double lanes = std::min(1 / options_.threshold, room / static_cast<double>(items_.size()));
      size_t first = 0;
      for (const Node& node : nodes_) {
        // What is left for this set: the rest of the room, less one copy of each document still to come, so that each
        // of their sets can be split at least once.
        room_ = static_cast<size_t>(room) - next_items_.size() - (items_.size() - node.end);
        expand({items_.data() + first, node.end - first}, node.path, lanes, depth == 1);
        first = node.end;
      }
      items_.swap(next_items_);
      nodes_.swap(next_nodes_);
      next_items_.clear();
      next_nodes_.clear();
    }
  }

  CpsJoinCounts counts;

 private:
  // A set of the level that is being processed.
  struct Node {
    size_t end;     // in items_; it begins where the one before ends
    uint64_t path;  // hash
  };

  // ---- paying and comparing ----

  // Takes up to `wanted` units of the document's budget, and returns how many it got.
  uint32_t take(uint32_t document, size_t wanted) {
    const uint32_t left = allowance_ - spent_[document];
    const auto taken = static_cast<uint32_t>(std::min<size_t>(wanted, left));
    if (taken < wanted) found_.add_exhausted(document);
    spent_[document] += taken;
    return taken;
  }

  // Copies the sketches of a set side by side into rows_. The prefetch runs 8 documents ahead of the copy.
  void gather(std::span<const uint32_t> set) {
    const size_t ahead = 8;
    for (size_t i = 0; i < set.size(); ++i) {
      if (i + ahead < set.size()) {
        for (size_t b = 0; b < corpus_.width; b += 64) __builtin_prefetch(corpus_.row(set[i + ahead]) + b);
      }
      std::memcpy(rows_.get() + i * corpus_.width, corpus_.row(set[i]), corpus_.width);
    }
  }

  // Compares the document `self` with the first `count` of those gathered, which are earlier. If the budget allows
  // fewer, the earliest are compared.
  void compare(uint32_t self, const uint8_t* row, size_t count, const uint32_t* earlier) {
    found_.prefetch(self);
    count = take(self, count);
    counts.compared += count;
    const size_t matches =
        similar_(row, rows_.get(), count, corpus_.width, options_.lanes, options_.least, matches_.data());
    found_.add(self, {matches_.data(), matches}, earlier);
  }

  void compare_pairs(std::span<const uint32_t> set) {
    if (set.size() < 2) return;
    gather(set);
    for (size_t i = 1; i < set.size(); ++i) compare(set[i], rows_.get() + i * corpus_.width, i, set.data());
  }

  // Compares all pairs of a small cluster; in a larger one, each document with the earliest members.
  void compare_cluster(std::span<const uint32_t> set) {
    if (set.size() <= options_.limit) return compare_pairs(set);
    const size_t first = options_.neighbours;
    gather(set.first(std::min(first, set.size())));
    for (size_t i = 1; i < set.size(); ++i) compare(set[i], corpus_.row(set[i]), std::min(i, first), set.data());
  }

  // ---- one set: take out its clusters, then split the rest ----
  void expand(std::span<uint32_t> set, uint64_t path, double lanes, bool root) {
    // Dense parts first: where many documents surely resemble one, a split would keep them together at every depth.
    for (unsigned round = 0; set.size() > options_.limit && round < most_clusters; ++round) {
      const uint32_t* const centre = find_centre(set, mix64(path + round));
      if (!centre) break;
      set = take_cluster(set, *centre);
      ++counts.clusters;
    }
    if (set.size() <= options_.limit) return compare_pairs(set);
    // Round the number of lanes up or down at random, so that its expectation is `lanes`. The hash has 53 random bits,
    // the precision of a double.
    const auto whole = static_cast<unsigned>(lanes);
    const double chance = static_cast<double>(mix64(path ^ 1) >> 11) * 0x1p-53;
    const auto room = static_cast<unsigned>(std::min<size_t>(room_ / set.size(), lane_tries));
    const unsigned wanted = std::min(whole + (chance < lanes - whole), room);
    // Choose lanes, each at most once, and pass over those in which the set does not vary. The loop runs at most
    // `lane_tries` times: a set of equal sketches varies in none.
    uint32_t used[lane_tries];
    unsigned split_by = 0;
    for (unsigned tried = 0; tried < lane_tries && split_by < wanted; ++tried) {
      const uint32_t lane = choose_lane(path, tried, root);
      if (std::find(used, used + tried, lane) != used + tried) {
        used[tried] = lane;
        continue;
      }
      used[tried] = lane;
      const uint8_t* const bytes = corpus_.column(lane);
      const uint8_t value = bytes[set[0]];
      if (std::all_of(set.begin(), set.end(), [&](uint32_t d) { return bytes[d] == value; })) continue;
      split(set, path, lane);
      ++split_by;
    }
  }

  uint32_t choose_lane(uint64_t path, unsigned tried, bool root) const {
    const auto count = static_cast<uint32_t>(options_.lanes);
    if (!root) return static_cast<uint32_t>(mix64(path + 2 + tried) % count);
    // The roots of the repetitions take their lanes in turn, so that they differ.
    const auto most = static_cast<uint64_t>(std::min(1 / options_.threshold, most_lanes)) + 1;
    return static_cast<uint32_t>((mix64(options_.seed) % count + repetition_ * most + tried) % count);
  }

  // A document that surely resembles a quarter of a sample of the set; null if there is none. A dense part of well over
  // a quarter of the set is found with high probability; a set without one costs at most 496 comparisons.
  const uint32_t* find_centre(std::span<const uint32_t> set, uint64_t hash) {
    const size_t size = std::min(sample_size, set.size());
    // One document from each 32nd of the set, by a hash: sample[i] = set[at[i]], ascending. alike[i] counts those like
    // it.
    std::array<uint32_t, sample_size> sample, at, alike{};
    for (size_t i = 0; i < size; ++i) {
      const size_t first = set.size() * i / size, end = set.size() * (i + 1) / size;
      at[i] = static_cast<uint32_t>(first + mix64(hash + i) % (end - first));
      sample[i] = set[at[i]];
    }
    // Compare all pairs of the sample. What is found is kept: these comparisons are paid for by the documents' budgets.
    gather({sample.data(), size});
    for (size_t i = 1; i < size; ++i) {
      const uint32_t count = take(sample[i], i);
      counts.compared += count;
      const size_t matches = similar_(rows_.get() + i * corpus_.width, rows_.get(), count, corpus_.width,
                                      options_.lanes, std::max(options_.sure, options_.least), matches_.data());
      found_.add(sample[i], {matches_.data(), matches}, sample.data());
      alike[i] += static_cast<uint32_t>(matches);
      for (size_t m = 0; m < matches; ++m) ++alike[matches_[m].index];
    }
    // The document with the most similar ones becomes the centre, if they are a quarter of the sample.
    const auto most = std::max_element(alike.begin(), alike.begin() + size);
    if (*most * dense_share < size) return nullptr;
    return &set[at[static_cast<size_t>(most - alike.begin())]];
  }

  // Joins the documents that surely resemble the centre, and returns the set without them and without exhausted ones.
  // The set is compacted in place: [0, kept) are documents that stay in it.
  std::span<uint32_t> take_cluster(std::span<uint32_t> set, uint32_t centre) {
    cluster_.clear();
    earlier_.clear();
    size_t kept = 0;
    for (size_t first = 0; first < set.size(); first += scan_block) {
      // Documents without budget leave the block; the others move together to [first, paid).
      size_t paid = first;
      const size_t end = std::min(first + scan_block, set.size());
      for (size_t i = first; i < end; ++i) {
        const bool pays = set[i] != centre && take(set[i], 1);
        counts.compared += pays;
        if (pays || set[i] == centre) set[paid++] = set[i];
      }
      // Compare the block with the centre; matches ascend by index, so one pass over both lists divides the block.
      const auto some = set.subspan(first, paid - first);
      gather(some);
      const size_t matches = similar_(corpus_.row(centre), rows_.get(), some.size(), corpus_.width, options_.lanes,
                                      std::max(options_.sure, options_.least), matches_.data());
      for (size_t i = 0, m = 0; i < some.size(); ++i) {
        const uint32_t document = some[i];
        const bool alike = m < matches && matches_[m].index == i;
        if (!alike && document != centre) {
          set[kept++] = document;
          continue;
        }
        // A pair is offered to its later document: here the centre's earlier neighbours wait until cluster_ no longer
        // moves.
        cluster_.push_back(document);
        if (document < centre) earlier_.push_back({static_cast<uint32_t>(cluster_.size() - 1), matches_[m].equal});
        if (document > centre) {
          const Match match{0, matches_[m].equal};
          found_.add(document, {&match, 1}, &centre);
        }
        m += alike;
      }
    }
    // The members resemble each other by way of the centre, so they are compared among themselves too.
    found_.add(centre, earlier_, cluster_.data());
    compare_cluster(cluster_);
    return set.first(kept);
  }

  // Puts the documents into the part of their byte: a counting sort by one byte, which keeps them ascending. Small
  // parts are compared at once; the others are sets of the next level.
  void split(std::span<const uint32_t> set, uint64_t path, uint32_t lane) {
    std::array<uint32_t, values> next{};
    const uint8_t* const column = corpus_.column(lane);
    // payers_[i], bytes_[i]: the documents that can pay for a split, and their bytes in this lane. parts_: payers_
    // sorted.
    if (payers_.size() < set.size()) {
      for (auto* const buffer : {&payers_, &parts_}) buffer->resize(set.size());
      bytes_.resize(set.size());
    }
    constexpr size_t ahead = 16;
    // Count the documents of each byte. The budget and the column are read at ascending but distant places.
    size_t payers = 0;
    for (size_t i = 0; i < set.size(); ++i) {
      if (i + ahead < set.size()) {
        __builtin_prefetch(&spent_[set[i + ahead]], 1);
        __builtin_prefetch(column + set[i + ahead]);
      }
      if (!take(set[i], 1)) continue;
      const uint8_t value = column[set[i]];
      payers_[payers] = set[i];
      bytes_[payers++] = value;
      ++next[value];
    }
    counts.splits += payers;
    // next[value]: from counts to first places; after the scatter it is where the part ends.
    uint32_t start = 0;
    for (uint32_t& entry : next) start += std::exchange(entry, start);
    for (size_t i = 0; i < payers; ++i) parts_[next[bytes_[i]]++] = payers_[i];
    // A part's path names the lane and the value, so that its random choices differ from those of all other parts.
    uint32_t first = 0;
    for (size_t value = 0; value < values; ++value) {
      const std::span<const uint32_t> part(parts_.data() + first, next[value] - first);
      first = next[value];
      if (part.size() <= options_.limit) {
        compare_pairs(part);
        continue;
      }
      next_items_.insert(next_items_.end(), part.begin(), part.end());
      next_nodes_.push_back({next_items_.size(), mix64(path ^ mix64(lane * values + value + 1))});
    }
  }

  // Scratch memory of this tree; the sets of two levels and the budgets are the largest part.
  const Corpus& corpus_;
  const CpsJoinOptions options_;
  const Similar similar_;
  Found& found_;
  AlignedBytes rows_;  // of the set that is being compared
  std::vector<Match> matches_;
  uint32_t repetition_ = 0, allowance_ = 0;
  std::vector<uint32_t> spent_;               // of the allowance, by document
  std::vector<uint32_t> items_, next_items_;  // the sets of this level, and of the next
  size_t room_ = 0;                           // in next_items_ for the parts of the present set
  std::vector<Node> nodes_, next_nodes_;
  std::vector<uint32_t> cluster_, payers_, parts_;
  std::vector<Match> earlier_;
  std::vector<uint8_t> bytes_;
};

}  // namespace

CpsJoinResult cpsjoin(const Sketches& sketches, const uint32_t* positions, const uint32_t* rank, size_t count,
                      const CpsJoinOptions& options, simd::Level level, unsigned threads) {
  // Run the trees. A task is one repetition; a thread keeps the scratch memory of its tree. More threads than
  // repetitions would have nothing to do.
  const Corpus corpus(sketches, positions, rank, count, options.lanes);
  Found found(count, options);
  threads = std::min(threads, options.repetitions);
  std::vector<std::unique_ptr<Tree>> trees(threads);
  share_tasks(threads, options.repetitions, [&](size_t worker, size_t repetition) {
    if (!trees[worker]) trees[worker] = std::make_unique<Tree>(corpus, options, level, found);
    trees[worker]->run(static_cast<uint32_t>(repetition));
  });
  // Add up the counts, and release the trees' memory before the edges take theirs.
  CpsJoinResult result;
  for (auto& tree : trees) {
    if (!tree) continue;
    result.counts.compared += tree->counts.compared;
    result.counts.splits += tree->counts.splits;
    result.counts.clusters += tree->counts.clusters;
    result.counts.depth = std::max(result.counts.depth, tree->counts.depth);
    tree.reset();
  }
  // Write the edges. Documents are numbered by rank, so sorting each one's neighbours sorts all edges.
  std::vector<uint32_t> earlier;
  for (size_t i = 0; i < count; ++i) {
    const auto document = static_cast<uint32_t>(i);
    result.counts.exhausted += found.exhausted(document);
    earlier.clear();
    found.of(document).each([&](uint32_t other, uint32_t) { earlier.push_back(other); });
    std::sort(earlier.begin(), earlier.end());
    for (const uint32_t other : earlier) {
      result.edges.push_back(uint64_t{corpus.ranks[i]} << 32 | corpus.ranks[other]);
    }
  }
  return result;
}

}  // namespace codeshell::dedup
