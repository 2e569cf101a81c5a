// The few earlier documents worth verifying, of the many that a document resembles by its sketch.
//
// The document will be dropped for one that is *kept*, and among many that resemble each other the kept one is the
// earliest. So the first half of the places go to the earliest that surely resemble it, and the others to the best by
// estimate. What remains does not depend on the order of the offers, nor on repeated ones: each half is the best of all
// that was offered to it in a total order, and what the first half gives up is offered to the second.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace codeshell::dedup {

class Neighbours {
 public:
  // `slots`: `capacity` places of the caller's, all 0 at first.
  Neighbours(uint64_t* slots, size_t capacity) : slots_(slots), half_(capacity / 2), capacity_(capacity) {}

  // `earlier`: below 2^32 - 1, ascending in rank.
  void offer(uint32_t earlier, uint32_t equal, bool sure) {
    uint64_t entry = uint64_t{equal} << 32 | static_cast<uint32_t>(~earlier);
    if (sure && half_ && !insert_earliest(entry)) return;
    uint64_t* const end = slots_ + capacity_;
    uint64_t* const at = std::lower_bound(slots_ + half_, end, entry, std::greater<>());
    if (at == end || *at == entry) return;
    std::copy_backward(at, end - 1, end);
    *at = entry;
  }

  // An offer that is not sure and has fewer equal bytes changes nothing.
  uint32_t floor() const { return static_cast<uint32_t>(slots_[capacity_ - 1] >> 32); }

  // Calls take(earlier, equal) for every one, in no particular order.
  template <class Take>
  void each(const Take& take) const {
    for (size_t i = 0; i < capacity_; ++i) {
      if (slots_[i]) take(~static_cast<uint32_t>(slots_[i]), static_cast<uint32_t>(slots_[i] >> 32));
    }
  }

 private:
  // Leaves in `entry` what the second half is to be offered; false if there is nothing.
  bool insert_earliest(uint64_t& entry) {
    const auto key = [](uint64_t e) { return static_cast<uint32_t>(e); };  // higher is earlier; 0 is a free place
    uint64_t* const end = slots_ + half_;
    uint64_t* const at = std::lower_bound(slots_, end, entry, [&](uint64_t a, uint64_t b) { return key(a) > key(b); });
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
