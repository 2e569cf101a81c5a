// TMA: boxes of a tensor in global memory, copied to and from shared memory by one thread's instruction, and plain runs
// of bytes. A box that reaches over the tensor's edge reads zeros there and writes nothing.
//
// Shared memory holds a box as rows of its innermost dimension. With Swizzle::k128 a row is 128 bytes, tiles start at
// multiples of 1024 bytes, and the 16-byte chunk c of row r lies at chunk c ^ (r % 8), which is what wgmma reads:
//
//   row 0   0 1 2 3 4 5 6 7       chunks in the order in which they lie: the same chunk of 8 neighbouring
//   row 1   1 0 3 2 5 4 7 6       rows lies in 8 different groups of banks, so a warp that writes a column of chunks
//   row 2   2 3 0 1 6 7 4 5       has no bank conflicts
//
// How copies end. A load adds its bytes to a phase of an mbarrier, for which readers wait. A store or an addition
// belongs to a bulk group of the thread that issued it, and only that thread can wait for it: bulk_commit(), then
// bulk_wait_read<n>() before shared memory is overwritten, or bulk_wait<n>() before others may see the result.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell::gpu {

// A CUtensorMap. A kernel takes it as `const __grid_constant__ TensorMap`.
struct alignas(128) TensorMap {
  uint64_t opaque[16];
};

// The element's type decides its size and what an addition adds.
enum class Element : uint8_t { kBf16, kFp16, kFp32 };
enum class Swizzle : uint8_t { kNone, k128 };

// Dimensions of a map, at most.
inline constexpr int kMaxRank = 5;

// What a map describes. Dimension 0 is innermost and contiguous; strides[i] is in bytes and of dimension i + 1.
struct TensorShape {
  Element element;
  int rank;
  void* address;                   // 16-byte aligned
  uint64_t sizes[kMaxRank];        // in elements
  uint64_t strides[kMaxRank - 1];  // multiples of 16
  uint32_t box[kMaxRank];          // in elements, up to 256 each
  Swizzle swizzle;
};

#if defined(CODESHELL_WITH_KERNELS)
// Fills in the map by the driver's encoder; an error names the rule of TMA that the shape breaks (tensor_shape.h).
Error encode_tensor_map(TensorMap* map, const TensorShape& shape);
#endif

}  // namespace codeshell::gpu

#if defined(__CUDACC__) || defined(CODESHELL_HOST_GPU_LANGUAGE)

#include "gpu/mbarrier.h"

namespace codeshell::gpu {

// What the L2 cache does with the lines: createpolicy's encodings.
enum class CacheHint : uint64_t {
  kNormal = 0x1000000000000000u,
  kEvictFirst = 0x12f0000000000000u,
  kEvictLast = 0x14f0000000000000u,
};

#if defined(__CUDACC__)

// Brings the map to the cache of descriptors, so that the first copy does not wait for it.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// The box at the coordinates, innermost first, to shared memory. The barrier's phase gets the bytes of the whole box,
// also where it reaches over the tensor's edge. By one thread.
template <CacheHint Hint = CacheHint::kNormal>
__device__ __forceinline__ void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, "
      "%4}], "
      "[%2], %5;" ::"r"(shared_address(target)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(Hint))
      : "memory");
}
template <CacheHint Hint = CacheHint::kNormal>
__device__ __forceinline__ void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1,
                                         int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, "
      "%5}], [%2], %6;" ::"r"(shared_address(target)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "l"(static_cast<uint64_t>(Hint))
      : "memory");
}
template <CacheHint Hint = CacheHint::kNormal>
__device__ __forceinline__ void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1, int c2,
                                         int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, "
      "%5, %6}], [%2], %7;" ::"r"(shared_address(target)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(Hint))
      : "memory");
}

// Shared memory to the box at the coordinates, in the thread's current bulk group. What threads wrote there must have
// passed fence_async_proxy() before.
__device__ __forceinline__ void tma_store(const TensorMap& map, const void* source, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(source)), "r"(c0), "r"(c1)
               : "memory");
}
__device__ __forceinline__ void tma_store(const TensorMap& map, const void* source, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(source)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
__device__ __forceinline__ void tma_store(const TensorMap& map, const void* source, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
               "r"(shared_address(source)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// The same, added to what is in global memory, element by element and atomically.
__device__ __forceinline__ void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(source)), "r"(c0), "r"(c1)
               : "memory");
}
__device__ __forceinline__ void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1, int c2) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(source)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
__device__ __forceinline__ void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1, int c2,
                                               int c3) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
      "r"(shared_address(source)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Runs of bytes, without a map; addresses and size are multiples of 16. Loads end on an mbarrier, stores in a bulk
// group.
__device__ __forceinline__ void bulk_load(void* target, const void* source, uint32_t bytes, Mbarrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(target)),
               "l"(source), "r"(bytes), "r"(shared_address(&barrier))
               : "memory");
}
__device__ __forceinline__ void bulk_store(void* target, const void* source, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target), "r"(shared_address(source)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_reduce_add(float* target, const float* source, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(target),
               "r"(shared_address(source)), "r"(bytes)
               : "memory");
}

// Closes the thread's bulk group: all stores and additions since the last commit.
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of the thread's groups still read shared memory …
template <int Pending>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
// … or are not done, their writes visible to the thread.
template <int Pending>
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}

#else

// The twins on the host (gpu/host/tma.cpp). `site` is the caller's place in the source, for error messages.

inline void prefetch_tensor_map(const TensorMap&) {}

// The last parameter of each.
#define CODESHELL_SITE host::Site site = host::Site::current()

template <CacheHint = CacheHint::kNormal>
void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1, CODESHELL_SITE) {
  host::tma_load(target, map, &barrier.word, {c0, c1}, site);
}
template <CacheHint = CacheHint::kNormal>
void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1, int c2, CODESHELL_SITE) {
  host::tma_load(target, map, &barrier.word, {c0, c1, c2}, site);
}
template <CacheHint = CacheHint::kNormal>
void tma_load(void* target, const TensorMap& map, Mbarrier& barrier, int c0, int c1, int c2, int c3, CODESHELL_SITE) {
  host::tma_load(target, map, &barrier.word, {c0, c1, c2, c3}, site);
}

inline void tma_store(const TensorMap& map, const void* source, int c0, int c1, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1}, false, site);
}
inline void tma_store(const TensorMap& map, const void* source, int c0, int c1, int c2, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1, c2}, false, site);
}
inline void tma_store(const TensorMap& map, const void* source, int c0, int c1, int c2, int c3, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1, c2, c3}, false, site);
}
inline void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1}, true, site);
}
inline void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1, int c2, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1, c2}, true, site);
}
inline void tma_reduce_add(const TensorMap& map, const void* source, int c0, int c1, int c2, int c3, CODESHELL_SITE) {
  host::tma_store(map, source, {c0, c1, c2, c3}, true, site);
}

inline void bulk_load(void* target, const void* source, uint32_t bytes, Mbarrier& barrier, CODESHELL_SITE) {
  host::bulk_load(target, source, bytes, &barrier.word, site);
}
inline void bulk_store(void* target, const void* source, uint32_t bytes, CODESHELL_SITE) {
  host::bulk_store(target, source, bytes, false, site);
}
inline void bulk_reduce_add(float* target, const float* source, uint32_t bytes, CODESHELL_SITE) {
  host::bulk_store(target, source, bytes, true, site);
}

inline void bulk_commit(CODESHELL_SITE) { host::bulk_commit(site); }
template <int Pending>
void bulk_wait_read(CODESHELL_SITE) {
  host::bulk_wait(Pending, true, site);
}
template <int Pending>
void bulk_wait(CODESHELL_SITE) {
  host::bulk_wait(Pending, false, site);
}

#undef CODESHELL_SITE

#endif

}  // namespace codeshell::gpu

#endif
