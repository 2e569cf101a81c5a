// The 64-bit key of an n-gram, by which it is found in the table of its order.
//
// A key grows leftwards from the last word, so the key of an n-gram comes from that of its suffix by one step. The step
// is the one of KenLM's binary files (a fact of that format), so their tables, which hold keys and no words, can be read
// into ours. KenLM's low bits are weak; `spread` mixes them, and is a bijection, so no two keys become one by it.
#pragma once

#include <cstdint>

namespace codeshell::ngram {

inline uint64_t first_key(uint32_t word) { return word; }

inline uint64_t longer_key(uint64_t suffix, uint32_t word) {
  return suffix * 8978948897894561157ULL ^ (1 + static_cast<uint64_t>(word)) * 17894857484156487943ULL;
}

// The high bits of the result choose a slot, the low bits are the check that the slot holds.
inline uint64_t spread(uint64_t key) {
  key ^= key >> 32;
  key *= 0x9E3779B97F4A7C15ULL;
  return key ^ key >> 29;
}

// The slot in [0, slots) at which a key's search begins. It rises with the key.
inline uint64_t home_slot(uint64_t spread_key, uint64_t slots) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(spread_key) * slots >> 64);
}

// Never 0, which marks an empty slot.
inline uint32_t check_of(uint64_t spread_key, uint32_t mask) {
  const uint32_t check = static_cast<uint32_t>(spread_key) & mask;
  return check ? check : 1;
}

}  // namespace codeshell::ngram
