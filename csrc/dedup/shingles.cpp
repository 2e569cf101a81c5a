#include "dedup/shingles.h"

#include <algorithm>
#include <bit>

#include "dedup/hash.h"
#include "dedup/presets.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

#if defined(__x86_64__)

// Up to this length it costs less to sum a shingle's tokens anew, eight shingles at once, than to roll.
constexpr size_t max_wide_ngram = 16;

// Eight at a time, the last ones with whatever lies behind them.
__attribute__((target("avx512f,avx512dq"))) void sum_avx512(const uint64_t* tokens, size_t count, size_t ngram,
                                                            uint64_t* shingles) {
  const __m512i factor = _mm512_set1_epi64(static_cast<int64_t>(A));
  for (size_t i = 0; i < count; i += 8) {
    __m512i sum = _mm512_loadu_si512(tokens + i);
    for (size_t j = 1; j < ngram; ++j) {
      sum = _mm512_add_epi64(_mm512_mullo_epi64(sum, factor), _mm512_loadu_si512(tokens + i + j));
    }
    _mm512_storeu_si512(shingles + i, mix64(sum));
  }
}

#endif

uint64_t polynomial(const uint64_t* tokens, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum = sum * A + tokens[i];
  return sum;
}

}  // namespace

ShingleStream::ShingleStream(std::string_view text, uint32_t ngram, simd::Level level, Scratch& scratch)
    : tokenizer_(text, level, scratch),
      tokens_(scratch.tokens),
      ngram_(ngram),
#if defined(__x86_64__)
      wide_(level == simd::Level::avx512 && ngram <= max_wide_ngram)
#else
      wide_(false)
#endif
{
  if (tokens_.size() < 4 * max_shingles) tokens_.resize(4 * max_shingles);
}

size_t ShingleStream::next(uint64_t* shingles) {
  if (tokenizer_.done()) {  // fewer than ngram tokens
    some_ = true;
    *shingles = mix64(polynomial(tokens_.data() + first_, end_ - first_));
    return 1;
  }
  if (end_ + Tokenizer::max_tokens > tokens_.size()) {
    std::copy(tokens_.begin() + static_cast<ptrdiff_t>(first_), tokens_.begin() + static_cast<ptrdiff_t>(end_),
              tokens_.begin());
    end_ -= first_;
    first_ = 0;
    if (2 * end_ + Tokenizer::max_tokens > tokens_.size()) tokens_.resize(4 * end_ + Tokenizer::max_tokens);
  }
  end_ += tokenizer_.next(tokens_.data() + end_);
  if (end_ - first_ < ngram_) return 0;
  const size_t count = end_ - first_ - ngram_ + 1;
  const uint64_t* const tokens = tokens_.data() + first_;
#if defined(__x86_64__)
  if (wide_) {
    sum_avx512(tokens, count, ngram_, shingles);
  } else {
    roll(tokens, count, shingles);
  }
#else
  roll(tokens, count, shingles);
#endif
  first_ += count;
  some_ = true;
  return count;
}

// What the next shingle needs of the last is one multiplication and one addition away: a chain of four cycles.
void ShingleStream::roll(const uint64_t* tokens, size_t count, uint64_t* shingles) {
  if (!some_) {
    sum_ = polynomial(tokens, ngram_ - 1) * A;
    for (size_t i = 0; i < ngram_; ++i) leaving_ *= A;
  }
  uint64_t sum = sum_;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t token = tokens[i + ngram_ - 1];
    shingles[i] = mix64(sum + token);
    sum = sum * A + (token * A - tokens[i] * leaving_);
  }
  sum_ = sum;
}

void make_shingles(std::string_view text, const Shingling& shingling, simd::Level level, Scratch& scratch) {
  scratch.trim(text.size());
  std::vector<uint64_t>& shingles = scratch.shingles;
  if (shingling.preset != Preset::code) return make_preset_shingles(text, shingling, scratch);
  size_t count = 0;
  for (ShingleStream stream(text, shingling.ngram, level, scratch); !stream.done();) {
    if (count + ShingleStream::max_shingles > shingles.size()) {
      shingles.resize(2 * count + ShingleStream::max_shingles);
    }
    count += stream.next(shingles.data() + count);
  }
  shingles.resize(count);
}

void make_shingle_set(std::string_view text, const Shingling& shingling, simd::Level level, Scratch& scratch) {
  make_shingles(text, shingling, level, scratch);
  std::vector<uint64_t>& set = scratch.shingles;
  sort_hashes(set, scratch.spare, scratch.bounds);
  set.erase(std::unique(set.begin(), set.end()), set.end());
}

}  // namespace codeshell::dedup
