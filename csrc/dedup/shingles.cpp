#include "dedup/shingles.h"

#include <algorithm>
#include <bit>

#include "dedup/hash.h"

namespace codeshell::dedup {

namespace {

// 2^64 / golden ratio. It is 5 mod 8, so A^d - 1 has few factors of two and a shingle with two tokens swapped differs
// in its upper 60 bits at least (for d <= 4).
constexpr uint64_t A = 0x9E3779B97F4A7C15u;

// Sorts hashes three times as fast as std::sort: one scatter by the highest bits into buckets of about four, which are
// then sorted alone. std::sort there, too, once a value that repeats has made a bucket long.
void sort_hashes(std::vector<uint64_t>& values, std::vector<uint64_t>& spare, std::vector<uint32_t>& bounds) {
  if (values.size() < 64 || values.size() > UINT32_MAX) {
    std::sort(values.begin(), values.end());
    return;
  }
  const int shift = 64 - (static_cast<int>(std::bit_width(values.size())) - 2);
  const size_t buckets = size_t{1} << (64 - shift);
  bounds.assign(buckets + 1, 0);
  for (const uint64_t value : values) ++bounds[(value >> shift) + 1];
  for (size_t b = 0; b < buckets; ++b) bounds[b + 1] += bounds[b];
  spare.resize(values.size());
  for (const uint64_t value : values) spare[bounds[value >> shift]++] = value;  // bounds[b] becomes the end of b
  values.swap(spare);
  for (size_t b = 0, first = 0; b < buckets; first = bounds[b++]) {
    uint64_t* const begin = values.data() + first;
    uint64_t* const end = values.data() + bounds[b];
    if (end - begin > 24) {
      std::sort(begin, end);
      continue;
    }
    for (uint64_t* at = begin + 1; at < end; ++at) {
      const uint64_t value = *at;
      uint64_t* to = at;
      for (; to > begin && to[-1] > value; --to) *to = to[-1];
      *to = value;
    }
  }
}

}  // namespace

void make_shingles(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch) {
  hash_tokens(text, level, scratch);
  const std::vector<uint64_t>& tokens = scratch.tokens;
  scratch.shingles.clear();
  if (tokens.empty()) return;
  const size_t first = std::min<size_t>(ngram, tokens.size());
  uint64_t sum = 0;
  for (size_t i = 0; i < first; ++i) sum = sum * A + tokens[i];
  uint64_t leaving = 1;  // A^ngram: the factor of the token that leaves
  for (size_t i = 0; i < first; ++i) leaving *= A;
  scratch.shingles.resize(tokens.size() - first + 1);
  uint64_t* out = scratch.shingles.data();
  *out++ = mix64(sum);
  for (size_t i = first; i < tokens.size(); ++i) {
    sum = sum * A + (tokens[i] - tokens[i - first] * leaving);
    *out++ = mix64(sum);
  }
}

void make_shingle_set(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch) {
  make_shingles(text, ngram, level, scratch);
  std::vector<uint64_t>& set = scratch.shingles;
  sort_hashes(set, scratch.spare, scratch.bounds);
  set.erase(std::unique(set.begin(), set.end()), set.end());
}

size_t intersection(const uint64_t* a, size_t a_size, const uint64_t* b, size_t b_size, size_t needed) {
  constexpr size_t stride = 64;  // merge steps between two looks at what is still possible
  size_t i = 0, j = 0, shared = 0;
  while (i < a_size && j < b_size) {
    if (shared + std::min(a_size - i, b_size - j) < needed) return shared;
    for (size_t steps = 0; steps < stride && i < a_size && j < b_size; ++steps) {
      const uint64_t x = a[i], y = b[j];
      shared += x == y;  // no branch on hash values: none would be predictable
      i += x <= y;
      j += y <= x;
    }
  }
  return shared;
}

}  // namespace codeshell::dedup
