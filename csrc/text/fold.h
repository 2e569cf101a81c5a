// Python's str.lower() and canonical decomposition, code point by code point.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/unicode_mappings.h"

namespace codeshell::text {

// Is `code` in one of the ascending ranges?
bool in_ranges(std::span<const CodeRange> ranges, uint32_t code);

// Appends what str.lower() makes of the character `code`, which is text[at .. next) of well-formed UTF-8: only a
// capital sigma depends on what is around it.
void append_lower(uint32_t code, std::string_view text, size_t at, size_t next, std::vector<uint32_t>& out);

// NFD of code points, in place.
void decompose(std::vector<uint32_t>& codes, std::vector<uint32_t>& spare);

bool is_space(uint32_t code);
bool is_nonspacing(uint32_t code);

}  // namespace codeshell::text
