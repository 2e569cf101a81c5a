// The file has three parts: the masks of 64 bytes; one split_* function per preset, from text to pieces; and the hashes
// of pieces and of characters. All split_* functions take 64 ASCII bytes at a time by their mask, and single characters
// only where a block has others.
//
// What the variables hold:
//   at, base   byte positions in the text;  written: the next position in `buffer`, where the text is changed
//   token      the number of pieces that are closed; begins[token] is set, ends[token] is not yet
#include "dedup/presets.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "dedup/datatrove.h"
#include "dedup/hash.h"
#include "text/fold.h"
#include "text/unicode_tables.h"
#include "text/utf8.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

constexpr size_t least_tokens = 5;             // of the two BigCode scripts, whatever the n-gram's length
constexpr size_t most_kept = size_t{1} << 20;  // pieces whose buffers a thread keeps for its next text
constexpr uint64_t A = 0x9E3779B97F4A7C15u;    // of shingles.h, and the hash of an empty token

// ---- the masks of 64 bytes ----
constexpr std::array<uint8_t, 256> make_separators() {
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    table[c] = !((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_');
  }
  return table;
}

constexpr std::array<uint8_t, 256> separates = make_separators();

// The masks of 64 bytes. Taking so many at a time is what makes these presets fast.
struct Block {
  uint64_t separators;  // bit i: byte i is not one of [A-Za-z0-9_]
  uint64_t high;        // bit i: byte i is 0x80 or more
};

#if defined(__x86_64__)

// SSE2, which every x86-64 processor has: four vectors of 16 bytes. There is no unsigned comparison, so x < count is
// written as min(x, count - 1) == x.
inline Block classify(const char* p) {
  const auto between = [](__m128i v, char first, char count) {
    const __m128i above = _mm_sub_epi8(v, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8(static_cast<char>(count - 1))), above);
  };
  Block block{0, 0};
  for (int i = 0; i < 4; ++i) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
    // Setting bit 5 maps A-Z onto a-z and no other byte into a-z.
    const __m128i letter = between(_mm_or_si128(v, _mm_set1_epi8(0x20)), 'a', 26);
    const __m128i other = _mm_or_si128(between(v, '0', 10), _mm_cmpeq_epi8(v, _mm_set1_epi8('_')));
    const auto word = static_cast<uint32_t>(_mm_movemask_epi8(_mm_or_si128(letter, other)));
    block.separators |= static_cast<uint64_t>(~word & 0xFFFF) << (16 * i);
    block.high |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(v))) << (16 * i);
  }
  return block;
}

#else

inline Block classify(const char* p) {
  Block block{0, 0};
  for (int i = 0; i < 64; ++i) {
    const auto byte = static_cast<uint8_t>(p[i]);
    block.separators |= static_cast<uint64_t>(separates[byte]) << i;
    block.high |= static_cast<uint64_t>(byte >> 7) << i;
  }
  return block;
}

#endif

// Room for the tokens of the next 64 bytes and one more; the arrays are cut to size when the count is known.
void make_room(size_t count, Pieces& pieces) {
  constexpr size_t most = 3 * 64 + 1;  // lower case makes at most three characters of one
  if (pieces.begins.size() >= count + most) return;
  pieces.begins.resize(count + count / 2 + most);
  pieces.ends.resize(pieces.begins.size());
}

// Cuts the arrays to the number of pieces.
void close_pieces(size_t count, Pieces& pieces) {
  pieces.begins.resize(count);
  pieces.ends.resize(count);
}

// Ends a token at each set bit, which is a separator of one byte, and begins the next token after it. `base` is the
// position of bit 0. Returns the new number of closed tokens.
inline size_t add_tokens(uint64_t separators, size_t base, size_t token, Pieces& pieces) {
  int64_t *const begins = pieces.begins.data(), *const ends = pieces.ends.data();
  for (; separators; separators &= separators - 1) {
    const auto at = static_cast<int64_t>(base + static_cast<size_t>(std::countr_zero(separators)));
    ends[token++] = at;
    begins[token] = at + 1;
  }
  return token;
}

// ---- text to pieces ----
//
// Every separator ends a token, so two separators in a row have an empty token between them, which is kept.
void split_starcoder(std::string_view text, Pieces& pieces) {
  make_room(0, pieces);
  pieces.begins[0] = 0;
  const char* const bytes = text.data();
  size_t token = 0, at = 0;
  while (at < text.size()) {
    make_room(token, pieces);
    // A whole block of ASCII.
    if (text.size() - at >= 64) {
      const Block block = classify(bytes + at);
      if (!block.high) {
        token = add_tokens(block.separators, at, token, pieces);
        at += 64;
        continue;
      }
    }
    // Else up to 64 bytes character by character. A character that is not ASCII separates as one, whatever its size.
    for (const size_t stop = std::min(text.size(), at + 64); at < stop;) {
      const auto byte = static_cast<uint8_t>(bytes[at]);
      const uint32_t size = byte < 0x80 ? 1 : text::decode(bytes + at, bytes + text.size()).size;
      if (separates[byte]) {
        pieces.ends[token++] = static_cast<int64_t>(at);
        pieces.begins[token] = static_cast<int64_t>(at + size);
      }
      at += size;
    }
  }
  pieces.ends[token] = static_cast<int64_t>(text.size());
  pieces.bytes = text;
  close_pieces(token + 1, pieces);
}

// What \w matches in a str pattern: str.isalnum() or the underscore.
bool is_word(uint32_t code) { return code == '_' || text::is_letter(code) || text::is_number(code); }

inline char lower_ascii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

// As split_starcoder, on the text in lower case, which is written to `buffer`. The compiler vectorises the loop of 64.
void split_stack_v2(std::string_view raw, Pieces& pieces) {
  const std::string_view text = text::well_formed(raw, pieces.repaired);
  pieces.buffer.resize(text.size());
  make_room(0, pieces);
  pieces.begins[0] = 0;
  const char* const bytes = text.data();
  size_t token = 0, at = 0, written = 0;
  while (at < text.size()) {
    make_room(token, pieces);
    if (text.size() - at >= 64) {
      const Block block = classify(bytes + at);
      if (!block.high) {
        char* const out = pieces.buffer.data() + written;
        for (int i = 0; i < 64; ++i) out[i] = lower_ascii(bytes[at + i]);
        token = add_tokens(block.separators, written, token, pieces);
        at += 64;
        written += 64;
        continue;
      }
    }
    for (const size_t stop = std::min(text.size(), at + 64); at < stop;) {
      const auto byte = static_cast<uint8_t>(bytes[at]);
      if (byte < 0x80) {
        pieces.buffer[written] = lower_ascii(bytes[at++]);
        if (separates[byte]) {
          pieces.ends[token++] = static_cast<int64_t>(written);
          pieces.begins[token] = static_cast<int64_t>(written + 1);
        }
        ++written;
        continue;
      }
      // A character that is not ASCII: lower it, then copy each character of the result or let it separate.
      const text::CodePoint c = text::decode(bytes + at, bytes + text.size());
      pieces.codes.clear();
      text::append_lower(c.code, text, at, at + c.size, pieces.codes);
      at += c.size;
      // Lower case can have more bytes (U+023A has 2, its lower case U+2C65 has 3) and two characters (U+0130). The
      // rest of the text must still fit after it.
      const size_t room = written + 4 * pieces.codes.size() + (text.size() - at);
      if (room > pieces.buffer.size()) pieces.buffer.resize(room + room / 8);
      // One input character may have become several: each is a part of a word, or separates.
      for (const uint32_t code : pieces.codes) {
        if (is_word(code)) {
          char encoded[4];
          const size_t size = text::encode(code, encoded);
          std::memcpy(pieces.buffer.data() + written, encoded, size);
          written += size;
        } else {
          pieces.ends[token++] = static_cast<int64_t>(written);
          pieces.begins[token] = static_cast<int64_t>(written);
        }
      }
    }
  }
  pieces.ends[token] = static_cast<int64_t>(written);
  pieces.buffer.resize(written);
  pieces.bytes = pieces.buffer;
  close_pieces(token + 1, pieces);
}

// Every byte that does not continue a character begins one, and ends the one before.
void split_characters(std::string_view raw, Pieces& pieces) {
  const std::string_view text = text::well_formed(raw, pieces.repaired);
  pieces.begins.clear();
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<uint8_t>(text[at]) & 0xC0) != 0x80) pieces.begins.push_back(static_cast<int64_t>(at));
  }
  pieces.ends.assign(pieces.begins.begin() + !pieces.begins.empty(), pieces.begins.end());
  if (!text.empty()) pieces.ends.push_back(static_cast<int64_t>(text.size()));
  pieces.bytes = text;
}

// As in edges.cpp: kana, Han and Hangul.
bool stands_alone(uint32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xAC00 && code <= 0xD7AF) || (code >= 0xF900 && code <= 0xFAFF);
}

// The tokens of tokens.h, with their places. `open` is the kind of the token that has begun and not ended.
void split_code(std::string_view text, Pieces& pieces) {
  enum class Kind : uint8_t { none, word, other, alone };
  pieces.begins.clear();
  pieces.ends.clear();
  const char *const begin = text.data(), *const end = begin + text.size();
  Kind open = Kind::none;
  for (const char* p = begin; p < end;) {
    // A whole block of ASCII: a token begins or ends at each bit where `word` changes, alternately.
    if (end - p >= 64) {
      const Block block = classify(p);
      if (!block.high) {
        if (open != Kind::none && open != Kind::word) {
          pieces.ends.push_back(p - begin);
          open = Kind::none;
        }
        // Bits where `word` differs from its predecessor; the bit before the block is whether a word is open.
        const uint64_t word = ~block.separators;
        for (uint64_t edges = word ^ (word << 1 | (open == Kind::word)); edges; edges &= edges - 1) {
          const int64_t at = p - begin + std::countr_zero(edges);
          (open == Kind::word ? pieces.ends : pieces.begins).push_back(at);
          open = open == Kind::word ? Kind::none : Kind::word;
        }
        p += 64;
        continue;
      }
    }
    // One character: a change of kind ends a token and begins another; a character that stands alone always does.
    const text::CodePoint c = text::decode(p, end);
    const Kind kind = c.code < 0x80             ? (separates[c.code] ? Kind::none : Kind::word)
                      : c.malformed             ? Kind::none
                      : stands_alone(c.code)    ? Kind::alone
                      : text::is_letter(c.code) ? Kind::other
                      : text::is_number(c.code) ? Kind::other
                                                : Kind::none;
    if (kind != open || kind == Kind::alone) {
      if (open != Kind::none) pieces.ends.push_back(p - begin);
      if (kind != Kind::none) pieces.begins.push_back(p - begin);
      open = kind;
    }
    p += c.size;
  }
  if (open != Kind::none) pieces.ends.push_back(end - begin);
  pieces.bytes = text;
}

// ---- the hashes of shingles ----
//
// The hash of a token as in tokens.h, and a constant for the empty token. `end` is the end of the bytes that may be
// read. The last word is loaded whole and masked, unless that would read past the end of the buffer.
inline uint64_t hash_piece(const char* p, size_t size, const char* end) {
  uint64_t hash = 0, w = 0;
  for (; size > 8; p += 8, size -= 8) {
    std::memcpy(&w, p, 8);
    hash = mix64(hash ^ w);
  }
  if (end - p >= 8) [[likely]] {
    std::memcpy(&w, p, 8);
    w &= size ? ~uint64_t{0} >> (64 - 8 * size) : 0;
  } else {
    w = 0;
    std::memcpy(&w, p, size);
  }
  const uint64_t mixed = mix64(hash ^ w);
  return size ? mixed : A;
}

// Hashes all tokens, then rolls over them as shingles.h defines: sum = sum * A + token - leaving token * A^span. Needs
// at least `span` pieces.
void hash_token_shingles(const Pieces& pieces, Scratch& scratch) {
  const size_t count = pieces.begins.size(), span = pieces.span;
  const char *const bytes = pieces.bytes.data(), *const end = bytes + pieces.bytes.size();
  std::vector<uint64_t>& tokens = scratch.tokens;
  if (tokens.size() < count) tokens.resize(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = hash_piece(bytes + pieces.begins[i], static_cast<size_t>(pieces.ends[i] - pieces.begins[i]), end);
  }
  // The first shingle, and A^span for the token that leaves.
  uint64_t sum = 0, leaving = 1;
  for (size_t i = 0; i < span; ++i) {
    sum = sum * A + tokens[i];
    leaving *= A;
  }
  uint64_t* out = scratch.shingles.data();
  *out++ = mix64(sum);
  for (size_t i = span; i < count; ++i) {
    sum = sum * A + (tokens[i] - tokens[i - span] * leaving);
    *out++ = mix64(sum);
  }
}

// The hash of a shingle of characters, of `size` bytes; `end` as above.
inline uint64_t hash_characters(const char* p, size_t size, const char* end) {
  uint64_t hash = size, w;
  for (; size >= 8; p += 8, size -= 8) {
    std::memcpy(&w, p, 8);
    hash = mix64(hash ^ w);
  }
  if (!size) return hash;
  w = 0;
  if (end - p >= 8) {
    std::memcpy(&w, p, 8);
    w &= ~uint64_t{0} >> (64 - 8 * size);
  } else {
    std::memcpy(&w, p, size);
  }
  return mix64(hash ^ w);
}

#if defined(__x86_64__)

// Hashes eight shingles at once, for characters of one byte and a length of whole words. A shingle's words are those of
// the next shingle shifted by one byte, so one load of 16 bytes serves all eight: it is copied to the four lanes of 128
// bits, and a byte shuffle cuts two shifted words from each. Returns how many were done: all but those near the end of
// the text.
__attribute__((target("avx512f,avx512bw,avx512dq"))) size_t hash_ascii_avx512(const char* text, size_t size,
                                                                              size_t length, uint64_t* out) {
  // Number k of `order` selects bytes k .. k + 7 of the 16.
  const __m512i first = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i order = _mm512_add_epi8(_mm512_set1_epi64(0x0706050403020100),
                                        _mm512_mullo_epi64(first, _mm512_set1_epi64(0x0101010101010101)));
  size_t i = 0;
  for (; i + length + 16 <= size; i += 8) {
    __m512i hash = _mm512_set1_epi64(static_cast<int64_t>(length));
    for (size_t at = i; at < i + length; at += 8) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + at));
      hash = mix64(_mm512_xor_si512(hash, _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), order)));
    }
    _mm512_storeu_si512(out + i, hash);
  }
  return i;
}

#endif

void hash_character_shingles(std::string_view text, size_t length, Pieces& pieces, Scratch& scratch) {
  std::vector<uint64_t>& shingles = scratch.shingles;
  const char *begin = text.data(), *end = begin + text.size();
  if (text::skip_ascii(begin, end) == end) {  // characters are bytes
    length = std::min(length, text.size());
    shingles.resize(length ? text.size() - length + 1 : 0);
    size_t i = 0;
#if defined(__x86_64__)
    if (length % 8 == 0 && simd::level() == simd::Level::avx512) {
      i = hash_ascii_avx512(begin, text.size(), length, shingles.data());
    }
#endif
    for (; i < shingles.size(); ++i) shingles[i] = hash_characters(begin + i, length, end);
    return;
  }
  // Characters of several bytes: find them first; the shingle's bytes are still consecutive.
  split_characters(text, pieces);
  begin = pieces.bytes.data();
  end = begin + pieces.bytes.size();
  length = std::min(length, pieces.begins.size());
  shingles.resize(pieces.begins.size() - length + 1);
  for (size_t i = 0; i < shingles.size(); ++i) {
    const auto size = static_cast<size_t>(pieces.ends[i + length - 1] - pieces.begins[i]);
    shingles[i] = hash_characters(begin + pieces.begins[i], size, end);
  }
}

}  // namespace

void find_pieces(std::string_view text, const Shingling& shingling, Pieces& pieces) {
  // The rules for short texts are in the table of presets.h. A span of 0 means: no shingles.
  pieces.span = shingling.ngram;
  switch (shingling.preset) {
    case Preset::starcoder:
      split_starcoder(text, pieces);
      if (pieces.begins.size() < least_tokens) pieces.span = 0;
      return;
    case Preset::stack_v2:
      split_stack_v2(text, pieces);
      pieces.span = pieces.begins.size() < least_tokens ? 0 : std::min(pieces.span, pieces.begins.size());
      return;
    case Preset::datatrove: split_datatrove(text, pieces); return;
    case Preset::char24: split_characters(text, pieces); break;
    case Preset::code: split_code(text, pieces); break;
  }
  pieces.span = std::min(pieces.span, pieces.begins.size());
}

void make_shingle_strings(std::string_view text, const Shingling& shingling, Pieces& pieces) {
  find_pieces(text, shingling, pieces);
  if (shingling.preset == Preset::char24 || !pieces.shingles()) return;
  // Copy all pieces, with a space after each, and let begins and ends point to the copies. A shingle of consecutive
  // pieces is then one stretch of bytes, so overlapping shingles need no copies of their own.
  size_t room = pieces.begins.size();
  for (size_t i = 0; i < pieces.begins.size(); ++i) room += static_cast<size_t>(pieces.ends[i] - pieces.begins[i]);
  std::string& joined = pieces.joined;
  if (joined.size() < room) joined.resize(room);
  char* const out = joined.data();
  int64_t written = 0;
  for (size_t i = 0; i < pieces.begins.size(); ++i) {
    const int64_t size = pieces.ends[i] - pieces.begins[i];
    std::memcpy(out + written, pieces.bytes.data() + pieces.begins[i], static_cast<size_t>(size));
    pieces.begins[i] = written;
    pieces.ends[i] = written += size;
    out[written++] = ' ';
  }
  pieces.bytes = {out, room - 1};
}

void make_preset_shingles(std::string_view text, const Shingling& shingling, Scratch& scratch) {
  // Kept from text to text, unless a huge one has made it large.
  thread_local Pieces pieces;
  if (shingling.preset == Preset::char24) {
    hash_character_shingles(text, shingling.ngram, pieces, scratch);
  } else {
    find_pieces(text, shingling, pieces);
    scratch.shingles.resize(pieces.shingles());
    if (!scratch.shingles.empty()) hash_token_shingles(pieces, scratch);
  }
  if (pieces.begins.capacity() > most_kept) pieces = {};
}

}  // namespace codeshell::dedup
