#include "ngram/sort.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <queue>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "ngram/format.h"

namespace codeshell::ngram {

void throw_system(const std::string& name) { throw std::system_error(errno, std::generic_category(), name); }

// The name goes at once: the system keeps the file as long as it is open, however the process ends.
TemporaryFile::TemporaryFile(const std::string& name) : name_(name), file_(std::fopen(name.c_str(), "wb+")) {
  if (!file_) throw_system(name);
  std::remove(name.c_str());
}

TemporaryFile::~TemporaryFile() { std::fclose(file_); }

void TemporaryFile::write(const void* data, size_t bytes) {
  if (bytes && std::fwrite(data, 1, bytes, file_) != bytes) throw_system(name_);
}

void TemporaryFile::rewind() {
  if (std::fflush(file_) || std::fseek(file_, 0, SEEK_SET)) throw_system(name_);
}

size_t TemporaryFile::read(void* data, size_t bytes) {
  const size_t got = std::fread(data, 1, bytes, file_);
  if (got < bytes && std::ferror(file_)) throw_system(name_);
  return got;
}

namespace {

template <uint32_t Words>
struct Record {
  uint64_t key;
  float probability, backoff;
  uint32_t words[Words];
};
template <>
struct Record<0> {
  uint64_t key;
  float probability, backoff;
};

template <uint32_t Words>
class Sorter : public RecordSorter {
 public:
  using R = Record<Words>;

  Sorter(uint64_t expected, uint64_t memory_bytes, std::string path)
      : limit_(std::max<uint64_t>(memory_bytes, 1 << 20) / sizeof(R)), path_(std::move(path)) {
    records_.reserve(std::min(expected, limit_));
  }

  void add(uint64_t key, float probability, float backoff, const uint32_t* words) override {
    if (records_.size() == limit_) spill();
    R& record = records_.emplace_back();
    record.key = key;
    record.probability = probability;
    record.backoff = backoff;
    if constexpr (Words > 0) std::memcpy(record.words, words, sizeof(record.words));
  }

  void drain(const std::function<void(const RecordView&)>& take) override {
    if (runs_.empty()) {
      sort();
      for (const R& record : records_) take(view(record));
      return;
    }
    spill();
    std::vector<R>().swap(records_);
    // Each run has its share of the memory as a buffer.
    struct Reader {
      TemporaryFile* file;
      std::vector<R> buffer;
      size_t next = 0, size = 0;
      bool fill() {
        size = file->read(buffer.data(), buffer.size() * sizeof(R)) / sizeof(R);
        next = 0;
        return size > 0;
      }
    };
    std::vector<Reader> readers;
    const size_t share = std::max<uint64_t>(limit_ / runs_.size(), 256);
    for (const auto& run : runs_) {
      run->rewind();
      readers.push_back({run.get(), std::vector<R>(share)});
    }
    // The smallest head first; of equal records it does not matter which.
    const auto later = [&](size_t a, size_t b) {
      return less(readers[b].buffer[readers[b].next], readers[a].buffer[readers[a].next]);
    };
    std::priority_queue<size_t, std::vector<size_t>, decltype(later)> heads(later);
    for (size_t i = 0; i < readers.size(); ++i) {
      if (readers[i].fill()) heads.push(i);
    }
    while (!heads.empty()) {
      const size_t i = heads.top();
      heads.pop();
      Reader& reader = readers[i];
      take(view(reader.buffer[reader.next]));
      if (++reader.next < reader.size || reader.fill()) heads.push(i);
    }
    runs_.clear();
  }

 private:
  static bool less(const R& a, const R& b) {
    if (a.key != b.key) return a.key < b.key;
    if (a.probability != b.probability) return a.probability < b.probability;
    return a.backoff < b.backoff;
  }

  static RecordView view(const R& record) {
    if constexpr (Words > 0) return {record.key, record.probability, record.backoff, record.words};
    return {record.key, record.probability, record.backoff, nullptr};
  }

  void sort() { std::sort(records_.begin(), records_.end(), less); }

  void spill() {
    sort();
    runs_.push_back(std::make_unique<TemporaryFile>(path_ + ".run" + std::to_string(runs_.size())));
    runs_.back()->write(records_.data(), records_.size() * sizeof(R));
    records_.clear();
  }

  uint64_t limit_;
  std::string path_;
  std::vector<R> records_;
  std::vector<std::unique_ptr<TemporaryFile>> runs_;
};

}  // namespace

std::unique_ptr<RecordSorter> make_sorter(uint32_t words, uint64_t expected, uint64_t memory_bytes, std::string path) {
  static_assert(max_order == 8);
  switch (words) {
    case 0: return std::make_unique<Sorter<0>>(expected, memory_bytes, std::move(path));
    case 2: return std::make_unique<Sorter<2>>(expected, memory_bytes, std::move(path));
    case 3: return std::make_unique<Sorter<3>>(expected, memory_bytes, std::move(path));
    case 4: return std::make_unique<Sorter<4>>(expected, memory_bytes, std::move(path));
    case 5: return std::make_unique<Sorter<5>>(expected, memory_bytes, std::move(path));
    case 6: return std::make_unique<Sorter<6>>(expected, memory_bytes, std::move(path));
    case 7: return std::make_unique<Sorter<7>>(expected, memory_bytes, std::move(path));
    case 8: return std::make_unique<Sorter<8>>(expected, memory_bytes, std::move(path));
    default: throw std::invalid_argument("words: no sorter for this number");
  }
}

}  // namespace codeshell::ngram
