// A batch of documents as Arrow holds a large_string column: one buffer of UTF-8 and count + 1 offsets into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace codeshell::dedup {

// Borrows all of it; the caller keeps the buffers alive. Text i is data[offsets[i] .. offsets[i + 1]), in bytes.
struct Texts {
  const char* data;
  const int64_t* offsets;
  size_t count;

  std::string_view operator[](size_t i) const {
    return {data + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])};
  }
};

}  // namespace codeshell::dedup
