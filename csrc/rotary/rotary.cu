// Rotary embedding on the GPU; a memory-bound kernel, so its floor is its bytes: q and k of 16k tokens, 32 + 8 heads of
// 128 in bf16, in place, are 336 MB, 78 us at the 4.3 TB/s that a copy reaches on an H200. Measured: not run on a GPU.
//
// A thread holds two packs of 16 bytes of each head, the two partners of its pairs, for kHeads heads of one token. So
// it has 2 kHeads loads in flight and reads its cosines and sines once:
//
//   head of 128, bf16, half-split:  lane 0 has dimensions 0-7 and 64-71, lane 1 has 8-15 and 72-79, …, 8 lanes per head
//   interleaved:                    lane 0 has dimensions 0-15, lane 1 has 16-31, …
//   partial:                        lanes past the pairs that turn carry two neighbouring packs that do not
//
// The threads of a grid are numbered token by token, then by groups of kHeads heads, then by lane; blocks do not align
// with tokens, so any number of heads fills them. The data's loads are issued before the position is read, on which the
// cosines' address depends. Every byte of q, k and v is touched once and streams past the caches, which keep the
// tables.
//
// The backward pass of the projection sums its bias's gradient on the way: a block walks a chunk of tokens, a thread
// keeps the sums of its columns in registers, and a second, small kernel adds the chunks up in order.
//
// Heads or tables that are not 16-byte aligned, or whose pairs do not fill packs, take the same code with packs of one
// element.

#include "gpu/cuda.h"
//
#include "gpu/launch.h"
#include "gpu/types.h"
#include "gpu/vector.h"
#include "rotary/rotary.h"

namespace codeshell::rotary {
namespace {

#define ROTARY_INLINE __host__ __device__ __forceinline__
#include "rotary/rotary_math.h"

constexpr int kThreads = 256;
constexpr int kHeads = 2;   // of one thread, without the sums
constexpr int kTokens = 2;  // of one thread at a time, with the sums

// Where a lane's two packs start in a head, and whether they turn. A second pack past the end of the head does not
// exist.
struct Lane {
  int first, second;
  int pair;  // of the first element
  bool turns, has_second;
};

// Lanes [0, pairs / N) turn N pairs each; the lanes after them carry 2 N columns each that do not turn.
template <int N>
__device__ __forceinline__ Lane lane_of(const Arguments& a, int lane) {
  const int pairs = static_cast<int>(a.pairs), dim = static_cast<int>(a.dim), turning = pairs / N;
  if (lane < turning) {
    const int pair = lane * N;
    return a.interleaved ? Lane{2 * pair, 2 * pair + N, pair, true, true} : Lane{pair, pair + pairs, pair, true, true};
  }
  const int first = 2 * pairs + (lane - turning) * 2 * N;
  return {first, first + N, 0, false, first + N < dim};
}

// The number of lanes of a head: those that turn, and those that only carry, which are needed unless the call is in
// place.
template <int N>
int lanes_of(const Arguments& a, bool carries) {
  const int rest = static_cast<int>(a.dim - 2 * a.pairs);
  return static_cast<int>(a.pairs) / N + (carries ? (rest + 2 * N - 1) / (2 * N) : 0);
}

// One of the heads of all parts, numbered through: the part, and the head in it.
struct Place {
  const Heads* part;
  int head;
};

__device__ __forceinline__ Place place_of(const Arguments& a, int head) {
  int part = 0;
  if (head >= a.parts[0].count) head -= static_cast<int>(a.parts[0].count), part = 1;
  if (part == 1 && head >= a.parts[1].count) head -= static_cast<int>(a.parts[1].count), part = 2;
  return {&a.parts[part], head};
}

// Where token t of batch b has this head, in the input and in the output.
template <class T>
__device__ __forceinline__ const T* source_of(const Place& place, int64_t b, int64_t t) {
  const Heads& part = *place.part;
  return static_cast<const T*>(part.from) + b * part.from_batch + t * part.from_token + place.head * part.from_head;
}

template <class T>
__device__ __forceinline__ T* target_of(const Place& place, int64_t b, int64_t t) {
  const Heads& part = *place.part;
  return static_cast<T*>(part.to) + b * part.to_batch + t * part.to_token + place.head * part.to_head;
}

// N values that many threads read, as floats: cosines, sines or the bias. At most 16 bytes per load.
template <class T, int N>
__device__ __forceinline__ void read_as_floats(const T* from, float (&to)[N]) {
  constexpr int kWidth = N < gpu::kPackWidth<T> ? N : gpu::kPackWidth<T>;
#pragma unroll
  for (int i = 0; i < N; i += kWidth) {
    const gpu::Pack<T, kWidth> pack = gpu::load_readonly<kWidth>(from + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) to[i + j] = gpu::to_float(pack[j]);
  }
}

// The same for a type that is known at run time only.
template <int N>
__device__ __forceinline__ void read_as_floats(const void* from, Type type, int64_t at, float (&to)[N]) {
  if (type == Type::fp32)
    read_as_floats(static_cast<const float*>(from) + at, to);
  else if (type == Type::bf16)
    read_as_floats(static_cast<const gpu::bf16*>(from) + at, to);
  else
    read_as_floats(static_cast<const gpu::fp16*>(from) + at, to);
}

// Cosines or sines of N neighbouring pairs.
template <int N>
__device__ __forceinline__ void read_angles(const Arguments& a, const Table& table, int64_t b, int64_t row, int pair,
                                            float (&to)[N]) {
  const int64_t at = b * table.batch_stride + row * table.row_stride + pair * a.table_step;
  if (a.table_step == 1) return read_as_floats(table.data, a.table_type, at, to);
  // Doubled tables of interleaved pairs hold each angle twice: read both, use one.
  float both[2 * N];
  read_as_floats(table.data, a.table_type, at, both);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = both[2 * i];
}

// Cosines and sines of N pairs.
template <int N>
struct Angles {
  float c[N], s[N];
};

// The angles of a token for a lane's pairs; zeros for lanes that do not turn.
template <int N>
__device__ __forceinline__ Angles<N> angles_of(const Arguments& a, int64_t b, int64_t t, const Lane& lane) {
  Angles<N> angles = {};
  if (!lane.turns) return angles;
  const int64_t row = row_of(a, b, t);
  if (row < 0) {
    // A row outside the tables: NaN.
#pragma unroll
    for (int i = 0; i < N; ++i) angles.c[i] = angles.s[i] = __int_as_float(0x7fffffff);
    return angles;
  }
  read_angles(a, a.cos, b, row, lane.pair, angles.c);
  read_angles(a, a.sin, b, row, lane.pair, angles.s);
  // The gradient turns back: the angle with the other sign.
  if (a.conjugate) {
#pragma unroll
    for (int i = 0; i < N; ++i) angles.s[i] = -angles.s[i];
  }
  return angles;
}

// Two packs as floats.
template <int N>
struct Values {
  float first[N], second[N];
};

// To fp32, in which all arithmetic is done.
template <class T, int N>
__device__ __forceinline__ Values<N> widen(const gpu::Pack<T, N>& first, const gpu::Pack<T, N>& second) {
  Values<N> values;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    values.first[i] = gpu::to_float(first[i]);
    values.second[i] = gpu::to_float(second[i]);
  }
  return values;
}

// Turns all pairs of a lane. Half-split, the partners are in the two packs; interleaved, they are neighbours in one
// pack.
template <int N>
__device__ __forceinline__ void turn_all(Values<N>& v, const Angles<N>& angles, bool interleaved) {
  if (!interleaved) {
#pragma unroll
    for (int i = 0; i < N; ++i) turn(v.first[i], v.second[i], angles.c[i], angles.s[i]);
    return;
  }
  if constexpr (N == 1) {
    turn(v.first[0], v.second[0], angles.c[0], angles.s[0]);
  } else {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      turn(v.first[2 * i], v.first[2 * i + 1], angles.c[i], angles.s[i]);
      turn(v.second[2 * i], v.second[2 * i + 1], angles.c[N / 2 + i], angles.s[N / 2 + i]);
    }
  }
}

// Rounds and stores a lane's two packs.
template <class T, int N>
__device__ __forceinline__ void write(T* target, const Lane& lane, const Values<N>& v) {
  gpu::Pack<T, N> first, second;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    first[i] = gpu::from_float<T>(v.first[i]);
    second[i] = gpu::from_float<T>(v.second[i]);
  }
  gpu::store_streaming(target + lane.first, first);
  if (lane.has_second) gpu::store_streaming(target + lane.second, second);
}

// kHeads heads of one token per thread. lanes: of a head; groups: of kHeads heads, per token.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) rotate(const __grid_constant__ Arguments a, int lanes, int groups) {
  // Thread number = (token * groups + group) * lanes + lane.
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t unit = thread / lanes, token = unit / groups;
  if (token >= a.batch * a.seq) return;
  const Lane lane = lane_of<N>(a, static_cast<int>(thread - unit * lanes));
  const int head = static_cast<int>(unit - token * groups) * kHeads, heads = static_cast<int>(a.heads);
  const int64_t b = token / a.seq, t = token - b * a.seq;

  // All loads of the data.
  gpu::Pack<T, N> first[kHeads], second[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    if (head + i >= heads) break;
    const T* source = source_of<T>(place_of(a, head + i), b, t);
    first[i] = gpu::load_streaming<N>(source + lane.first);
    if (lane.has_second) second[i] = gpu::load_streaming<N>(source + lane.second);
  }
  // Then position and angles, once for all heads of the thread.
  const Angles<N> angles = angles_of<N>(a, b, t, lane);
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    if (head + i >= heads) break;
    const Place place = place_of(a, head + i);
    // Add the bias, turn, store.
    Values<N> v = widen(first[i], second[i]);
    if (a.bias) {
      float bias[N];
      const int64_t column = (head + i) * a.dim;
      read_as_floats(a.bias, a.bias_type, column + lane.first, bias);
#pragma unroll
      for (int j = 0; j < N; ++j) v.first[j] += bias[j];
      if (lane.has_second) {
        read_as_floats(a.bias, a.bias_type, column + lane.second, bias);
#pragma unroll
        for (int j = 0; j < N; ++j) v.second[j] += bias[j];
      }
    }
    if (lane.turns && place.part->turns) turn_all(v, angles, a.interleaved);
    write(target_of<T>(place, b, t), lane, v);
  }
}

// With the bias's gradient. Block x walks the tokens of chunk x; its threads and those of the blocks beside it (y) are
// the lanes of all heads, so a thread has the same columns of every token. Two blocks per multiprocessor: without that
// bound, the compiler of 10.0 spills registers to make room for a third.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, 2) rotate_and_sum(const __grid_constant__ Arguments a, int lanes) {
  const int column = static_cast<int>(blockIdx.y) * kThreads + threadIdx.x, head = column / lanes;
  if (head >= a.heads) return;
  const Lane lane = lane_of<N>(a, column - head * lanes);
  const Place place = place_of(a, head);
  const bool turns = lane.turns && place.part->turns;
  // Tokens of this chunk.
  const int64_t tokens = a.batch * a.seq, chunks = gridDim.x, chunk = blockIdx.x;
  const int64_t last = tokens * (chunk + 1) / chunks;
  // Sums of the thread's columns over the chunk, in fp32, before anything is rounded.
  Values<N> sums = {};
  for (int64_t token = tokens * chunk / chunks; token < last; token += kTokens) {
    // kTokens tokens at a time, so that their loads are in flight together.
    gpu::Pack<T, N> first[kTokens], second[kTokens];
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      if (token + i >= last) break;
      const int64_t b = (token + i) / a.seq, t = (token + i) - b * a.seq;
      const T* source = source_of<T>(place, b, t);
      first[i] = gpu::load_streaming<N>(source + lane.first);
      if (lane.has_second) second[i] = gpu::load_streaming<N>(source + lane.second);
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      if (token + i >= last) break;
      const int64_t b = (token + i) / a.seq, t = (token + i) - b * a.seq;
      Values<N> v = widen(first[i], second[i]);
      if (turns) turn_all(v, angles_of<N>(a, b, t, lane), a.interleaved);
#pragma unroll
      for (int j = 0; j < N; ++j) sums.first[j] += v.first[j], sums.second[j] += v.second[j];
      write(target_of<T>(place, b, t), lane, v);
    }
  }
  // The chunk's row of partial_sums (chunks, heads * dim), in packs of 16 bytes where there are such.
  float* partial = a.partial_sums + (chunk * a.heads + head) * a.dim;
  constexpr int kWidth = N < 4 ? N : 4;
#pragma unroll
  for (int j = 0; j < N; j += kWidth) {
    gpu::Pack<float, kWidth> first, second;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) first[i] = sums.first[j + i], second[i] = sums.second[j + i];
    gpu::store(partial + lane.first + j, first);
    if (lane.has_second) gpu::store(partial + lane.second + j, second);
  }
}

// Sums of columns over the chunks: a block has 32 columns, its warps each a run of chunks; runs are added in order, so
// the bits do not depend on which warp is first.
constexpr int kSumWarps = 8;

__global__ void __launch_bounds__(32 * kSumWarps) add_chunks(const float* partial, float* sums, int chunks, int width) {
  __shared__ float runs[kSumWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = static_cast<int>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (column < width) {
    const int last = chunks * (warp + 1) / kSumWarps;
    for (int chunk = chunks * warp / kSumWarps; chunk < last; ++chunk)
      sum += partial[static_cast<int64_t>(chunk) * width + column];
  }
  // The first warp adds up the runs.
  runs[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  for (int i = 1; i < kSumWarps; ++i) sum += runs[i][lane];
  sums[column] = sum;
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether every pack of `width` elements of the call is whole and 16-byte aligned.
bool packs_fit(const Arguments& a, int64_t width) {
  const auto whole = [&](int64_t stride) { return stride % width == 0; };
  bool fit = whole(a.pairs) && whole(a.dim) && aligned(a.partial_sums) && aligned(a.cos.data) && aligned(a.sin.data) &&
             aligned(a.bias);
  for (int i = 0; i < a.part_count; ++i) {
    const Heads& part = a.parts[i];
    fit = fit && aligned(part.from) && aligned(part.to) && whole(part.from_batch) && whole(part.from_token) &&
          whole(part.from_head) && whole(part.to_batch) && whole(part.to_token) && whole(part.to_head);
  }
  // Rows of the tables must start at multiples of 16 bytes.
  const int64_t table_width = a.table_type == Type::fp32 ? 4 : 8;
  for (const int64_t stride : {a.cos.batch_stride, a.cos.row_stride, a.sin.batch_stride, a.sin.row_stride})
    fit = fit && stride % table_width == 0;
  // Narrow packs of tables (fp32 data, 16-bit tables) are half as wide, and aligned where the wide ones are.
  return fit;
}

// The launch with packs of N elements; in place, columns that do not turn are not touched at all.
template <class T, int N>
gpu::Error launch_packs(const Arguments& a, gpu::Stream stream) {
  const int64_t tokens = a.batch * a.seq;
  bool carries = a.bias != nullptr || a.sums != nullptr;
  for (int i = 0; i < a.part_count; ++i) carries = carries || a.parts[i].from != a.parts[i].to;
  const int lanes = lanes_of<N>(a, carries);
  // In place without pairs: there is nothing to do.
  if (lanes == 0) return nullptr;
  if (!a.sums) {
    const int groups = static_cast<int>((a.heads + kHeads - 1) / kHeads);
    const int64_t blocks = (tokens * groups * lanes + kThreads - 1) / kThreads;
    if (blocks > 0x7fffffff) return "more than 2^31 blocks";
    return gpu::launch(rotate<T, N>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, a, lanes, groups);
  }
  // Two launches: sums by chunk, then over the chunks.
  const int64_t chunks = sum_chunks(tokens), columns = (a.heads * lanes + kThreads - 1) / kThreads;
  const gpu::Error error =
      gpu::launch(rotate_and_sum<T, N>, dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(columns)),
                  dim3(kThreads), 0, stream, a, lanes);
  if (error) return error;
  const int width = static_cast<int>(a.heads * a.dim);
  return gpu::launch(add_chunks, dim3(static_cast<unsigned>((width + 31) / 32)), dim3(32 * kSumWarps), 0, stream,
                     static_cast<const float*>(a.partial_sums), a.sums, static_cast<int>(chunks), width);
}

template <class T>
gpu::Error launch_typed(const Arguments& a, gpu::Stream stream) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  return packs_fit(a, kWidth) ? launch_packs<T, kWidth>(a, stream) : launch_packs<T, 1>(a, stream);
}

}  // namespace

gpu::Error launch_rotary(const Arguments& arguments, gpu::Stream stream) {
  if (arguments.type == Type::fp32) return launch_typed<float>(arguments, stream);
  if (arguments.type == Type::bf16) return launch_typed<gpu::bf16>(arguments, stream);
  return launch_typed<gpu::fp16>(arguments, stream);
}

}  // namespace codeshell::rotary
