// Sorting records that may not fit in memory: sorted runs in spools, and a merge that any number of threads can share,
// each taking a range of keys.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ngram/buffer.h"
#include "ngram/spool.h"

namespace codeshell::ngram {

using Wide = unsigned __int128;

template <class Key>
Key key_of(const Key& key)
  requires(!requires { key.key; })
{
  return key;
}
template <class Record>
auto key_of(const Record& record)
  requires requires { record.key; }
{
  return record.key;
}

// Sorts `count` records by the bits [low, high) of their keys; records with equal bits keep their order. The result is
// at `data` or at `scratch`; its address is returned. Digits of about 8 bits, the lowest first.
template <class Record>
Record* radix_sort(Record* data, Record* scratch, size_t count, unsigned low, unsigned high) {
  if (high <= low) return data;
  const unsigned passes = (high - low + 7) / 8, width = (high - low + passes - 1) / passes;
  for (unsigned pass = 0; pass < passes; ++pass) {
    const unsigned shift = low + pass * width;
    const unsigned mask = (1u << (high - shift < width ? high - shift : width)) - 1;
    const auto digit = [&](const Record& record) { return static_cast<unsigned>(key_of(record) >> shift) & mask; };
    std::array<size_t, 256> places{};
    for (size_t i = 0; i < count; ++i) ++places[digit(data[i])];
    size_t sum = 0;
    bool one = false;  // all records have the same digit
    for (size_t& place : places) {
      one |= place == count;
      sum += std::exchange(place, sum);
    }
    if (one) continue;
    for (size_t i = 0; i < count; ++i) scratch[places[digit(data[i])]++] = data[i];
    std::swap(data, scratch);
  }
  return data;
}

// Collects records, and makes sorted runs of as many as fit.
template <class Record>
class RunSorter {
 public:
  // Sorts by the bits [low, high) of the keys: those below `low` must be in order already, from the order of push().
  RunSorter(Storage& storage, size_t capacity, unsigned low, unsigned high)
      : spool_(std::make_unique<Spool<Record>>(storage)), capacity_(capacity), low_(low), high_(high) {}

  void push(const Record& record) {
    if (held_ == reserved_) grow();
    data_[held_++] = record;
  }

  // Must be called after the last push(); releases the buffers.
  void finish() {
    flush();
    data_.reset();
    scratch_.reset();
    reserved_ = 0;
  }

  void add_segments(std::vector<Segment<Record>>& segments) const {
    size_t begin = 0;
    for (const size_t end : ends_) {
      segments.push_back({spool_.get(), begin, end});
      begin = end;
    }
  }

 private:
  // Buffers grow with what is pushed, so that little data takes little memory.
  void grow() {
    if (held_ == capacity_) flush();
    if (reserved_ == capacity_) return;
    const size_t larger = std::min(capacity_, std::max<size_t>(2 * reserved_, 4096));
    Buffer<Record> data(larger);
    std::copy(data_.get(), data_.get() + held_, data.get());
    scratch_.reset();
    data_ = std::move(data);
    reserved_ = larger;
  }

  void flush() {
    if (!held_) return;
    if (!scratch_) scratch_ = Buffer<Record>(reserved_);
    const Record* sorted = radix_sort(data_.get(), scratch_.get(), held_, low_, high_);
    for (size_t i = 0; i < held_; ++i) spool_->append(sorted[i]);
    ends_.push_back(spool_->size());
    held_ = 0;
  }

  std::unique_ptr<Spool<Record>> spool_;
  std::vector<size_t> ends_;
  Buffer<Record> data_, scratch_;
  size_t held_ = 0, reserved_ = 0, capacity_;
  unsigned low_, high_;
};

// The records of several sorted segments, in order of their keys.
template <class Record>
class Merge {
 public:
  explicit Merge(const std::vector<Segment<Record>>& segments) {
    readers_.reserve(segments.size());
    for (const auto& segment : segments) {
      if (segment.begin >= segment.end) continue;
      readers_.emplace_back(segment);
      heap_.push_back({key_of(*readers_.back()), static_cast<uint32_t>(readers_.size() - 1)});
    }
    for (size_t i = heap_.size(); i-- > 0;) sink(i);
  }

  bool done() const { return heap_.empty(); }
  const Record& operator*() const { return *readers_[heap_[0].reader]; }
  void next() {
    auto& reader = readers_[heap_[0].reader];
    reader.next();
    if (!reader.done()) {
      heap_[0].key = key_of(*reader);
    } else {
      heap_[0] = heap_.back();
      heap_.pop_back();
    }
    if (heap_.size() > 1) sink(0);
  }

 private:
  using Key = decltype(key_of(std::declval<Record>()));
  struct Head {
    Key key;
    uint32_t reader;
    bool operator<(const Head& other) const { return key < other.key || (key == other.key && reader < other.reader); }
  };

  void sink(size_t i) {
    const Head head = heap_[i];
    for (size_t child; (child = 2 * i + 1) < heap_.size(); i = child) {
      if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
      if (!(heap_[child] < head)) break;
      heap_[i] = heap_[child];
    }
    heap_[i] = head;
  }

  std::vector<Reader<Record>> readers_;
  std::vector<Head> heap_;
};

// The first record of a segment whose key is not below `key`.
template <class Record, class Key>
size_t lower_bound(const Segment<Record>& segment, Key key) {
  size_t begin = segment.begin, end = segment.end;
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    if (key_of(segment.spool->at(middle)) < key)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

// Up to `parts` ranges of keys with about equally many records, as their first keys, from 0. Every range begins at a
// multiple of 2^shift, so that records with the same leading bits are in one range.
template <class Record>
auto cut_keys(const std::vector<Segment<Record>>& segments, size_t parts, unsigned shift) {
  using Key = decltype(key_of(std::declval<Record>()));
  size_t total = 0;
  for (const auto& segment : segments) total += segment.end - segment.begin;
  std::vector<Key> samples, cuts{0};
  // Each segment gives samples in proportion to its size.
  const size_t step = std::max<size_t>(1, total / (64 * parts));
  for (const auto& segment : segments) {
    for (size_t i = segment.begin + step / 2; i < segment.end; i += step) {
      samples.push_back(key_of(segment.spool->at(i)) >> shift << shift);
    }
  }
  std::sort(samples.begin(), samples.end());
  for (size_t part = 1; part < parts && !samples.empty(); ++part) {
    const Key cut = samples[part * samples.size() / parts];
    if (cut > cuts.back()) cuts.push_back(cut);
  }
  return cuts;
}

// Range `part` of each segment.
template <class Record, class Key>
std::vector<Segment<Record>> take_range(const std::vector<Segment<Record>>& segments, const std::vector<Key>& cuts,
                                        size_t part) {
  std::vector<Segment<Record>> taken = segments;
  for (auto& segment : taken) {
    const size_t begin = lower_bound(segment, cuts[part]);
    const size_t end = part + 1 < cuts.size() ? lower_bound(segment, cuts[part + 1]) : segment.end;
    segment.begin = begin;
    segment.end = end;
  }
  return taken;
}

}  // namespace codeshell::ngram
