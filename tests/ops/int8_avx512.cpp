// The AVX-512 kernel of int8_cpu.inc on a processor without AVX-512: plain C in the place of its instructions, compared
// with sums that are written out. tests/ops/test_int8.py compiles and runs it.
#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "int8/int8_cpu.h"

// A register of 64 bytes, and what each instruction does with it, by Intel's description.
struct Register {
  std::int32_t lanes[16];
};

static Register zero() { return {}; }

static Register add(Register a, Register b) {
  for (int i = 0; i < 16; ++i) a.lanes[i] += b.lanes[i];
  return a;
}

static Register load(const void* p) {
  Register r;
  std::memcpy(&r, p, 64);
  return r;
}

static Register widen(__m256i bytes) {
  std::int8_t from[32];
  std::int16_t to[32];
  std::memcpy(from, &bytes, 32);
  for (int i = 0; i < 32; ++i) to[i] = from[i];
  return load(to);
}

static Register multiply_pairs(Register a, Register b) {
  std::int16_t left[32], right[32];
  std::memcpy(left, &a, 64);
  std::memcpy(right, &b, 64);
  for (int i = 0; i < 16; ++i) a.lanes[i] = left[2 * i] * right[2 * i] + left[2 * i + 1] * right[2 * i + 1];
  return a;
}

static __m256i half(Register a, int which) {
  __m256i v;
  std::memcpy(&v, a.lanes + 8 * which, 32);
  return v;
}

#define __m512i Register
#define _mm512_setzero_si512 zero
#define _mm512_add_epi32 add
#define _mm512_loadu_si512 load
#define _mm512_cvtepi8_epi16 widen
#define _mm512_madd_epi16 multiply_pairs
#define _mm512_castsi512_si256(v) half(v, 0)
#define _mm512_extracti64x4_epi64(v, which) half(v, which)

#define CODESHELL_INLINE static inline
#define CODESHELL_LANES 16
namespace codeshell {
#include "int8/int8_cpu.inc"
}

int main() {
  using namespace codeshell;
  std::uint32_t state = 1;
  const auto next = [&state] { return state = state * 1664525u + 1013904223u, state >> 8; };
  for (const long columns : {32L, 480L, 512L, 544L, 1600L})
    for (long tokens = 1; tokens <= int8::kTokens; ++tokens) {
      const long panels = 3, blocks = (columns + int8::kBlock - 1) / int8::kBlock;
      std::vector<std::int8_t> weights(panels * 4 * columns);
      std::vector<std::int16_t> x(tokens * columns);
      // The extremes are frequent.
      for (auto& w : weights) w = next() % 3 ? static_cast<std::int8_t>(next() % 255 - 127) : 127;
      for (auto& v : x) v = next() % 3 ? static_cast<std::int16_t>(next() % 65535 - 32767) : -32767;
      std::vector<std::int32_t> sums(panels * blocks * tokens * 4, -1);
      int8_multiply(weights.data(), panels, x.data(), tokens, columns, sums.data());
      for (long p = 0; p < panels; ++p)
        for (long b = 0; b < blocks; ++b)
          for (long t = 0; t < tokens; ++t)
            for (long j = 0; j < 4; ++j) {
              std::int64_t sum = 0;
              for (long c = b * int8::kBlock; c < columns && c < (b + 1) * int8::kBlock; ++c)
                sum +=
                    std::int64_t{
                        weights[p * 4 * columns + (c / int8::kChunk * 4 + j) * int8::kChunk + c % int8::kChunk]} *
                    x[t * columns + c];
              if (sums[((p * blocks + b) * tokens + t) * 4 + j] != sum) {
                std::printf("columns %ld, tokens %ld: panel %ld, block %ld, token %ld, row %ld\n", columns, tokens, p,
                            b, t, j);
                return 1;
              }
            }
    }
  std::puts("same");
}
