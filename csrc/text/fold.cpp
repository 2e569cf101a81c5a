// All tables are sorted and searched by halves: few characters come here, because ASCII is handled before.
#include "text/fold.h"

#include <algorithm>

#include "text/utf8.h"

namespace codeshell::text {

namespace {

// The mapping of a code point, or null if it maps to itself.
// The mappings ascend by code point.
const CodeMapping* find(std::span<const CodeMapping> mappings, uint32_t code) {
  const auto found = std::lower_bound(mappings.begin(), mappings.end(), code,
                                      [](const CodeMapping& mapping, uint32_t value) { return mapping.code < value; });
  return found != mappings.end() && found->code == code ? &*found : nullptr;
}

// U+03A3 is final where a cased letter is before it and none after it, whatever case-ignorable characters are between.
bool is_final_sigma(std::string_view text, size_t at, size_t next) {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* p = begin + at;
  bool before = false;
  // Backwards: to the first character that is not case-ignorable. A step goes to the byte that begins a character.
  while (p > begin) {
    do --p;
    while ((static_cast<uint8_t>(*p) & 0xC0) == 0x80);
    const uint32_t code = decode(p, end).code;
    if (in_ranges(case_ignorable, code)) continue;
    before = in_ranges(cased, code);
    break;
  }
  // No cased letter before it.
  if (!before) return false;
  // Forwards: the same. A sigma with a cased letter after it is not final.
  for (p = begin + next; p < end;) {
    const CodePoint c = decode(p, end);
    if (!in_ranges(case_ignorable, c.code)) return !in_ranges(cased, c.code);
    p += c.size;
  }
  return true;
}

// The canonical combining class; no code point below U+0300 has one other than 0.
uint32_t combining(uint32_t code) {
  if (code < 0x300) return 0;
  const auto found = std::upper_bound(std::begin(combining_class), std::end(combining_class), code,
                                      [](uint32_t value, const ClassRange& range) { return value < range.first; });
  return found != std::begin(combining_class) && code <= found[-1].last ? found[-1].value : 0;
}

}  // namespace

// Ranges are closed: [first, last].
bool in_ranges(std::span<const CodeRange> ranges, uint32_t code) {
  // The last range that begins at or before the code point is the only one that can hold it.
  const auto found = std::upper_bound(ranges.begin(), ranges.end(), code,
                                      [](uint32_t value, const CodeRange& range) { return value < range.first; });
  return found != ranges.begin() && code <= found[-1].last;
}

bool is_space(uint32_t code) { return in_ranges(space, code); }
bool is_nonspacing(uint32_t code) { return code >= 0x300 && in_ranges(nonspacing, code); }

// ASCII and CJK need no table, and a capital sigma needs the text around it; every other character is searched.
void append_lower(uint32_t code, std::string_view text, size_t at, size_t next, std::vector<uint32_t>& out) {
  if (code < 0x80) {
    out.push_back(code >= 'A' && code <= 'Z' ? code | 0x20 : code);
  } else if (code == 0x3A3) {
    out.push_back(is_final_sigma(text, at, next) ? 0x3C2 : 0x3C3);
  } else if (code >= 0x2E80 && code < 0xA640) {
    out.push_back(code);  // CJK: nothing there has case
  } else if (const CodeMapping* mapping = find(lower, code)) {
    out.insert(out.end(), lower_pool + mapping->at, lower_pool + mapping->at + mapping->count);
  } else {
    out.push_back(code);
  }
}

// Two steps: every character by its table (which is already recursive), then the canonical order of marks.
void decompose(std::vector<uint32_t>& codes, std::vector<uint32_t>& spare) {
  spare.clear();
  for (const uint32_t code : codes) {
    // Latin letters without marks and most CJK characters do not decompose.
    if (code < 0xC0 || (code >= 0x3400 && code < 0xAC00)) {
      spare.push_back(code);
    } else if (code >= 0xAC00 && code <= 0xD7A3) {
      // A Hangul syllable is lead * 588 + vowel * 28 + tail, in this order of its parts (Unicode 14, section 3.12).
      const uint32_t index = code - 0xAC00, tail = index % 28;
      spare.push_back(0x1100 + index / 588);
      spare.push_back(0x1161 + index % 588 / 28);
      if (tail) spare.push_back(0x11A7 + tail);
    } else if (const CodeMapping* mapping = find(decomposition, code)) {
      spare.insert(spare.end(), decomposition_pool + mapping->at, decomposition_pool + mapping->at + mapping->count);
    } else {
      spare.push_back(code);
    }
  }
  // The decomposition is in `spare`; the old vector becomes the scratch memory of the next call.
  codes.swap(spare);
  // Canonical order: every run of combining classes other than 0 is sorted by class, stably.
  for (size_t i = 0; i < codes.size();) {
    if (!combining(codes[i])) {
      ++i;
      continue;
    }
    size_t last = i + 1;
    while (last < codes.size() && combining(codes[last])) ++last;
    // Marks of equal class keep their order.
    if (last - i > 1) {
      std::stable_sort(codes.begin() + i, codes.begin() + last,
                       [](uint32_t a, uint32_t b) { return combining(a) < combining(b); });
    }
    i = last;
  }
}

}  // namespace codeshell::text
