// Learns merges from counted words, exactly as Hugging Face's BpeTrainer does.
//
// Again and again the pair of neighbours that occurs most often becomes one token; of several, the one with the lowest
// ids. The counts of all pairs are kept up to date: a merge changes the pairs at its places alone. A heap holds the
// pairs by the counts that they had when they were pushed, and a pair whose count has fallen goes back with its new one.
// What looks odd in the code below is the library's way and decides ids: the count of a pair that was merged stays as it
// was, and a token that two merges make may bring a pair into the list a second time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bpe/model.h"

namespace codeshell::bpe {

// Words as tokens. Word i is tokens[begins[i] .. begins[i + 1]), and has occurred counts[i] times.
struct CountedWords {
  std::vector<uint32_t> tokens;
  std::vector<uint64_t> begins;
  std::vector<uint64_t> counts;
};

// Learns until there are `size` tokens or no pair occurs `least` times. `names` are the bytes of the tokens that there
// are, by id; those of the new ones are appended. A merge whose bytes are those of a token that exists makes that one.
// `stop` is asked now and then; where it says so, the merges so far are returned.
std::vector<Merge> learn(CountedWords words, std::vector<std::string>& names, size_t size, uint64_t least,
                         const std::function<bool()>& stop);

}  // namespace codeshell::bpe
