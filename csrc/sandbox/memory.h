// Strings, numbers and a bounded cursor for the keeper, which has no library.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace codeshell::sandbox {

inline size_t length_of(const char* text) {
  size_t length = 0;
  while (text[length]) ++length;
  return length;
}

// Text in a fixed array; what does not fit sets `full`, and is checked once at the end.
template <size_t kSize>
struct Line {
  char text[kSize] = {};
  size_t length = 0;
  bool full = false;

  Line& add(const char* more) {
    while (*more && length + 1 < kSize) text[length++] = *more++;
    full |= *more != 0;
    text[length] = 0;
    return *this;
  }
  Line& add(uint64_t number) {
    char digits[24];
    int at = 23;
    digits[at] = 0;
    do {
      digits[--at] = static_cast<char>('0' + number % 10);
    } while (number /= 10);
    return add(digits + at);
  }
};

// The decimal number at `text`, and where it ends.
inline uint64_t number_at(const char* text, const char** end = nullptr) {
  uint64_t number = 0;
  while (*text >= '0' && *text <= '9') number = number * 10 + static_cast<uint64_t>(*text++ - '0');
  if (end) *end = text;
  return number;
}

// Reads a memory file piece by piece; past its end it gives null or an empty string, and `good` is false.
struct Cursor {
  const char* at = nullptr;
  const char* end = nullptr;
  bool good = true;

  const char* take(uint64_t size) {
    if (!good || size > static_cast<uint64_t>(end - at)) {
      good = false;
      return nullptr;
    }
    const char* start = at;
    at += size;
    return start;
  }
  const char* string() {
    const char* start = at;
    while (good && at < end && *at) ++at;
    if (!good || at >= end) {
      good = false;
      return "";
    }
    ++at;
    return start;
  }
};

}  // namespace codeshell::sandbox
