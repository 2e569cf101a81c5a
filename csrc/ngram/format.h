// The layout of a model file. All numbers are little-endian; each part begins at a multiple of 64 bytes.
//
//   header          this struct, with a checksum of itself at its end
//   unigrams        by id. Plain: prob float, backoff float. Quantised: prob code byte, backoff code byte
//   tables          one per order from 2: slots of a hash table with linear probing, in the order of the keys
//     plain           check uint32, prob float, backoff float; the highest order has no backoff
//     quantised       check uint16, prob code byte, backoff code byte; the highest order has no backoff
//   words           per order from 2, only where they are kept: the words of each entry in the table's order, packed
//                   into as few bits as the largest id needs
//   codebooks       quantised files only: per order 256 floats for probabilities and 256 for backoffs
//   units, metadata what makes ids of a text (csrc/ngram/units.h), and JSON for people
//
// Probabilities and backoffs are base-10 logarithms, as in an ARPA file. A table is filled in the order of its keys:
// an entry lies in its home slot or in the first free one after it. So the bytes do not depend on the order in which
// n-grams were added, and a search that meets an empty slot is over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace codeshell::ngram {

inline constexpr uint32_t max_order = 8;
inline constexpr char magic[17] = "codeshell n-gram";
inline constexpr uint32_t format_version = 1;
inline constexpr uint64_t alignment = 64;
inline constexpr size_t codes = 256;

enum Flags : uint32_t {
  quantised = 1,
  // The suffix of every n-gram is in the model too, so a search may stop at the first order that has no entry.
  suffix_closed = 2,
  keeps_words = 4,
};
inline constexpr uint32_t known_flags = 7;

struct Part {
  uint64_t offset;
  uint64_t bytes;
};

struct Table {
  uint64_t entries;
  uint64_t slots;      // homes; the table itself is longer where its last entries did not fit
  uint64_t all_slots;  // with those at the end
  uint64_t longest;    // the largest distance between an entry and its home
  Part part;           // of the unigrams for order 1
  Part words;
};

struct Header {
  char magic[16];
  uint32_t version;
  uint32_t order;
  uint64_t file_bytes;
  uint32_t flags;
  uint32_t vocabulary;  // ids are below it
  uint32_t begin, end;  // ids of <s> and </s>
  Part units;
  Part metadata;
  Part codebooks;
  Table tables[max_order];
  uint64_t checksum;  // of all bytes before
};
static_assert(sizeof(Header) == 16 + 8 + 8 + 16 + 3 * 16 + max_order * 64 + 8);

// FNV-1a by words of eight bytes: it finds accidents, not attacks.
inline uint64_t header_checksum(const Header& header) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (size_t i = 0; i < offsetof(Header, checksum); i += 8) {
    uint64_t word;
    std::memcpy(&word, reinterpret_cast<const char*>(&header) + i, 8);
    hash = (hash ^ word) * 0x100000001B3ULL;
    hash ^= hash >> 32;
  }
  return hash;
}

inline constexpr size_t entry_bytes(bool is_quantised, bool highest) {
  return is_quantised ? (highest ? 3 : 4) : (highest ? 8 : 12);
}
inline constexpr size_t unigram_bytes(bool is_quantised) { return is_quantised ? 2 : 8; }
inline constexpr uint32_t check_mask(bool is_quantised) { return is_quantised ? 0xFFFF : 0xFFFFFFFF; }

// Bits of a word in the part `words`.
inline uint32_t word_bits(uint32_t vocabulary) {
  uint32_t bits = 1;
  while (bits < 32 && (vocabulary - 1) >> bits) ++bits;
  return bits;
}
inline uint64_t packed_bytes(uint64_t entries, uint32_t order, uint32_t vocabulary) {
  return (entries * order * word_bits(vocabulary) + 7) / 8;
}

}  // namespace codeshell::ngram
