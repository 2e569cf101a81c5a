// The few earlier documents that are worth verifying, out of the many that a document resembles by its sketch.
//
// Half of the places keep the earliest documents that surely resemble it: the document will be dropped for one that is
// *kept*, and among many that resemble each other the kept one is the earliest. The other half keeps the best
// estimates.
//
//   offer --- sure? ---> [ earliest half, ascending in rank ] --- evicted ---+
//     |                                                                      v
//     +------ not sure ------------------------------> [ best half, most equal bytes first ] ---> lost
//
// What the first half evicts is offered to the second, so the order of the offers does not matter, and repeated offers
// change nothing: each half ends with the best, in a total order, of everything that was offered to it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace codeshell::dedup {

class Neighbours {
 public:
  // `slots` are `capacity` places that belong to the caller, all 0 at first. The first half is [0, half_).
  Neighbours(uint64_t* slots, size_t capacity) : slots_(slots), half_(capacity / 2), capacity_(capacity) {}

  // Offers a document with `equal` equal bytes. `earlier` is its number, below 2^32 - 1, ascending in rank.
  void offer(uint32_t earlier, uint32_t equal, bool sure) {
    // An entry is equal << 32 | ~earlier. So a larger entry has more equal bytes and, among equals, an earlier
    // document; and a free place, 0, is smaller than any entry.
    uint64_t entry = uint64_t{equal} << 32 | static_cast<uint32_t>(~earlier);
    if (sure && half_ && !insert_earliest(entry)) return;
    // Insert into the second half, which descends; its last entry falls out.
    uint64_t* const end = slots_ + capacity_;
    uint64_t* const at = std::lower_bound(slots_ + half_, end, entry, std::greater<>());
    if (at == end || *at == entry) return;
    std::copy_backward(at, end - 1, end);
    *at = entry;
  }

  // An offer that is not sure and has fewer equal bytes than this changes nothing.
  uint32_t floor() const { return static_cast<uint32_t>(slots_[capacity_ - 1] >> 32); }

  // Calls take(earlier, equal) for every document that is kept, in no particular order.
  template <class Take>
  void each(const Take& take) const {
    for (size_t i = 0; i < capacity_; ++i) {
      if (slots_[i]) take(~static_cast<uint32_t>(slots_[i]), static_cast<uint32_t>(slots_[i] >> 32));
    }
  }

 private:
  // Inserts into the first half. Leaves in `entry` what the second half is to be offered; false if there is nothing.
  bool insert_earliest(uint64_t& entry) {
    const auto key = [](uint64_t e) { return static_cast<uint32_t>(e); };  // higher is earlier; 0 is a free place
    uint64_t* const end = slots_ + half_;
    uint64_t* const at = std::lower_bound(slots_, end, entry, [&](uint64_t a, uint64_t b) { return key(a) > key(b); });
    // All of the half are earlier: the offer goes to the second half. The same document again: nothing to do.
    if (at == end) return true;
    if (key(*at) == key(entry)) return false;
    const uint64_t last = end[-1];
    std::copy_backward(at, end - 1, end);
    *at = entry;
    entry = last;
    return last != 0;
  }

  uint64_t* const slots_;
  const size_t half_, capacity_;
};

}  // namespace codeshell::dedup
