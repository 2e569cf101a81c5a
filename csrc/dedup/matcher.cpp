#include "dedup/matcher.h"

#include <algorithm>

namespace codeshell::dedup {

namespace {

constexpr uint32_t no_entry = ~0u;

}  // namespace

Matcher::Matcher(uint32_t ngram, size_t bands, double threshold, uint32_t max_bucket, simd::Level level)
    : ngram_(ngram), bands_(bands), threshold_(threshold), max_bucket_(max_bucket), level_(level), slots_(1024) {}

Match Matcher::add(std::string_view text, const uint64_t* keys) {
  make_shingle_set(text, ngram_, level_, scratch_);
  const std::vector<uint64_t>& set = scratch_.shingles;
  if (set.empty()) return match_blank(text);

  collect(keys);
  Match best;
  for (const uint32_t candidate : candidates_) {
    const std::vector<uint64_t>& other = kept_[candidate].set;
    const size_t both = set.size() + other.size();
    // Jaccard >= t means shared >= t / (1 + t) * both; one less leaves room for the rounding of that product.
    const auto bound = static_cast<size_t>(threshold_ / (1.0 + threshold_) * static_cast<double>(both));
    const size_t shared = intersection(set.data(), set.size(), other.data(), other.size(), bound > 0 ? bound - 1 : 0);
    const double jaccard = static_cast<double>(shared) / static_cast<double>(both - shared);
    ++candidate_pairs;
    if (jaccard < threshold_) continue;
    ++verified_pairs;
    if (jaccard > best.jaccard) best = {kept_[candidate].index, jaccard};
  }
  if (best.index < 0) keep(keys);
  ++next_;
  return best;
}

Match Matcher::match_blank(std::string_view text) {
  const auto [found, is_new] = blank_.try_emplace(std::string(text), next_);
  ++next_;
  return is_new ? Match{} : Match{found->second, 1.0};
}

// The kept documents that share a key, each once, ascending.
void Matcher::collect(const uint64_t* keys) {
  candidates_.clear();
  for (size_t b = 0; b < bands_; ++b) {
    const Slot& bucket = slot(keys[b]);
    if (!bucket.key) continue;
    for (uint32_t e = bucket.head; e != no_entry; e = entries_[e].next) {
      const uint32_t kept = entries_[e].kept;
      if (seen_[kept] == next_) continue;
      seen_[kept] = next_;
      candidates_.push_back(kept);
    }
  }
  std::sort(candidates_.begin(), candidates_.end());
}

void Matcher::keep(const uint64_t* keys) {
  const auto self = static_cast<uint32_t>(kept_.size());
  kept_.push_back({next_, scratch_.shingles});
  seen_.push_back(-1);
  for (size_t b = 0; b < bands_; ++b) {
    Slot* bucket = &slot(keys[b]);
    if (!bucket->key) {
      if (2 * (used_ + 1) > slots_.size()) {
        grow();
        bucket = &slot(keys[b]);
      }
      *bucket = {keys[b], no_entry, 0};
      ++used_;
    }
    if (bucket->count == max_bucket_) continue;
    entries_.push_back({self, bucket->head});
    bucket->head = static_cast<uint32_t>(entries_.size() - 1);
    capped_keys += ++bucket->count == max_bucket_;
  }
}

// The slot of a key, or the free one where it would go. Keys are hashes: their low bits place them.
Matcher::Slot& Matcher::slot(uint64_t key) {
  const size_t mask = slots_.size() - 1;
  size_t at = key & mask;
  while (slots_[at].key && slots_[at].key != key) at = (at + 1) & mask;
  return slots_[at];
}

void Matcher::grow() {
  std::vector<Slot> old(2 * slots_.size());
  old.swap(slots_);
  for (const Slot& bucket : old) {
    if (bucket.key) slot(bucket.key) = bucket;
  }
}

}  // namespace codeshell::dedup
