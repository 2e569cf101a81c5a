// Counts the n-grams of the highest order: packed ids in a buffer for each thread, sorted and counted when it is full.
//
// A key packs the ids of an n-gram, `bits` each, the last word highest: sorted keys are in suffix order. Before the
// first word of a document stand as many <s> as the order needs, so that one key holds also the shorter n-grams that
// begin with <s>.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "ngram/runs.h"
#include "ngram/trainer.h"

namespace codeshell::ngram {

template <class Key>
struct Counted {
  Key key;
  uint64_t count;
};

// How ids are packed.
struct Packing {
  int order;
  unsigned bits;

  unsigned total() const { return bits * static_cast<unsigned>(order); }
};

// The ids of an n-gram whose key has `order` digits, oldest first.
template <class Key>
void unpack(Key key, int order, unsigned bits, uint32_t* words) {
  for (int i = 0; i < order; ++i) {
    words[i] = static_cast<uint32_t>(key) & ((1u << bits) - 1);
    key >>= bits;
  }
}

// What one thread counts.
template <class Key>
class CountBuffer {
 public:
  CountBuffer(Storage& storage, Packing packing, size_t capacity)
      : spool_(storage), capacity_(std::max<size_t>(capacity, 4096)), packing_(packing) {}

  // A document of ids, all of them below 2^bits and none special.
  void add(const uint32_t* ids, size_t count) {
    const unsigned bits = packing_.bits, top = bits * static_cast<unsigned>(packing_.order - 1);
    Key key = 0;
    for (int i = 0; i < packing_.order; ++i) key = key << bits | begin_id;
    for (size_t done = 0; done < count;) {
      const size_t part = room(count - done);
      Key* out = data_.get() + held_;
      for (size_t i = done; i < done + part; ++i) *out++ = key = key >> bits | static_cast<Key>(ids[i]) << top;
      held_ += part;
      done += part;
    }
    room(1);
    data_[held_++] = key >> bits | static_cast<Key>(end_id) << top;
  }

  void finish() {
    flush();
    data_.reset();
    scratch_.reset();
    reserved_ = 0;
  }

  void add_segments(std::vector<Segment<Counted<Key>>>& segments) const {
    size_t begin = 0;
    for (const size_t end : ends_) {
      segments.push_back({&spool_, begin, end});
      begin = end;
    }
  }

 private:
  // Makes room for some of the next `wanted` keys, and says for how many.
  size_t room(size_t wanted) {
    if (held_ == reserved_) {
      if (held_ == capacity_) flush();
      if (reserved_ < capacity_) {
        reserved_ = std::min(capacity_, std::max(2 * reserved_, std::min(wanted, capacity_)));
        Buffer<Key> data(reserved_);
        std::copy(data_.get(), data_.get() + held_, data.get());
        scratch_.reset();
        data_ = std::move(data);
      }
    }
    return std::min(wanted, reserved_ - held_);
  }

  void flush() {
    if (!held_) return;
    if (!scratch_) scratch_ = Buffer<Key>(reserved_);
    const Key* sorted = radix_sort(data_.get(), scratch_.get(), held_, 0, packing_.total());
    for (size_t i = 0; i < held_;) {
      const size_t first = i;
      while (++i < held_ && sorted[i] == sorted[first]) {
      }
      spool_.append({sorted[first], i - first});
    }
    ends_.push_back(spool_.size());
    held_ = 0;
  }

  Spool<Counted<Key>> spool_;
  std::vector<size_t> ends_;
  Buffer<Key> data_, scratch_;
  size_t held_ = 0, reserved_ = 0, capacity_;
  Packing packing_;
};

// Sorted records of equal keys as one, with the sum of their counts.
template <class Key>
class Sums {
 public:
  explicit Sums(const std::vector<Segment<Counted<Key>>>& segments) : merge_(segments) { next(); }

  bool done() const { return done_; }
  const Counted<Key>& operator*() const { return now_; }
  void next() {
    done_ = merge_.done();
    if (done_) return;
    now_ = *merge_;
    for (merge_.next(); !merge_.done() && (*merge_).key == now_.key; merge_.next()) now_.count += (*merge_).count;
  }

 private:
  Merge<Counted<Key>> merge_;
  Counted<Key> now_{};
  bool done_ = false;
};

}  // namespace codeshell::ngram
