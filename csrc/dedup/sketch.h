// Sketches: one byte per MinHash lane (its low 8 bits), so that two documents are compared by counting equal bytes.
// Each of the `lanes` bytes of two documents with Jaccard J agrees with probability J + (1 - J) / 256 (b-bit minwise
// hashing, Li & Koenig, WWW 2010, with b = 8).
//
// A sketch has `width` bytes, a multiple of 64. Bytes from `lanes` on are padding and never count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "simd/cpu.h"

namespace codeshell::dedup {

// Uninitialised bytes that start at a cache line: a vector load that crosses two lines costs twice as much.
struct FreeBytes {
  void operator()(uint8_t* bytes) const { std::free(bytes); }
};
using AlignedBytes = std::unique_ptr<uint8_t, FreeBytes>;
AlignedBytes aligned_bytes(size_t size);

// A sketch out of `many`, and in how many bytes it agrees.
struct Match {
  uint32_t index;
  uint32_t equal;
};

// Compares one sketch with `count` others that lie `width` bytes apart. Writes those with at least `least` equal bytes
// among the first `lanes` to `out` (room for `count`), ascending, and returns their number. The same at every level.
using Similar = size_t (*)(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes,
                           uint32_t least, Match* out);
Similar similar(simd::Level level);

// Consecutive sketches in a file.
struct SketchPart {
  std::string path;
  uint64_t offset;  // bytes
  uint64_t count;   // sketches
};

// The sketches of documents 0 .. count() - 1, in memory or in files.
class Sketches {
 public:
  // The caller keeps the bytes.
  Sketches(const uint8_t* data, size_t count, size_t width) : data_(data), count_(count), width_(width) {}
  // The parts follow one another. `in_memory` reads them now; otherwise every read() is a pread, and memory stays
  // bounded. Throws std::filesystem::filesystem_error for a file that cannot be read, and std::invalid_argument for one
  // that is too short.
  Sketches(const std::vector<SketchPart>& parts, size_t width, bool in_memory);

  size_t count() const { return count_; }
  size_t width() const { return width_; }
  // All of them, consecutive; null if they are in files.
  const uint8_t* data() const { return data_; }

  void read(uint32_t document, uint8_t* out) const {
    if (data_) {
      std::memcpy(out, data_ + document * width_, width_);
    } else {
      read_file(document, out);
    }
  }

  // Asks the processor for a sketch that will be read soon.
  void prefetch(uint32_t document) const {
    if (!data_) return;
    for (size_t i = 0; i < width_; i += 64) __builtin_prefetch(data_ + document * width_ + i);
  }

 private:
  // A file that is open for reading; several parts and threads share it.
  class File {
   public:
    explicit File(const std::string& path);
    File(const File&) = delete;
    ~File();
    void check_size(uint64_t bytes) const;
    void read(uint8_t* out, uint64_t bytes, uint64_t offset) const;

   private:
    const std::string path_;
    const int descriptor_;
  };

  struct Part {
    std::shared_ptr<const File> file;
    uint64_t offset;
    uint64_t end;  // the document after its last
  };

  void read_file(uint32_t document, uint8_t* out) const;

  AlignedBytes owned_;
  const uint8_t* data_ = nullptr;
  size_t count_ = 0;
  size_t width_;
  std::vector<Part> parts_;
};

}  // namespace codeshell::dedup
