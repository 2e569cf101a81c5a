// The shingle sets of documents, from files, where a set is read when it is asked for, or from arrays.
//
// A file has three sections, each at an offset that the caller knows:
//   documents   (m,) uint32, ascending, numbered within the file
//   bounds      (m + 1,) int64
//   values      uint64: those of documents[i] are values[bounds[i] .. bounds[i + 1]), distinct and ascending
// Values are not checked: whatever they are, an intersection stays within the arrays and gives some count.
//
// Memory: 4 bytes per document that has a set, and 1.1 bits per position between the first and the last of a file.
// Look-up: a binary search among the files, then constant time. No more than 256 files are open at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace codeshell::dedup {

// A file that cannot be opened or read (code is errno), or that is not what it should be (code 0; what() says how).
struct FileError : std::runtime_error {
  FileError(std::string path, int code, const std::string& problem)
      : std::runtime_error(problem), path(std::move(path)), code(code) {}
  std::string path;
  int code;
};

class Sets {
 public:
  struct Source {
    std::string path;
    uint32_t first;  // position of the file's document 0
    uint64_t documents_offset, count, bounds_offset, values_offset;
  };

  // Throws FileError, or std::invalid_argument for sources whose positions are interleaved or exceed 32 bits.
  // Reads documents and bounds of all files; only values stay on the disk.
  explicit Sets(const std::vector<Source>& sources);

  // Borrows `values`; the rest is copied. Throws std::invalid_argument.
  Sets(const uint32_t* documents, size_t count, const int64_t* bounds, const uint64_t* values, size_t values_count);

  // A set that was looked up but not read yet.
  struct Place {
    static constexpr uint32_t absent = ~0u;
    uint32_t part = absent;
    uint32_t size = 0;
    uint64_t start = 0;  // in the values of its part
  };
  Place find(uint32_t position) const;

  // The values of a set: where they lie in memory, or read into `buffer`. Any number of threads may call it.
  const uint64_t* read(const Place& place, std::vector<uint64_t>& buffer) const;

  size_t documents() const { return documents_; }
  bool in_memory() const { return values_ != nullptr; }

 private:
  // The documents of one source: a bitmap of positions in which set bits can be counted (a rank structure), and the
  // sizes of their sets. `first` and `last` are the positions of its first and last document.
  struct Part {
    std::string path;
    uint64_t values_offset = 0;  // in bytes
    uint32_t first = 0, last = 0;
    std::vector<uint64_t> bits;    // bit i: position first + i has a set
    std::vector<uint32_t> ranks;   // set bits before every block of 8 words
    std::vector<uint32_t> sizes;   // by document
    std::vector<uint64_t> starts;  // by block of 64 documents

    void set_positions(uint32_t from, const uint32_t* documents, size_t count);
    void set_bounds(const int64_t* bounds, size_t count, uint64_t values_count);
  };
  struct File;

  void index();
  std::shared_ptr<const File> open(uint32_t part) const;

  std::vector<Part> parts_;           // without empty ones, ascending by position
  std::vector<uint32_t> firsts_;      // of the parts: what the binary search touches
  const uint64_t* values_ = nullptr;  // of the one part that is in memory
  size_t documents_ = 0;

  mutable std::mutex opening_;
  mutable std::vector<std::shared_ptr<const File>> files_;  // by part; null: not open
  mutable std::list<uint32_t> opened_;                      // oldest first
};

// Reads sets for one thread and keeps some of them, because the documents of a cluster are compared with the same ones
// again and again. Memory: 16 MiB, and the largest set.
class LastSets {
 public:
  explicit LastSets(const Sets& sets) : sets_(&sets) {}

  // The values of the set of a position, whose place is known; they stay until the next call.
  const uint64_t* read(uint32_t position, const Sets::Place& place);

 private:
  static constexpr size_t slots = 1024, largest = 2048;  // values
  struct Slot {
    uint32_t position = 0;
    bool used = false;
    std::vector<uint64_t> values;
  };
  const Sets* sets_;
  std::vector<Slot> slots_;  // made when the first set is read from a file
  std::vector<uint64_t> large_;
};

}  // namespace codeshell::dedup
