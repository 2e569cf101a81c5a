// Where the tokens of tokens.h begin and end: the part of tokenization that looks at every byte.
//
// 64 bytes become a bit mask of [A-Za-z0-9_] and a bit mask of bytes above 127. The bits where a run begins or ends
// become positions. Characters that are not ASCII are decoded one by one, and only in blocks that have some.
//
//   text     i f ( x 1 = =   0 )
//   word     1 1 0 1 1 0 0 0 1 0     bit i: byte i is one of [A-Za-z0-9_]
//   before   0 1 1 0 1 1 0 0 0 1     word shifted by one byte: the same of byte i - 1
//   starts   1 0 0 1 0 0 0 0 1 0     word & ~before
//   ends     0 0 1 0 0 1 0 0 0 1     before & ~word; the byte after the last one of the token
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/cpu.h"

namespace codeshell::dedup {

constexpr size_t edge_block = 64;  // bytes

// What a block must know of the blocks before it. Positions are relative to the chunk that is being read.
struct EdgeState {
  uint64_t in_word = 0;     // 1: the byte before is one of [A-Za-z0-9_]
  bool unfinished = false;  // the next block must look at non-ASCII characters even if it has none
  bool in_run = false;      // the character before is a non-ASCII letter or number, whose token may continue
  uint64_t ends = 0;        // bits of the next block where a token ends that began in this one
  size_t decoded = 0;       // non-ASCII characters are decoded up to here
};

// Where positions are written. Each list ascends, and the k-th end belongs to the k-th start. Up to 64 places after the
// last position are overwritten.
struct Edges {
  uint32_t* starts;
  uint32_t* ends;
};

// Reads `blocks` whole blocks, and up to three bytes more where a character crosses the end.
using FindEdges = void (*)(const char* text, size_t blocks, EdgeState& state, Edges& edges);

// Every level finds the same positions.
FindEdges find_edges(simd::Level level);

}  // namespace codeshell::dedup
