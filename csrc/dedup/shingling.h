// The choice of shingles: ours, or exactly those of a peer. presets.h defines the peers'.
#pragma once

#include <cstdint>

namespace codeshell::dedup {

enum class Preset : uint8_t {
  code,       // `ngram` tokens of tokens.h: the default
  starcoder,  // BigCode's near-deduplication of The Stack v1, empty tokens and all
  stack_v2,   // BigCode's near-deduplication of The Stack v2
  datatrove,  // datatrove's default: five words of simplified English text
  char24,     // 24 characters: NeMo Curator's default
};

struct Shingling {
  Preset preset = Preset::code;
  uint32_t ngram = 5;  // tokens, words or characters; the presets' own lengths are 5, 5, 5 and 24
};

}  // namespace codeshell::dedup
