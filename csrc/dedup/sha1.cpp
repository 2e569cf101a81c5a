#include "dedup/sha1.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace codeshell::dedup {

namespace {

// The initial state and the constants of rounds 0-19, 20-39, 40-59 and 60-79 (FIPS 180-4).
constexpr uint32_t start[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
constexpr uint32_t round_constants[4] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};

// The digest is the state in big-endian words; its first eight bytes, read as a little-endian number.
uint64_t first_eight(const uint32_t* state) {
  return static_cast<uint64_t>(__builtin_bswap32(state[1])) << 32 | __builtin_bswap32(state[0]);
}

// One block of 64 bytes by the definition. The schedule of 80 words is kept as a ring of 16.
void compress_scalar(uint32_t* state, const uint8_t* block) {
  uint32_t w[16];
  for (int i = 0; i < 16; ++i) {
    std::memcpy(&w[i], block + 4 * i, 4);
    w[i] = __builtin_bswap32(w[i]);
  }
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
  for (int t = 0; t < 80; ++t) {
    if (t >= 16) w[t & 15] = std::rotl(w[(t + 13) & 15] ^ w[(t + 8) & 15] ^ w[(t + 2) & 15] ^ w[t & 15], 1);
    const uint32_t f = t < 20 ? (b & c) | (~b & d) : t < 40 || t >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
    const uint32_t next = std::rotl(a, 5) + f + e + round_constants[t / 20] + w[t & 15];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
}

#if defined(__x86_64__)

// The number of blocks of a string with its padding: 0x80, zeros, and the length in bits as 64 bits.
size_t block_count(size_t size) { return (size + 9 + 63) / 64; }

// One block by the SHA instructions: four rounds per sha1rnds4, whose last argument chooses the function and constant
// of the 20 rounds. m[i & 3] holds words 4i .. 4i+3 of the schedule, the first in the highest lane.
__attribute__((target("sha,sse4.1"))) void compress_sha(uint32_t* state, const uint8_t* block) {
  // Reverses all 16 bytes: big-endian words, the first in the highest lane. 0x1B reverses the four words of the state.
  const __m128i order = _mm_set_epi64x(0x0001020304050607, 0x08090A0B0C0D0E0F);
  const __m128i abcd_in = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0x1B);
  const __m128i e_in = _mm_set_epi32(static_cast<int>(state[4]), 0, 0, 0);
  __m128i m[4];
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i)), order);
  }
  // sha1nexte makes the next `e` from `a` of four rounds ago, and adds four words of the schedule to it.
  __m128i abcd = abcd_in, e = _mm_add_epi32(e_in, m[0]);
#pragma GCC unroll 20
  for (int i = 0; i < 20; ++i) {
    const __m128i before = abcd;
    if (i < 5) {
      abcd = _mm_sha1rnds4_epu32(abcd, e, 0);
    } else if (i < 10) {
      abcd = _mm_sha1rnds4_epu32(abcd, e, 1);
    } else if (i < 15) {
      abcd = _mm_sha1rnds4_epu32(abcd, e, 2);
    } else {
      abcd = _mm_sha1rnds4_epu32(abcd, e, 3);
    }
    if (i == 19) {
      e = _mm_sha1nexte_epu32(before, e_in);
      break;
    }
    if (i >= 3) {  // words 4(i + 1) .. 4(i + 1) + 3, from the four groups of words before them
      const __m128i mixed = _mm_xor_si128(_mm_sha1msg1_epu32(m[(i + 1) & 3], m[(i + 2) & 3]), m[(i + 3) & 3]);
      m[(i + 1) & 3] = _mm_sha1msg2_epu32(mixed, m[i & 3]);
    }
    e = _mm_sha1nexte_epu32(before, m[(i + 1) & 3]);
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_shuffle_epi32(_mm_add_epi32(abcd, abcd_in), 0x1B));
  state[4] = static_cast<uint32_t>(_mm_extract_epi32(e, 3));
}

// Transposes a 16 x 16 matrix of words: row i becomes column i. Four stages of 16 instructions. The unpacks interleave
// words, then pairs of words, of rows that are neighbours, within lanes of 128 bits; then two shuffles move whole
// lanes.
__attribute__((target("avx512f"))) inline void transpose(__m512i* rows) {
  // Pairs of rows: 2 x 2 blocks of words.
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  // Quadruples of rows: u[4i + k] holds, in lane l of 128 bits, column 4l + k of rows 4i .. 4i + 3.
  __m512i u[16];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    // 0x88 takes lanes 0 and 2 of both operands, 0xDD lanes 1 and 3; after two of them a row holds one column of 16
    // rows.
    const __m512i low = _mm512_shuffle_i32x4(u[i], u[4 + i], 0x88), high = _mm512_shuffle_i32x4(u[i], u[4 + i], 0xDD);
    const __m512i low2 = _mm512_shuffle_i32x4(u[8 + i], u[12 + i], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(u[8 + i], u[12 + i], 0xDD);
    rows[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(low, low2, 0xDD);
    rows[4 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
    rows[12 + i] = _mm512_shuffle_i32x4(high, high2, 0xDD);
  }
}

// The function of 20 rounds, of three bits, as one instruction: the constant is its truth table.
template <int kind>
__attribute__((target("avx512f"))) inline __m512i choose(__m512i b, __m512i c, __m512i d) {
  constexpr int truth = kind == 0 ? 0xCA : kind == 2 ? 0xE8 : 0x96;  // b ? c : d; majority; parity
  return _mm512_ternarylogic_epi32(b, c, d, truth);
}

// The five words of the state of sixteen strings.
struct LaneState {
  __m512i a, b, c, d, e;
};

// Rounds [20 * kind, 20 * kind + 20) of sixteen strings. The words of the schedule are computed where they are used, in
// a ring of 16; 0x96 is the truth table of the XOR of three.
template <int kind>
__attribute__((target("avx512f"))) inline void rounds(LaneState& s, __m512i* w) {
  const __m512i constant = _mm512_set1_epi32(static_cast<int>(round_constants[kind]));
#pragma GCC unroll 20
  for (int i = 0; i < 20; ++i) {
    const int t = 20 * kind + i;
    if (t >= 16) {
      const __m512i mixed = _mm512_xor_si512(
          _mm512_ternarylogic_epi32(w[(t + 13) & 15], w[(t + 8) & 15], w[(t + 2) & 15], 0x96), w[t & 15]);
      w[t & 15] = _mm512_rol_epi32(mixed, 1);
    }
    // The part that does not wait for the round before is summed first, which shortens the chain.
    const __m512i fixed = _mm512_add_epi32(_mm512_add_epi32(s.e, constant), w[t & 15]);
    const __m512i next =
        _mm512_add_epi32(_mm512_add_epi32(_mm512_rol_epi32(s.a, 5), choose<kind>(s.b, s.c, s.d)), fixed);
    s.e = s.d;
    s.d = s.c;
    s.c = _mm512_rol_epi32(s.b, 30);
    s.b = s.a;
    s.a = next;
  }
}

// Hashes sixteen strings that have the same number of blocks.
__attribute__((target("avx512f,avx512bw"))) void compress_lanes(const char* const* strings, const uint32_t* sizes,
                                                                size_t blocks, uint64_t* out) {
  // Reverses the bytes of each word.
  const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203));
  LaneState state{_mm512_set1_epi32(static_cast<int>(start[0])), _mm512_set1_epi32(static_cast<int>(start[1])),
                  _mm512_set1_epi32(static_cast<int>(start[2])), _mm512_set1_epi32(static_cast<int>(start[3])),
                  _mm512_set1_epi32(static_cast<int>(start[4]))};
  for (size_t block = 0; block < blocks; ++block) {
    // Load one block of each string, a string per row: whole, or the last bytes and 0x80, or (beyond both) zeros.
    __m512i w[16];
    for (int lane = 0; lane < 16; ++lane) {
      const int64_t left = static_cast<int64_t>(sizes[lane]) - static_cast<int64_t>(64 * block);
      __m512i words = _mm512_setzero_si512();
      if (left >= 64) {
        words = _mm512_loadu_si512(strings[lane] + 64 * block);
      } else if (left >= 0) {
        const __mmask64 ending = uint64_t{1} << left;
        words = _mm512_maskz_loadu_epi8(ending - 1, strings[lane] + 64 * block);  // reads nothing beyond the string
        words = _mm512_mask_mov_epi8(words, ending, _mm512_set1_epi8(static_cast<char>(0x80)));
      }
      w[lane] = _mm512_shuffle_epi8(words, swap);
    }
    // Now w[t] is word t of all sixteen. The length in bits is the last word of the last block; 32 bits of it are
    // enough here.
    transpose(w);
    if (block + 1 == blocks) w[15] = _mm512_slli_epi32(_mm512_loadu_si512(sizes), 3);
    LaneState s = state;
    rounds<0>(s, w);
    rounds<1>(s, w);
    rounds<2>(s, w);
    rounds<3>(s, w);
    state = {_mm512_add_epi32(state.a, s.a), _mm512_add_epi32(state.b, s.b), _mm512_add_epi32(state.c, s.c),
             _mm512_add_epi32(state.d, s.d), _mm512_add_epi32(state.e, s.e)};
  }
  // The first two words of each digest, as bytes in order.
  alignas(64) uint32_t a[16], b[16];
  _mm512_store_si512(a, _mm512_shuffle_epi8(state.a, swap));
  _mm512_store_si512(b, _mm512_shuffle_epi8(state.b, swap));
  for (int lane = 0; lane < 16; ++lane) out[lane] = static_cast<uint64_t>(b[lane]) << 32 | a[lane];
}

#endif

using Compress = void (*)(uint32_t*, const uint8_t*);

// One string of any length: whole blocks where they lie, then one or two blocks with the padding.
uint64_t hash_one(const char* p, size_t size, Compress compress) {
  uint32_t state[5];
  std::copy_n(start, 5, state);
  // The padding needs nine bytes: they fit in the last block if at most 55 bytes are left.
  size_t left = size;
  for (; left >= 64; left -= 64, p += 64) compress(state, reinterpret_cast<const uint8_t*>(p));
  uint8_t last[128] = {};
  std::memcpy(last, p, left);
  last[left] = 0x80;
  const size_t end = left < 56 ? 64 : 128;
  const uint64_t bits = __builtin_bswap64(uint64_t{size} << 3);
  std::memcpy(last + end - 8, &bits, 8);
  compress(state, last);
  if (end == 128) compress(state, last + 64);
  return first_eight(state);
}

#if defined(__x86_64__)
// Leaf 7, EBX bit 29 (Intel SDM, CPUID). Not every compiler's __builtin_cpu_supports knows "sha".
bool has_sha() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}
#endif

// AVX2 as a lower bound, so that a test of the scalar level gets the scalar code.
Compress choose_compress(simd::Level level) {
#if defined(__x86_64__)
  if (level >= simd::Level::avx2 && has_sha()) return compress_sha;
#else
  (void)level;
#endif
  return compress_scalar;
}

}  // namespace

Sha1::Sha1(simd::Level level) : compress_(choose_compress(level)), lanes_(level == simd::Level::avx512) {}

void Sha1::hash(const char* bytes, const int64_t* begins, const int64_t* ends, size_t count, uint64_t* out) {
  if (lanes_) return hash_lanes(bytes, begins, ends, count, out);
  for (size_t i = 0; i < count; ++i) {
    out[i] = hash_one(bytes + begins[i], static_cast<size_t>(ends[i] - begins[i]), compress_);
  }
}

// Strings wait in queues by their number of blocks until sixteen of them can be hashed together.
void Sha1::hash_lanes(const char* bytes, const int64_t* begins, const int64_t* ends, size_t count, uint64_t* out) {
#if defined(__x86_64__)
  const auto single = [&](size_t i) {
    out[i] = hash_one(bytes + begins[i], static_cast<size_t>(ends[i] - begins[i]), compress_);
  };
  // Hashes n <= 16 strings of one queue; lanes without a string repeat the first.
  const auto flush = [&](const uint32_t* which, size_t n, size_t blocks) {
    const char* strings[16];
    uint32_t sizes[16];
    uint64_t hashes[16];
    for (size_t lane = 0; lane < 16; ++lane) {
      const uint32_t i = which[lane < n ? lane : 0];
      strings[lane] = bytes + begins[i];
      sizes[lane] = static_cast<uint32_t>(ends[i] - begins[i]);
    }
    compress_lanes(strings, sizes, blocks, hashes);
    for (size_t lane = 0; lane < n; ++lane) out[which[lane]] = hashes[lane];
  };
  // A queue holds numbers of 32 bits, so very many strings are done in stretches.
  constexpr size_t stretch = size_t{1} << 31;  // numbers of strings are 32 bits
  for (size_t done = 0; done < count; done += stretch, begins += stretch, ends += stretch, out += stretch) {
    for (size_t i = 0; i < std::min(stretch, count - done); ++i) {
      const size_t blocks = block_count(static_cast<size_t>(ends[i] - begins[i]));
      // Longer strings are rare, so a queue for them would hardly fill.
      if (blocks > std::size(waiting_)) {
        single(i);
        continue;
      }
      std::vector<uint32_t>& queue = waiting_[blocks - 1];
      queue.push_back(static_cast<uint32_t>(i));
      if (queue.size() < 16) continue;
      flush(queue.data(), 16, blocks);
      queue.clear();
    }
    // Hash what is left in the queues.
    for (size_t blocks = 1; blocks <= std::size(waiting_); ++blocks) {
      std::vector<uint32_t>& queue = waiting_[blocks - 1];
      if (queue.size() > 4) {  // fewer are faster one by one
        flush(queue.data(), queue.size(), blocks);
      } else {
        for (const uint32_t i : queue) single(i);
      }
      queue.clear();
    }
  }
#else
  (void)bytes, (void)begins, (void)ends, (void)count, (void)out;
#endif
}

}  // namespace codeshell::dedup
