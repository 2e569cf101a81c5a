// A file as memory: mapped, or read into pages of this process.
#pragma once

#include <cstdint>
#include <string>

namespace codeshell::ngram {

class Mapping {
 public:
  enum class Memory {
    mapped,  // pages of the file, shared by all processes that map it
    copied,  // read into memory of this process, on huge pages if the system gives them
  };
  // Throws std::system_error; for what is not a file, with EISDIR or EINVAL. An empty file has no bytes and a null data().
  Mapping(const std::string& path, Memory memory);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const uint8_t* data() const { return static_cast<const uint8_t*>(base_); }
  uint64_t bytes() const { return bytes_; }

 private:
  void* base_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace codeshell::ngram
