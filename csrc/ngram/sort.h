// Sorts records of an n-gram by key within a bound of memory: sorted runs in files, then a merge.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

namespace codeshell::ngram {

// What a table's entry is made of. `words` are there if the sorter was made for them.
struct RecordView {
  uint64_t key;
  float probability;
  float backoff;
  const uint32_t* words;
};

class RecordSorter {
 public:
  virtual ~RecordSorter() = default;
  virtual void add(uint64_t key, float probability, float backoff, const uint32_t* words) = 0;
  // Calls take(record) in the order of (key, probability, backoff), once.
  virtual void drain(const std::function<void(const RecordView&)>& take) = 0;
};

// Records with `words` words each (at most max_order). Runs are temporary files named after `path`, gone at the end.
std::unique_ptr<RecordSorter> make_sorter(uint32_t words, uint64_t expected, uint64_t memory_bytes, std::string path);

// A file that is removed when it is closed. Throws std::system_error.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::FILE* file() const { return file_; }
  void write(const void* data, size_t bytes);
  void rewind();
  // Bytes read; fewer than asked for only at the end.
  size_t read(void* data, size_t bytes);

 private:
  std::string name_;
  std::FILE* file_;
};

[[noreturn]] void throw_system(const std::string& name);

}  // namespace codeshell::ngram
