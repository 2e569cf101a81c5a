// The measures of a text that the initial rules ask for: whether it is UTF-8, the numbers of characters and lines, the
// lengths of the lines, the numbers of letters and digits. One pass over the bytes; blocks of 64 ASCII bytes go through
// SIMD.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/cpu.h"

namespace codeshell::text {

// Counts are in characters (code points). Lines end with \n, \r\n or \r, as Python's universal newlines do; the end of
// a line is not part of its length, and the empty rest after a final line end is not a line.
struct Measures {
  bool valid_utf8 = true;  // if false, every count below is 0
  int64_t characters = 0;
  int64_t lines = 0;
  int64_t max_line_length = 0;
  int64_t line_characters = 0;  // characters in lines, that is without line ends
  int64_t letters = 0;          // str.isalpha
  int64_t alphanumeric = 0;     // str.isalnum
};

// `at_most` lowers the instruction set below the processor's, for tests. The result is the same at every level.
Measures measure(const uint8_t* text, size_t size, simd::Level at_most);

}  // namespace codeshell::text
