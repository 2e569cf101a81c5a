#include "dedup/overlap.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>
#include <utility>

#include "simd/threads.h"

namespace codeshell::dedup {

Overlap::Overlap(const Texts& texts, uint32_t ngram, simd::Level level)
    : ngram_(ngram), level_(level), sizes_(texts.count), jaccard_(texts.count, 0.0), match_(texts.count, -1) {
  // Invert the sets: all (shingle, document) sorted, so that the documents of one shingle are consecutive.
  Scratch scratch;
  std::vector<std::pair<uint64_t, uint32_t>> pairs;
  for (size_t d = 0; d < texts.count; ++d) {
    make_shingle_set(texts[d], ngram, level, scratch);
    sizes_[d] = static_cast<uint32_t>(scratch.shingles.size());
    for (const uint64_t shingle : scratch.shingles) pairs.emplace_back(shingle, static_cast<uint32_t>(d));
  }
  std::sort(pairs.begin(), pairs.end());
  // Build the hash table from a shingle to its documents, at most half full. Shingles are hashes: their low bits are
  // the place, and the next free slot is taken.
  slots_.resize(std::bit_ceil(2 * pairs.size() + 2));
  documents_.reserve(pairs.size());
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < pairs.size();) {
    size_t at = pairs[i].first & mask;
    while (slots_[at].count) at = (at + 1) & mask;
    Slot& slot = slots_[at];
    slot = {pairs[i].first, static_cast<uint32_t>(i), 0};
    for (; i < pairs.size() && pairs[i].first == slot.shingle; ++i, ++slot.count) documents_.push_back(pairs[i].second);
  }
}

// The slot of a shingle, or a free one (count 0) if no document of the small set has it.
const Overlap::Slot& Overlap::find(uint64_t shingle) const {
  const size_t mask = slots_.size() - 1;
  size_t at = shingle & mask;
  while (slots_[at].count && slots_[at].shingle != shingle) at = (at + 1) & mask;
  return slots_[at];
}

void Overlap::compare(const Texts& texts, unsigned threads) {
  std::atomic<size_t> next{0};
  std::mutex merging;
  const auto work = [&] {
    Scratch scratch;
    // Per thread and document d of the small set: shingles shared with the present text, and the best so far. `touched`
    // lists the d whose count is not 0, so that only these are visited and cleared.
    std::vector<uint32_t> shared(sizes_.size(), 0), touched;
    std::vector<double> jaccard(sizes_.size(), 0.0);
    std::vector<int64_t> match(sizes_.size(), -1);
    for (size_t t; (t = next.fetch_add(1)) < texts.count;) {
      make_shingle_set(texts[t], ngram_, level_, scratch);
      for (const uint64_t shingle : scratch.shingles) {
        const Slot& slot = find(shingle);
        for (uint32_t i = 0; i < slot.count; ++i) {
          const uint32_t d = documents_[slot.first + i];
          if (shared[d]++ == 0) touched.push_back(d);
        }
      }
      // J = shared / (|A| + |B| - shared).
      for (const uint32_t d : touched) {
        const double value =
            static_cast<double>(shared[d]) / static_cast<double>(sizes_[d] + scratch.shingles.size() - shared[d]);
        if (value > jaccard[d]) {
          jaccard[d] = value;
          match[d] = next_ + static_cast<int64_t>(t);
        }
        shared[d] = 0;
      }
      touched.clear();
    }
    // A thread sees ascending documents, so its match is its earliest; between threads the earlier of equal ones wins.
    const std::lock_guard lock(merging);
    for (size_t d = 0; d < sizes_.size(); ++d) {
      if (jaccard[d] > jaccard_[d] || (match[d] >= 0 && jaccard[d] == jaccard_[d] && match[d] < match_[d])) {
        jaccard_[d] = jaccard[d];
        match_[d] = match[d];
      }
    }
  };
  {
    const auto others = simd::start_threads(std::max(threads, 1U) - 1, work);
    work();
  }
  next_ += static_cast<int64_t>(texts.count);
}

}  // namespace codeshell::dedup
