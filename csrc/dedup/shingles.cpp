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

// 2^64 / golden ratio. It is 5 mod 8, so A^d - 1 has few factors of two. So two shingles that differ by a swap of two
// tokens at a distance d <= 4 differ in their upper 60 bits at least.
constexpr uint64_t A = 0x9E3779B97F4A7C15u;

// Sorts hashes three times as fast as std::sort. One scatter by the highest bits makes buckets of about four values,
// each of which is then sorted by insertion. A value that repeats makes a bucket long; std::sort takes such a bucket.
void sort_hashes(std::vector<uint64_t>& values, std::vector<uint64_t>& spare, std::vector<uint32_t>& bounds) {
  if (values.size() < 64 || values.size() > UINT32_MAX) {
    std::sort(values.begin(), values.end());
    return;
  }
  // A quarter to a half as many buckets as values, a power of two.
  const int shift = 64 - (static_cast<int>(std::bit_width(values.size())) - 2);
  const size_t buckets = size_t{1} << (64 - shift);
  // Count, prefix sums, scatter.
  bounds.assign(buckets + 1, 0);
  for (const uint64_t value : values) ++bounds[(value >> shift) + 1];
  for (size_t b = 0; b < buckets; ++b) bounds[b + 1] += bounds[b];
  spare.resize(values.size());
  for (const uint64_t value : values) spare[bounds[value >> shift]++] = value;  // bounds[b] becomes the end of b
  values.swap(spare);
  // Sort each bucket where it lies; bounds[b] is now its end.
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

// Eight shingles at a time, by Horner's rule on eight overlapping windows of tokens. The last vector also computes
// rubbish from whatever lies after the tokens; the buffers have room for it, and nobody reads it.
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

// Horner's rule over the tokens of one shingle.
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
  if (tokenizer_.done()) {  // the text has fewer than ngram tokens, which make one shingle
    some_ = true;
    *shingles = mix64(polynomial(tokens_.data() + first_, end_ - first_));
    return 1;
  }
  // Make room for the tokens of one chunk: move those that still wait for more (fewer than ngram) to the front, and
  // grow the buffer if ngram is large.
  if (end_ + Tokenizer::max_tokens > tokens_.size()) {
    std::copy(tokens_.begin() + static_cast<ptrdiff_t>(first_), tokens_.begin() + static_cast<ptrdiff_t>(end_),
              tokens_.begin());
    end_ -= first_;
    first_ = 0;
    if (2 * end_ + Tokenizer::max_tokens > tokens_.size()) tokens_.resize(4 * end_ + Tokenizer::max_tokens);
  }
  // With m tokens waiting there are m - ngram + 1 shingles; the last ngram - 1 tokens wait for the next chunk.
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

// Rolls: sum' = sum * A + token * A - leaving token * A^ngram. From one shingle to the next it takes one multiplication
// and one addition, a chain of four cycles; everything else is computed beside it.
void ShingleStream::roll(const uint64_t* tokens, size_t count, uint64_t* shingles) {
  // The first shingle: the sum of its first n - 1 tokens, and A^n for the token that leaves.
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
  // The stream writes at most max_shingles at a time, so there is always room for so many.
  size_t count = 0;
  for (ShingleStream stream(text, shingling.ngram, level, scratch); !stream.done();) {
    if (count + ShingleStream::max_shingles > shingles.size()) {
      shingles.resize(2 * count + ShingleStream::max_shingles);
    }
    count += stream.next(shingles.data() + count);
  }
  shingles.resize(count);
}

// A set is the sorted list without repetitions.
void make_shingle_set(std::string_view text, const Shingling& shingling, simd::Level level, Scratch& scratch) {
  make_shingles(text, shingling, level, scratch);
  std::vector<uint64_t>& set = scratch.shingles;
  sort_hashes(set, scratch.spare, scratch.bounds);
  set.erase(std::unique(set.begin(), set.end()), set.end());
}

}  // namespace codeshell::dedup
