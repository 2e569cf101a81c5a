// Three passes over chunks that stay in the L1 cache:
//   1. where tokens begin and end (edges.cpp);
//   2. the first 16 bytes of each token as two words, masked to its length;
//   3. the mixing of these words.
// No pass branches on the length of a token, because lengths are not predictable. Only tokens longer than 16 bytes are
// looked at once more.
//
// A token may cross the end of a chunk. It is then "open": its start is remembered, and the chunk that ends it hashes
// it again from the text, byte by byte.
#include "dedup/tokens.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "dedup/hash.h"

namespace codeshell::dedup {

static_assert(std::endian::native == std::endian::little, "token hashes are defined on little-endian words");

namespace {

constexpr size_t chunk_size = CODESHELL_DEDUP_CHUNK;
constexpr size_t slack = 64;  // bytes after a chunk that may be read
static_assert(Tokenizer::max_tokens >= chunk_size / 3 * 2 + edge_block);

}  // namespace

struct Words {
  uint64_t first, second;  // bytes 0-7 and 8-15; zero after the end of the token
};

struct TokenBuffers {
  alignas(64) Words words[Tokenizer::max_tokens];
  alignas(64) uint32_t starts[Tokenizer::max_tokens];
  alignas(64) uint32_t ends[Tokenizer::max_tokens];
  uint32_t longer[Tokenizer::max_tokens];                  // which tokens have more than 16 bytes
  alignas(64) char last[chunk_size + slack + edge_block];  // a text's last chunk, with zeros after it
};

namespace {

// The masks that keep the bytes of a token of 0-16 bytes in its two words.
constexpr std::array<Words, 17> kept_bytes = [] {
  std::array<Words, 17> masks{};
  for (size_t i = 1; i <= 16; ++i) {
    masks[i].first = ~uint64_t{0} >> (64 - 8 * std::min<size_t>(i, 8));
    masks[i].second = i > 8 ? ~uint64_t{0} >> (64 - 8 * (i - 8)) : 0;
  }
  return masks;
}();

// The hash of a token of any size, by its definition (tokens.h); nothing after it is read.
uint64_t hash_token(const char* token, size_t size) {
  uint64_t hash = 0;
  for (; size; token += std::min<size_t>(size, 8), size -= std::min<size_t>(size, 8)) {
    uint64_t word = 0;
    std::memcpy(&word, token, std::min<size_t>(size, 8));
    hash = mix64(hash ^ word);
  }
  return hash;
}

// Loads and masks the words of tokens. Returns how many tokens it put into buffers.longer: every index is written
// there, and the count advances only for those of more than 16 bytes.
size_t load_words(const char* text, size_t count, TokenBuffers& buffers) {
  size_t longer = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t size = buffers.ends[i] - buffers.starts[i];
    const Words mask = kept_bytes[std::min(size, 16u)];
    Words words;
    std::memcpy(&words, text + buffers.starts[i], sizeof(words));
    buffers.words[i] = {words.first & mask.first, words.second & mask.second};
    buffers.longer[longer] = static_cast<uint32_t>(i);
    longer += size > 16;
  }
  return longer;
}

// No token holds a zero byte, so a second word that is zero is none. `has_second` is all ones or all zeros: it selects
// between one and two rounds of mixing without a branch.
void mix_words(const Words* words, size_t count, uint64_t* hashes) {
  for (size_t i = 0; i < count; ++i) {
    const uint64_t once = mix64(words[i].first), twice = mix64(once ^ words[i].second);
    const uint64_t has_second = ~uint64_t{0} * (words[i].second != 0);
    hashes[i] = once ^ ((once ^ twice) & has_second);
  }
}

#if defined(__x86_64__)

// Four tokens at a time, and below eight; the last vector also mixes whatever lies after the last token. The words lie
// as first, second, first, second ...; the unpack instructions separate them, but within halves of 128 bits, so the
// tokens come out in another order, which the final permutation puts right.
__attribute__((target("avx2"))) void mix_words_avx2(const Words* words, size_t count, uint64_t* hashes) {
  for (size_t i = 0; i < count; i += 4) {
    const __m256i a = _mm256_load_si256(reinterpret_cast<const __m256i*>(words + i));
    const __m256i b = _mm256_load_si256(reinterpret_cast<const __m256i*>(words + i + 2));
    const __m256i first = _mm256_unpacklo_epi64(a, b), second = _mm256_unpackhi_epi64(a, b);  // of tokens 0 2 1 3
    const __m256i once = mix64(first), twice = mix64(_mm256_xor_si256(once, second));
    const __m256i hash = _mm256_blendv_epi8(twice, once, _mm256_cmpeq_epi64(second, _mm256_setzero_si256()));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(hashes + i), _mm256_permute4x64_epi64(hash, 0b11'01'10'00));
  }
}

__attribute__((target("avx512f,avx512dq"))) void mix_words_avx512(const Words* words, size_t count, uint64_t* hashes) {
  const __m512i in_order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  for (size_t i = 0; i < count; i += 8) {
    const __m512i a = _mm512_load_si512(words + i), b = _mm512_load_si512(words + i + 4);
    const __m512i first = _mm512_unpacklo_epi64(a, b), second = _mm512_unpackhi_epi64(a, b);  // tokens 0 4 1 5 2 6 3 7
    const __m512i once = mix64(first), twice = mix64(_mm512_xor_si512(once, second));
    const __m512i hash = _mm512_mask_mov_epi64(once, _mm512_test_epi64_mask(second, second), twice);
    _mm512_storeu_si512(hashes + i, _mm512_permutexvar_epi64(in_order, hash));
  }
}

#endif

auto choose_mix(simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return mix_words_avx512;
  if (level == simd::Level::avx2) return mix_words_avx2;
#else
  (void)level;
#endif
  return mix_words;
}

// Continues the hash of a token after its first 16 bytes. Up to seven bytes after the token are read.
uint64_t hash_rest(uint64_t hash, const char* at, size_t size) {
  uint64_t word;
  for (; size > 8; at += 8, size -= 8) {
    std::memcpy(&word, at, 8);
    hash = mix64(hash ^ word);
  }
  std::memcpy(&word, at, 8);
  return mix64(hash ^ (word & kept_bytes[size].first));
}

}  // namespace

Scratch::Scratch() : chunk(std::make_unique_for_overwrite<TokenBuffers>()) {}

Scratch::~Scratch() = default;

void Scratch::trim(size_t size) {
  // Only large buffers count, and only if they are 16 times as large as the next text.
  constexpr size_t large = 1 << 20, times = 16;
  const size_t capacity = std::max({tokens.capacity(), shingles.capacity(), spare.capacity(), bounds.capacity()});
  if (capacity < large || capacity / times < size) return;
  for (auto* values : {&tokens, &shingles, &spare}) std::vector<uint64_t>().swap(*values);
  std::vector<uint32_t>().swap(bounds);
}

Tokenizer::Tokenizer(std::string_view text, simd::Level level, Scratch& scratch)
    : at_(text.data()),
      end_(text.data() + text.size()),
      buffers_(*scratch.chunk),
      find_edges_(find_edges(level)),
      mix_words_(choose_mix(level)) {}

size_t Tokenizer::next(uint64_t* hashes) {
  // Whole chunks are read where they lie. The last one is copied, so that zeros can follow it.
  const char* text = at_;
  size_t size = static_cast<size_t>(end_ - at_), blocks = chunk_size / edge_block;
  if (size >= chunk_size + slack) {
    size = chunk_size;
  } else {  // at least one zero byte after it ends every token
    blocks = size / edge_block + 1;
    std::memcpy(buffers_.last, at_, size);
    std::memset(buffers_.last + size, 0, blocks * edge_block - size + slack);
    text = buffers_.last;
  }

  // Pass 1. An open token has no start in this chunk; place 0 stands for it, so that starts and ends still pair up.
  buffers_.starts[0] = 0;
  Edges edges{buffers_.starts + (open_ ? 1 : 0), buffers_.ends};
  find_edges_(text, blocks, state_, edges);
  const size_t begun = static_cast<size_t>(edges.starts - buffers_.starts);
  const size_t count = static_cast<size_t>(edges.ends - buffers_.ends);

  // Passes 2 and 3, then the rest of long tokens.
  const size_t longer = load_words(text, count, buffers_);
  mix_words_(buffers_.words, count, hashes);
  // Tokens over 16 bytes: their first two words are mixed already.
  for (size_t k = 0; k < longer; ++k) {
    const uint32_t i = buffers_.longer[k], start = buffers_.starts[i];
    hashes[i] = hash_rest(hashes[i], text + start + 16, buffers_.ends[i] - start - 16);
  }
  // The open token ended here: its hash replaces that of the part in this chunk. One more start than ends means that a
  // token is open at the end of the chunk.
  if (open_ && count) {
    hashes[0] = hash_token(open_, static_cast<size_t>(at_ + buffers_.ends[0] - open_));
    open_ = nullptr;
  }
  if (!open_ && begun > count) open_ = at_ + buffers_.starts[count];

  // Positions are relative to the chunk, so what is decoded beyond its end counts from the next one's beginning.
  state_.decoded = state_.decoded > size ? state_.decoded - size : 0;
  at_ += size;
  return count;
}

}  // namespace codeshell::dedup
