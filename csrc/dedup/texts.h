// A batch of documents as Arrow holds a large_string column: one buffer of UTF-8 and count + 1 offsets into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace codeshell::dedup {

struct Texts {
  const char* data;
  const int64_t* offsets;
  size_t count;

  std::string_view operator[](size_t i) const {
    return {data + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])};
  }
};

}  // namespace codeshell::dedup
