// Records that are written once and read in order: in memory while the budget lasts, in a temporary file after that.
//
// The file has no name: a process that ends in any way leaves nothing on the disk.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace codeshell::ngram {

// Memory that several spools share; and where their files go.
class Storage {
 public:
  Storage(std::string folder, size_t memory) : folder_(std::move(folder)), left_(static_cast<int64_t>(memory)) {}

  const std::string& folder() const { return folder_; }
  // False if there is not that much left.
  bool take(size_t bytes) {
    if (left_.fetch_sub(static_cast<int64_t>(bytes)) >= static_cast<int64_t>(bytes)) return true;
    give(bytes);
    return false;
  }
  void give(size_t bytes) { left_.fetch_add(static_cast<int64_t>(bytes)); }

  std::atomic<uint64_t> spilled{0};  // bytes written to files so far

 private:
  std::string folder_;
  std::atomic<int64_t> left_;
};

// A file without a name. Each call throws std::system_error, with the folder's name, if the system refuses.
class SpillFile {
 public:
  explicit SpillFile(const std::string& folder);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  void write(const void* data, size_t size, uint64_t offset);
  void read(void* data, size_t size, uint64_t offset) const;

 private:
  int descriptor_;
  std::string folder_;
};

// One thread appends; then any number of threads read.
template <class Record>
class Spool {
 public:
  static constexpr size_t block_records = (64 << 10) / sizeof(Record);

  explicit Spool(Storage& storage) : storage_(&storage) {}
  ~Spool() { clear(); }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  size_t size() const { return size_; }

  void append(const Record& record) {
    if (!tail_) tail_ = std::make_unique_for_overwrite<Record[]>(block_records);
    tail_[size_++ % block_records] = record;
    if (size_ % block_records == 0) finish_block();
  }

  void clear() {
    storage_->give(held_);
    held_ = size_ = 0;
    blocks_.clear();
    tail_.reset();
    file_.reset();
    file_blocks_ = 0;
  }

  // The records of block i, at `buffer` if they have to be read.
  const Record* block(size_t i, Record* buffer) const {
    if (i == blocks_.size()) return tail_.get();
    if (blocks_[i].data) return blocks_[i].data.get();
    file_->read(buffer, block_bytes, blocks_[i].offset);
    return buffer;
  }

  Record at(size_t i) const {
    const size_t block = i / block_records, place = i % block_records;
    if (block == blocks_.size()) return tail_[place];
    if (blocks_[block].data) return blocks_[block].data[place];
    Record record;
    file_->read(&record, sizeof(Record), blocks_[block].offset + place * sizeof(Record));
    return record;
  }

 private:
  static constexpr size_t block_bytes = block_records * sizeof(Record);

  struct Block {
    std::unique_ptr<Record[]> data;  // null: it is in the file
    uint64_t offset = 0;
  };

  void finish_block() {
    if (storage_->take(block_bytes)) {
      held_ += block_bytes;
      blocks_.push_back({std::move(tail_), 0});
      return;
    }
    if (!file_) file_ = std::make_unique<SpillFile>(storage_->folder());
    file_->write(tail_.get(), block_bytes, file_blocks_ * block_bytes);
    storage_->spilled += block_bytes;
    blocks_.push_back({nullptr, file_blocks_++ * block_bytes});
  }

  Storage* storage_;
  std::vector<Block> blocks_;
  std::unique_ptr<Record[]> tail_;  // the last block, which is not full
  std::unique_ptr<SpillFile> file_;
  uint64_t file_blocks_ = 0;
  size_t size_ = 0, held_ = 0;
};

// Part of a spool.
template <class Record>
struct Segment {
  const Spool<Record>* spool;
  size_t begin, end;
};

// Reads a part of a spool in order, a block at a time.
template <class Record>
class Reader {
 public:
  explicit Reader(const Segment<Record>& segment) : segment_(segment) { advance(); }

  bool done() const { return !now_; }
  const Record& operator*() const { return *now_; }
  const Record* operator->() const { return now_; }
  void next() {
    ++now_;
    if (now_ == stop_) advance();
  }

 private:
  static constexpr size_t block_records = Spool<Record>::block_records;

  void advance() {
    now_ = nullptr;
    if (segment_.begin >= segment_.end) return;
    if (!buffer_) buffer_ = std::make_unique_for_overwrite<Record[]>(block_records);
    const size_t block = segment_.begin / block_records, first = segment_.begin % block_records;
    const size_t count = std::min(block_records - first, segment_.end - segment_.begin);
    now_ = segment_.spool->block(block, buffer_.get()) + first;
    stop_ = now_ + count;
    segment_.begin += count;
  }

  Segment<Record> segment_;
  std::unique_ptr<Record[]> buffer_;
  const Record *now_ = nullptr, *stop_ = nullptr;
};

template <class Record>
Segment<Record> whole(const Spool<Record>& spool) {
  return {&spool, 0, spool.size()};
}

}  // namespace codeshell::ngram
