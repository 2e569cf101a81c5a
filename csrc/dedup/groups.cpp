// From band keys to edges. The file has three parts: the Grouper (a thread's scratch memory, from a partition of the
// records down to the pairs of a group), the parallel partition of all records, and the sort that makes edges distinct.
//
// What the variables hold:
//   records    (key, document) of 12 bytes; a span of them is always reordered in place or copied, never resized
//   members    of one group: rank << 32 | document, so that they sort by rank
//   edges      later rank << 32 | earlier rank
//   rows_      sketches of `width_` bytes each, copied side by side for one call of similar()
#include "dedup/groups.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

#include "dedup/neighbours.h"
#include "dedup/tasks.h"

namespace codeshell::dedup {

namespace {

constexpr size_t fan = 256;                          // streams of one partition pass
constexpr size_t small_bucket = 4096;                // records that need no second pass: 48 KB, and 64 KB of counters
constexpr size_t skewed_bucket = 16 * small_bucket;  // only a key of very many records makes a bucket so large
constexpr size_t batch_members = 512;                // documents asked for before the sketch of the first is read
constexpr size_t leader_block = 256;                 // sketches read at once in a large group
constexpr size_t first_compact = size_t{1} << 20;    // edges of a thread before it looks for repeated ones

// 12 bytes, not 16: the partition passes are bound by memory.
struct Record {
  uint32_t low, high, document;
  uint64_t key() const { return uint64_t{high} << 32 | low; }
};

// An edge from two members; the later one first.
uint64_t make_edge(uint64_t later, uint64_t earlier) { return later >> 32 << 32 | earlier >> 32; }

// One thread's share of the groups: their edges, and scratch memory.
class Grouper {
 public:
  Grouper(const uint32_t* rank, const Sketches* sketches, const GroupOptions& options, simd::Level level)
      : rank_(rank),
        sketches_(sketches),
        options_(options),
        similar_(similar(level)),
        width_(sketches ? sketches->width() : 0) {
    if (!sketches) return;
    rows_ = aligned_bytes(width_ * std::max<size_t>(options.largest, leader_block));
    leader_rows_ = aligned_bytes(width_ * options.leaders);
    matches_.resize(std::max(options.largest, options.leaders));
    slots_.resize(options.leader_edges);
  }

  // ---- from a partition to groups ----
  // Takes all records of some keys; the 8 lowest bits of these keys are equal.
  void add_partition(std::span<Record> records) {
    if (records.size() <= small_bucket) {
      // So few records are counted within the cache at once.
      add_bucket(records, 8);
    } else {
      // The second pass: count, prefix sums, scatter by bits 8-15. Equal keys have equal bits, so no group is divided.
      const auto stream = [](const Record& record) { return record.low >> 8 & (fan - 1); };
      std::array<size_t, fan + 1> start{};
      for (const Record& record : records) ++start[stream(record) + 1];
      for (size_t b = 0; b < fan; ++b) start[b + 1] += start[b];
      if (partition_.size() < records.size()) partition_.resize(records.size());
      auto next = start;
      for (const Record& record : records) partition_[next[stream(record)]++] = record;
      for (size_t b = 0; b < fan; ++b) add_bucket({&partition_[start[b]], &partition_[0] + start[b + 1]}, 16);
    }
    flush();
  }

  // The results of this thread, in any order. `heavy` holds positions, not ranks.
  std::vector<uint64_t> edges;
  std::vector<uint32_t> heavy;
  GroupCounts counts;

 private:
  // Takes all records of some keys whose `known` lowest bits are equal. Counts them by their next bits; only records
  // that share their cell are looked at again.
  void add_bucket(std::span<Record> records, unsigned known) {
    if (records.size() < 2) return;
    if (records.size() > skewed_bucket) return add_cell(records);  // in place: no more memory
    // Twice as many cells as records, so that most records are alone in theirs.
    const size_t cells = std::bit_ceil(2 * std::min(records.size(), small_bucket));
    const auto cell = [&](const Record& record) { return record.key() >> known & (cells - 1); };
    cells_.assign(cells, 0);
    for (const Record& record : records) ++cells_[cell(record)];
    // Copy the records that share their cell, then sort these by cell (counting sort). The copy needs one place more,
    // because it always writes and then decides whether to step on.
    if (together_.size() < records.size() + 1) {
      together_.resize(records.size() + 1);
      sorted_.resize(records.size() + 1);
    }
    size_t total = 0;
    for (const Record& record : records) {
      together_[total] = record;
      total += cells_[cell(record)] > 1;  // not a branch: it would be mispredicted
    }
    // From counts to the first place of each cell; cells of one record take no place.
    uint32_t start = 0;
    for (uint32_t& entry : cells_) {
      const uint32_t in_cell = entry > 1 ? entry : 0;
      entry = start;
      start += in_cell;
    }
    for (size_t i = 0; i < total; ++i) sorted_[cells_[cell(together_[i])]++] = together_[i];
    uint32_t first = 0;  // the scatter has moved cells_[c] to where cell c ends
    for (const uint32_t end : cells_) {
      if (end - first >= 2) add_cell({&sorted_[first], &sorted_[0] + end});
      first = end;
    }
  }

  // Takes all records of a few keys. Mostly it is one key; otherwise a sort brings equal keys side by side.
  void add_cell(std::span<Record> records) {
    const uint64_t key = records[0].key();
    if (!std::all_of(records.begin() + 1, records.end(), [&](const Record& r) { return r.key() == key; })) {
      std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.key() < b.key(); });
    }
    for (size_t first = 0; first < records.size();) {
      size_t end = first + 1;
      while (end < records.size() && records[end].key() == records[first].key()) ++end;
      if (end - first >= 2) add_group(records.subspan(first, end - first));
      first = end;
    }
  }

  // Queues a group. Sketches are anywhere in memory: they are asked for here and read some hundred documents later,
  // when the batch is flushed.
  void add_group(std::span<const Record> records) {
    for (const Record& record : records) {
      if (sketches_) sketches_->prefetch(record.document);
      members_.push_back(uint64_t{rank_ ? rank_[record.document] : record.document} << 32 | record.document);
    }
    ends_.push_back(members_.size());
    if (members_.size() >= batch_members) flush();
  }

  // Joins the queued groups. Then it removes repeated edges, but only once they have doubled: so edges cost a constant
  // number of sorts per edge, and memory stays within twice that of the distinct ones.
  void flush() {
    size_t first = 0;
    for (const size_t end : ends_) {
      join({&members_[first], &members_[0] + end});
      first = end;
    }
    members_.clear();
    ends_.clear();
    if (edges.size() > compact_at_) {
      sort_unique(edges);
      compact_at_ = std::max(first_compact, 2 * edges.size());
    }
    if (heavy.size() > heavy_at_) {
      std::sort(heavy.begin(), heavy.end());
      heavy.erase(std::unique(heavy.begin(), heavy.end()), heavy.end());
      heavy_at_ = std::max(first_compact, 2 * heavy.size());
    }
  }

  // ---- from a group to edges ----
  //
  // The pairs of one group, by one of three ways.
  void join(std::span<uint64_t> members) {
    std::sort(members.begin(), members.end());
    // Two bands of one document can have the same key.
    members = members.first(static_cast<size_t>(std::unique(members.begin(), members.end()) - members.begin()));
    if (members.size() < 2) return;
    ++counts.groups;
    counts.largest_group = std::max<uint64_t>(counts.largest_group, members.size());
    const bool large = members.size() > options_.largest;
    counts.large_groups += large;
    if (!sketches_) {
      join_unseen(members, large ? options_.leaders : members.size());
    } else if (large) {
      join_large(members);
    } else {
      join_pairs(members);
    }
  }

  // Without sketches: every document with each of the `first` earliest before it.
  void join_unseen(std::span<const uint64_t> members, size_t first) {
    for (size_t i = 1; i < members.size(); ++i) {
      for (size_t j = 0; j < std::min(i, first); ++j) edges.push_back(make_edge(members[i], members[j]));
    }
  }

  // A small group: all pairs. The sketches lie side by side, and document i is compared with the i before it in one
  // call.
  void join_pairs(std::span<const uint64_t> members) {
    uint8_t* const rows = rows_.get();
    for (size_t i = 0; i < members.size(); ++i) sketches_->read(static_cast<uint32_t>(members[i]), rows + i * width_);
    for (size_t i = 1; i < members.size(); ++i) {
      const size_t found =
          similar_(rows + i * width_, rows, i, width_, options_.lanes, options_.least, matches_.data());
      for (size_t m = 0; m < found; ++m) edges.push_back(make_edge(members[i], members[matches_[m].index]));
    }
    counts.pairs_compared += members.size() * (members.size() - 1) / 2;
  }

  // A large group, in rank order, a block of sketches at a time.
  void join_large(std::span<const uint64_t> members) {
    leaders_.clear();
    for (size_t first = 0; first < members.size(); first += leader_block) {
      const auto some = members.subspan(first, std::min(leader_block, members.size() - first));
      for (const uint64_t m : some) sketches_->prefetch(static_cast<uint32_t>(m));
      for (size_t i = 0; i < some.size(); ++i) {
        sketches_->read(static_cast<uint32_t>(some[i]), rows_.get() + i * width_);
      }
      for (size_t i = 0; i < some.size(); ++i) follow(some[i], rows_.get() + i * width_);
    }
  }

  // Compares one document of a large group with the leaders before it.
  void follow(uint64_t self, const uint8_t* row) {
    const size_t found =
        similar_(row, leader_rows_.get(), leaders_.size(), width_, options_.lanes, options_.least, matches_.data());
    counts.pairs_compared += leaders_.size();
    // Of all leaders that agree enough, only `leader_edges` become edges. Leaders are numbered in rank order, as
    // Neighbours asks.
    std::fill(slots_.begin(), slots_.end(), 0);
    Neighbours best(slots_.data(), slots_.size());
    bool absorbed = false;
    for (size_t m = 0; m < found; ++m) {
      const bool sure = matches_[m].equal >= options_.sure;
      absorbed |= sure;
      best.offer(matches_[m].index, matches_[m].equal, sure);
    }
    best.each([&](uint32_t leader, uint32_t) { edges.push_back(make_edge(self, leaders_[leader])); });
    // If no leader surely resembles it, the join (cpsjoin.h) will look at it, and it becomes a leader. Invariant: no
    // leader was absorbed by an earlier one, so leaders stand for the different templates of the group.
    if (absorbed) return;
    heavy.push_back(static_cast<uint32_t>(self));
    if (leaders_.size() == options_.leaders) return;
    std::memcpy(leader_rows_.get() + leaders_.size() * width_, row, width_);
    leaders_.push_back(self);
  }

  // Scratch memory. Everything grows to the largest group or bucket seen and is used again.
  const uint32_t* const rank_;
  const Sketches* const sketches_;
  const GroupOptions options_;
  const Similar similar_;
  const size_t width_;
  AlignedBytes rows_, leader_rows_;
  std::vector<Match> matches_;
  std::vector<uint64_t> slots_;
  std::vector<uint64_t> leaders_;
  std::vector<Record> partition_, together_, sorted_;
  std::vector<uint32_t> cells_;
  std::vector<uint64_t> members_;  // of the groups of this batch, and where each of these ends
  std::vector<size_t> ends_;
  size_t compact_at_ = first_compact, heavy_at_ = first_compact;
};

// ---- the first pass, over all records ----
struct Partitions {
  std::unique_ptr<Record[]> records;
  std::array<size_t, fan + 1> start{};
};

// The records that take part, ordered by the lowest 8 bits of their keys. Each thread counts its chunk of the input;
// from all counts follow the places where each thread writes each partition; then each thread writes its chunk. The
// threads never meet, and the order within a partition is that of the input.
Partitions partition(const uint64_t* keys, const uint32_t* documents, size_t count, const Chosen& chosen,
                     unsigned threads) {
  // next[t][b]: first the number of records of chunk t in partition b, then where the next of them is written.
  std::vector<std::array<size_t, fan>> next(threads);
  // Count, per chunk and partition.
  const auto chunk = [&](size_t t) { return count * t / threads; };
  share_tasks(threads, threads, [&](size_t, size_t t) {
    std::array<size_t, fan> found{};
    for (size_t i = chunk(t); i < chunk(t + 1); ++i) {
      if (documents[i] >= chosen.count) throw std::invalid_argument("documents: beyond the representatives");
      if (keys[i] && chosen[documents[i]]) ++found[keys[i] & (fan - 1)];
    }
    next[t] = found;
  });
  // Prefix sums: partition by partition, and within one chunk by chunk.
  Partitions result;
  size_t total = 0;
  for (size_t b = 0; b < fan; ++b) {
    result.start[b] = total;
    for (auto& of_chunk : next) {
      const size_t found = of_chunk[b];
      of_chunk[b] = total;
      total += found;
    }
  }
  // Write.
  result.start[fan] = total;
  result.records = std::make_unique_for_overwrite<Record[]>(total);
  share_tasks(threads, threads, [&](size_t, size_t t) {
    std::array<size_t, fan> at = next[t];
    for (size_t i = chunk(t); i < chunk(t + 1); ++i) {
      const uint64_t key = keys[i];
      if (!key || !chosen[documents[i]]) continue;
      result.records[at[key & (fan - 1)]++] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32),
                                               documents[i]};
    }
  });
  return result;
}

}  // namespace

GroupResult group_edges(const uint64_t* keys, const uint32_t* documents, size_t count, const Chosen& chosen,
                        const uint32_t* rank, const Sketches* sketches, const GroupOptions& options, simd::Level level,
                        unsigned threads) {
  // A task is one partition: all records of its keys. Groupers keep their scratch memory from task to task.
  std::vector<std::unique_ptr<Grouper>> groupers;
  for (unsigned t = 0; t < threads; ++t) {
    groupers.push_back(std::make_unique<Grouper>(rank, sketches, options, level));
  }
  {
    const Partitions parts = partition(keys, documents, count, chosen, threads);
    share_tasks(threads, fan, [&](size_t worker, size_t p) {
      groupers[worker]->add_partition({&parts.records[0] + parts.start[p], &parts.records[0] + parts.start[p + 1]});
    });
  }
  // Put the threads' results together, releasing each one's memory at once. Which thread found an edge depends on
  // chance; the final sort removes that.
  GroupResult result;
  for (auto& grouper : groupers) {
    const GroupCounts& counts = grouper->counts;
    result.counts.groups += counts.groups;
    result.counts.largest_group = std::max(result.counts.largest_group, counts.largest_group);
    result.counts.large_groups += counts.large_groups;
    result.counts.pairs_compared += counts.pairs_compared;
    if (result.edges.empty()) {
      result.edges = std::move(grouper->edges);
    } else {
      result.edges.insert(result.edges.end(), grouper->edges.begin(), grouper->edges.end());
    }
    result.heavy.insert(result.heavy.end(), grouper->heavy.begin(), grouper->heavy.end());
    grouper.reset();
  }
  sort_unique(result.edges);
  std::sort(result.heavy.begin(), result.heavy.end());
  result.heavy.erase(std::unique(result.heavy.begin(), result.heavy.end()), result.heavy.end());
  return result;
}

void sort_unique(std::vector<uint64_t>& values) {
  // A radix sort from the lowest digit, 11 bits per pass. Only digits in which the values differ take a pass.
  constexpr size_t few = 1024;
  constexpr unsigned bits = 11;  // 2048 counters fill a third of the first-level cache
  if (values.size() <= few) {
    std::sort(values.begin(), values.end());
  } else {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const uint64_t varying = *low ^ *high;  // above its highest bit all are equal
    std::unique_ptr<uint64_t[]> other = std::make_unique_for_overwrite<uint64_t[]>(values.size());
    uint64_t *from = values.data(), *to = other.get();
    for (unsigned shift = 0; shift < static_cast<unsigned>(std::bit_width(varying)); shift += bits) {
      std::array<size_t, 1 << bits> next{};
      constexpr uint64_t mask = (1 << bits) - 1;
      for (size_t i = 0; i < values.size(); ++i) ++next[from[i] >> shift & mask];
      if (next[from[0] >> shift & mask] == values.size()) continue;  // all equal, as the upper bits of small ranks are
      size_t start = 0;
      for (size_t& entry : next) start += std::exchange(entry, start);
      for (size_t i = 0; i < values.size(); ++i) to[next[from[i] >> shift & mask]++] = from[i];
      std::swap(from, to);
    }
    if (from != values.data()) std::copy_n(from, values.size(), values.data());
  }
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace codeshell::dedup
