// Two hash tables and a list: known_ by fingerprint, buckets_ by band key, and kept_ with the sets and sketches of kept
// documents. Nothing is ever removed, so documents are addressed by number, and growing a table moves none of them.
#include "dedup/matcher.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "dedup/shingles.h"
#include "dedup/sketch.h"
#include "dedup/verify.h"

namespace codeshell::dedup {

Matcher::Matcher(const Settings& settings, simd::Level level)
    : settings_(settings), level_(level), known_slots_(1024, none), buckets_(1024) {}

bool Matcher::add(const Batch& batch, unsigned threads, const Stop& stop, int64_t* kept, double* jaccard) {
  // First the shingle sets, by all threads. A document whose fingerprint is known needs none. Only for a new
  // fingerprint that comes twice in this batch is one set too many made.
  std::vector<std::vector<uint64_t>> sets(batch.texts.count);
  const auto candidate = [&](size_t i) { return !batch.candidate || batch.candidate[i]; };
  const auto make = [&] {
    return [&, scratch = Scratch{}](size_t begin, size_t end) mutable {
      for (size_t i = begin; i < end; ++i) {
        if (!candidate(i) || find_known(batch.fingerprints + 2 * i)) continue;
        make_shingle_set(batch.texts[i], settings_.shingling, level_, scratch);
        sets[i].assign(scratch.shingles.begin(), scratch.shingles.end());
      }
    };
  };
  constexpr size_t grain = 16;
  if (!share(batch.texts.count, grain, threads, stop, make)) return false;
  // Then decide, one by one in order: each decision depends on those before it. Sets are released as soon as possible.
  for (size_t i = 0; i < batch.texts.count; ++i) {
    kept[i] = -1;
    jaccard[i] = 0.0;
    if (candidate(i)) decide(batch, i, sets[i], kept + i, jaccard + i);
    ++next_;
    std::vector<uint64_t>().swap(sets[i]);
    if (stop && stop()) return i + 1 == batch.texts.count;
  }
  return true;
}

// 1. known fingerprint; 2. candidates; 3. exact Jaccard with each; 4. keep or drop, and remember the fingerprint.
void Matcher::decide(const Batch& batch, size_t i, std::vector<uint64_t>& set, int64_t* kept, double* jaccard) {
  const uint64_t* const fingerprint = batch.fingerprints + 2 * i;
  if (const Known* known = find_known(fingerprint)) {
    *kept = known->index;
    *jaccard = known->jaccard;
    return;
  }
  collect(batch.keys + i * settings_.bands, batch.sketches + i * settings_.width);
  Known best{{fingerprint[0], fingerprint[1]}, next_, 0.0};
  // Candidates ascend, and only a higher Jaccard replaces the best: the earliest of equals is named.
  for (const uint32_t candidate : candidates_) {
    const std::vector<uint64_t>& other = kept_[candidate].set;
    ++candidate_pairs;
    // The sizes alone may rule the pair out; otherwise they tell how many shared values are needed.
    const size_t needed = needed_shared(set.size(), other.size(), settings_.threshold);
    if (needed > std::min(set.size(), other.size())) continue;
    // Merge the two sets; the merge gives up when `needed` is out of reach.
    const size_t shared = intersection(set.data(), set.size(), other.data(), other.size(), needed, level_);
    if (shared < needed) continue;
    ++verified_pairs;
    const double value = dedup::jaccard(shared, set.size(), other.size());
    if (value > best.jaccard) {
      best.index = kept_[candidate].index;
      best.jaccard = value;
    }
  }
  // Nothing was found: the document stays, and its copies will be dropped for it at Jaccard 1.
  if (best.index == next_) {
    keep(batch, i, set);
    best.jaccard = 1.0;
  } else {
    *kept = best.index;
    *jaccard = best.jaccard;
  }
  add_known(best);
}

// A hash table with linear probing. Fingerprints are hashes, so their low bits are used as the place directly.
const Matcher::Known* Matcher::find_known(const uint64_t* fingerprint) const {
  const size_t mask = known_slots_.size() - 1;
  for (size_t at = fingerprint[0] & mask; known_slots_[at] != none; at = (at + 1) & mask) {
    const Known& known = known_[known_slots_[at]];
    if (known.fingerprint[0] == fingerprint[0] && known.fingerprint[1] == fingerprint[1]) return &known;
  }
  return nullptr;
}

void Matcher::add_known(const Known& known) {
  if (known_.size() == none) throw std::length_error("too many documents");
  known_.push_back(known);
  // The table is at most half full; when it would be fuller, it doubles and everything is placed again.
  const auto place = [&](uint32_t index) {
    const size_t mask = known_slots_.size() - 1;
    size_t at = known_[index].fingerprint[0] & mask;
    while (known_slots_[at] != none) at = (at + 1) & mask;
    known_slots_[at] = index;
  };
  if (2 * known_.size() <= known_slots_.size()) return place(static_cast<uint32_t>(known_.size() - 1));
  known_slots_.assign(2 * known_slots_.size(), none);
  for (size_t i = 0; i < known_.size(); ++i) place(static_cast<uint32_t>(i));
}

// Collects the kept documents that share a key and whose sketch agrees, each once, ascending. seen_ marks those that
// this document has met under another key: its number never repeats, so nothing has to be cleared.
void Matcher::collect(const uint64_t* keys, const uint8_t* sketch) {
  // One sketch against one: the match itself is not needed, only whether there is one.
  const Similar agrees = similar(level_);
  Match unused;
  candidates_.clear();
  for (size_t b = 0; b < settings_.bands; ++b) {
    if (!keys[b]) continue;
    for (uint32_t e = bucket(keys[b]).head; e != none; e = following_[e]) {
      const auto kept = static_cast<uint32_t>(e / settings_.bands);
      if (seen_[kept] == next_) continue;
      seen_[kept] = next_;
      const uint8_t* const other = sketches_.data() + kept * settings_.width;
      if (!agrees(sketch, other, 1, settings_.width, settings_.lanes, settings_.least, &unused)) continue;
      candidates_.push_back(kept);
    }
  }
  std::sort(candidates_.begin(), candidates_.end());
}

// Registers a kept document under its keys. A document without shingles has no keys: nothing but an equal fingerprint
// can find it.
void Matcher::keep(const Batch& batch, size_t i, std::vector<uint64_t>& set) {
  const uint64_t* const keys = batch.keys + i * settings_.bands;
  if (std::all_of(keys, keys + settings_.bands, [](uint64_t key) { return key == 0; })) return;
  if (following_.size() + settings_.bands >= none) throw std::length_error("too many documents");
  // Entries of this document are first .. first + bands - 1, one per band.
  const auto first = static_cast<uint32_t>(following_.size());
  kept_.push_back({next_, std::move(set)});
  seen_.push_back(-1);
  const uint8_t* const sketch = batch.sketches + i * settings_.width;
  sketches_.insert(sketches_.end(), sketch, sketch + settings_.width);
  following_.resize(first + settings_.bands, none);
  for (size_t b = 0; b < settings_.bands; ++b) {
    if (!keys[b]) continue;
    // Find or take the key's bucket. The table is at most three quarters full; growing it moves all buckets.
    Bucket* one = &bucket(keys[b]);
    if (!one->key) {
      if (4 * (used_ + 1) > 3 * buckets_.size()) {
        grow_buckets();
        one = &bucket(keys[b]);
      }
      one->key = keys[b];
      ++used_;
    }
    // Put the entry in front of the key's list, unless the list is full.
    if (one->count == settings_.max_bucket) continue;
    const auto entry = static_cast<uint32_t>(first + b);
    following_[entry] = one->head;
    one->head = entry;
    capped_keys += ++one->count == settings_.max_bucket;
  }
}

// The bucket of a key, or the free one where it would go. Keys are hashes, so their low bits are used as the place.
Matcher::Bucket& Matcher::bucket(uint64_t key) {
  const size_t mask = buckets_.size() - 1;
  size_t at = key & mask;
  while (buckets_[at].key && buckets_[at].key != key) at = (at + 1) & mask;
  return buckets_[at];
}

void Matcher::grow_buckets() {
  std::vector<Bucket> old(2 * buckets_.size());
  old.swap(buckets_);
  for (const Bucket& one : old) {
    if (one.key) bucket(one.key) = one;
  }
}

}  // namespace codeshell::dedup
