// UTF-8 as Python decodes it with errors="replace": each longest start of a well-formed sequence that is broken off,
// and each byte that can start none, is one U+FFFD (Unicode 14, section 3.9: substitution of maximal subparts).
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace codeshell::text {

inline constexpr uint32_t replacement = 0xFFFD;

// A decoded character.
struct CodePoint {
  uint32_t code;
  uint32_t size;   // bytes
  bool malformed;  // then `code` is `replacement`
};

// Decodes the character at `p` < `end`.
inline CodePoint decode(const char* p, const char* end) {
  const auto first = static_cast<uint8_t>(*p);
  if (first < 0x80) return {first, 1, false};
  // The number of bytes that must follow, by the first byte; 0 if no character begins with it.
  const uint32_t more = first >= 0xC2 && first < 0xE0   ? 1
                        : first >= 0xE0 && first < 0xF0 ? 2
                        : first >= 0xF0 && first < 0xF5 ? 3
                                                        : 0;
  // A continuation byte, 0xC0, 0xC1, or 0xF5 and above.
  if (!more) return {replacement, 1, true};
  // Only the second byte's range depends on the first: no overlong form, no surrogate, nothing beyond U+10FFFF.
  uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  uint32_t code = first & (0x3Fu >> more);
  for (uint32_t i = 1; i <= more; ++i) {
    // Broken off: the bytes so far are a maximal subpart, and count as one U+FFFD.
    if (p + i == end) return {replacement, i, true};
    const auto byte = static_cast<uint8_t>(p[i]);
    if (byte < low || byte > high) return {replacement, i, true};
    // Six bits per continuation byte; only the second byte has a narrower range.
    code = code << 6 | (byte & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {code, more + 1, false};
}

// Writes the UTF-8 of `code` (a valid code point) to `out` and returns its size, 1 to 4 bytes.
inline uint32_t encode(uint32_t code, char* out) {
  const auto tail = [code](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  // The lead byte tells the size; each continuation byte carries six bits, the highest first.
  if (code < 0x80) {
    out[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    out[0] = static_cast<char>(0xC0 | code >> 6);
    out[1] = tail(0);
    return 2;
  }
  if (code < 0x10000) {
    out[0] = static_cast<char>(0xE0 | code >> 12);
    out[1] = tail(6);
    out[2] = tail(0);
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | code >> 18);
  out[1] = tail(12);
  out[2] = tail(6);
  out[3] = tail(0);
  return 4;
}

// The first byte of 0x80 or more at or after `p`, or `end`. Eight bytes at a time, by their top bits.
inline const char* skip_ascii(const char* p, const char* end) {
  for (uint64_t w; end - p >= 8; p += 8) {
    std::memcpy(&w, p, 8);
    if (w & 0x8080808080808080u) break;
  }
  while (p < end && static_cast<uint8_t>(*p) < 0x80) ++p;
  return p;
}

// Returns `text` itself if it is well-formed, or its repaired form in `buffer`. Nothing is copied up to the first
// malformed character; from there on the good stretches between two of them are appended whole.
inline std::string_view well_formed(std::string_view text, std::string& buffer) {
  const char *p = text.data(), *const end = p + text.size();
  const char* copied = nullptr;
  // From one character that is not ASCII to the next.
  for (p = skip_ascii(p, end); p < end; p = skip_ascii(p, end)) {
    const CodePoint c = decode(p, end);
    if (c.malformed) {
      // The first malformed character: from here on the text is copied.
      if (!copied) {
        buffer.clear();
        copied = text.data();
      }
      buffer.append(copied, p);
      buffer.append("\xEF\xBF\xBD");
      copied = p + c.size;
    }
    p += c.size;
  }
  if (!copied) return text;
  buffer.append(copied, end);
  return buffer;
}

}  // namespace codeshell::text
