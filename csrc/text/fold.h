// Python's str.lower() and canonical decomposition (NFD), code point by code point. The tables (unicode_mappings.h) are
// those of Unicode 14, the version of Python 3.11: a peer's shingles must not depend on the Python that runs here.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/unicode_mappings.h"

namespace codeshell::text {

// Whether `code` is in one of the ranges, which ascend.
// Used for all character classes, here and in dedup/datatrove.cpp.
bool in_ranges(std::span<const CodeRange> ranges, uint32_t code);

// Appends what str.lower() makes of the character `code`, which is text[at .. next) of well-formed UTF-8. The text
// around it is needed for a capital sigma only.
void append_lower(uint32_t code, std::string_view text, size_t at, size_t next, std::vector<uint32_t>& out);

// Canonical decomposition (NFD) of code points, in place; `spare` is scratch memory.
void decompose(std::vector<uint32_t>& codes, std::vector<uint32_t>& spare);

// str.isspace(), and the Unicode category Mn.
bool is_space(uint32_t code);
bool is_nonspacing(uint32_t code);

}  // namespace codeshell::text
