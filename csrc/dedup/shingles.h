// Token hashes to shingles: every n consecutive tokens as one 64-bit hash.
//
// With token hashes t_0 .. t_{m-1} of a shingle, its hash is mix64(sum of t_i * A^(m-1-i) mod 2^64), A odd: a
// polynomial, so it rolls from one shingle to the next whatever n is. A document with fewer than n tokens has one
// shingle, of all its tokens, so that short files match only when equal; a document without tokens has none.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dedup/tokens.h"

namespace codeshell::dedup {

// Puts the shingles of `text`, in order and with repetitions, into scratch.shingles.
void make_shingles(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch);

// The same as a set: distinct and ascending.
void make_shingle_set(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch);

// How many values two ascending sets of distinct values share. Returns early, with a count below `needed`, once
// `needed` is out of reach; so a result of at least `needed` is exact.
size_t intersection(const uint64_t* a, size_t a_size, const uint64_t* b, size_t b_size, size_t needed);

}  // namespace codeshell::dedup
