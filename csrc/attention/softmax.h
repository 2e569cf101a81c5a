// The softmax of attention over fragments of wgmma: masks, the running maximum and sum of a row, and probabilities as
// the A operand of the next product.
//
// A thread holds parts of two rows, 8 apart, of a 64 x N tile: the columns 8 j + 2 (lane % 4) + {0, 1}. So s[4 j] and
// s[4 j + 1] are of its first row, s[4 j + 2] and s[4 j + 3] of its second, and a row's four threads are lanes of one
// quad. Scores stay unscaled: exp2(x c - m c) with c = scale log2(e) is one multiply-add and one instruction of the
// special function unit.
#pragma once

#include <cmath>
#include <type_traits>

#include "attention/forward_schedule.h"
#include "gpu/cuda.h"
#include "gpu/types.h"

namespace codeshell::attention {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr int kScores = kTileKeys / 2;  // of a thread: 64 rows x 128 keys over 128 threads
inline constexpr int kSteps = kTileKeys / 16;  // k-steps of the product with V

// 2^x by one instruction; subnormal results are flushed to 0, and 2^-inf is 0.
__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// Over the four lanes that share a row; every one of them gets the result.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// What one row sees, as columns of a tile: [begin, end).
struct Columns {
  int begin, end;
};

// Values at columns that their row does not see become `value`. first_column is the thread's first, 2 (lane % 4).
template <int N>
__device__ __forceinline__ void fill_unseen(float (&s)[N], const Columns (&seen)[2], int first_column, float value) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int column = first_column + 8 * (i / 4) + i % 2;
    const Columns& columns = seen[i / 2 % 2];
    if (column < columns.begin || column >= columns.end) s[i] = value;
  }
}

// The running maximum and sum of a thread's two rows. The maximum is the row's; the sum is of the thread's own columns
// only, until `finish` adds up the quad: that takes two shuffles per tile of output, not per block of keys.
struct Softmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  // Scores become exponentials, relative to the new maximum; earlier output has to be multiplied by `rescale`. With
  // Masked a row may have seen nothing yet: its maximum then counts as 0, so that its exponentials are 0 and not NaN.
  template <bool Masked, int N>
  __device__ __forceinline__ void update(float (&s)[N], float c, float (&rescale)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      // The row's new maximum: over the thread's columns, then over the quad.
      float m = maximum[row];
#pragma unroll
      for (int j = 0; j < N / 4; ++j) m = fmaxf(m, fmaxf(s[4 * j + 2 * row], s[4 * j + 2 * row + 1]));
      m = quad_max(m);
      const float shown = Masked && m == -INFINITY ? 0.0f : m, base = shown * c;
      // The difference first: then the factor is exactly 1 where the maximum stays. As a multiply-add of m c and the
      // rounded m c it would be off by up to 2^-24 |m c|, tile after tile to the same side.
      rescale[row] = exp2_fast((maximum[row] - shown) * c);
      maximum[row] = m;
      // Exponentials in place, and their sum.
      float total = sum[row] * rescale[row];
#pragma unroll
      for (int j = 0; j < N / 4; ++j) {
#pragma unroll
        for (int i = 4 * j + 2 * row; i < 4 * j + 2 * row + 2; ++i) {
          s[i] = exp2_fast(fmaf(s[i], c, -base));
          total += s[i];
        }
      }
      sum[row] = total;
    }
  }

  // The log-sum-exp of a row, in nats; its output has to be multiplied by `normalise`. -inf and 0 if it saw nothing.
  __device__ __forceinline__ float finish(int row, float scale, float& normalise) {
    const float total = quad_sum(sum[row]);
    normalise = total == 0.0f ? 0.0f : 1.0f / total;  // NaN stays NaN
    return total == 0.0f ? -INFINITY : maximum[row] * scale + logf(total);
  }
};

// Two values rounded to nearest even, `low` in the lower half of the register. The instruction takes the upper half
// first.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
#if defined(__CUDACC__)
  uint32_t pair;
  if constexpr (std::is_same_v<T, gpu::bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  return gpu::from_float<T>(low).bits | static_cast<uint32_t>(gpu::from_float<T>(high).bits) << 16;
#endif
}

// An accumulator as the A operand of the next product, without an exchange between threads: its columns 16 k to 16 k +
// 15 are exactly the A fragment of k-step k, whose register r holds the values 2 r and 2 r + 1. Converts k-steps
// [First, End).
template <class T, int First, int End, int Steps>
__device__ __forceinline__ void to_operand(const float (&s)[8 * Steps], uint32_t (&p)[Steps][4]) {
#pragma unroll
  for (int k = First; k < End; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) p[k][r] = pack_pair<T>(s[8 * k + 2 * r], s[8 * k + 2 * r + 1]);
  }
}

}  // namespace codeshell::attention
