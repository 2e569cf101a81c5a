// wgmma: the product of a 64 x 16 tile A and a 16 x N tile B, added to fp32 accumulators of the 128 threads of a
// warpgroup.
//
// B, and A unless it comes from registers, lie in shared memory as TMA's 128-byte swizzle leaves them, and are named by
// descriptors. Two orders are possible:
//
//   K-major     rows of M or N, 64 elements of K per row: the inner dimension is contiguous (Q and K of Q Kᵀ)
//   MN-major    rows of K, 64 elements of M or N per row: the hardware transposes (V of P V)
//
// Fragments. Thread t = 32 w + l of the warpgroup (warp w, lane l) holds
//
//   of D, in d[i]:             row 16 w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (l % 4) + i % 2
//   of A, in half h of a[r]:   row 16 w + l / 4 + 8 (r % 2),     column 8 (r / 2) + 2 (l % 4) + h
//
// So 16 columns of D, as 16-bit pairs, are the fragment of A of one k-step, thread by thread.
//
// The products are asynchronous: wgmma_fence(), products, wgmma_commit(), and neither accumulators nor shared memory
// are touched before wgmma_wait<n>() says that at most n committed groups are unfinished.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gpu/cuda.h"
#include "gpu/ptx.h"
#include "gpu/types.h"

namespace codeshell::gpu {

enum class Major { kK, kMn };

// The descriptor of an operand with the 128-byte swizzle, in a tile that starts at a multiple of 1024 bytes.
//   stride     bytes between groups of 8 rows: 1024 where rows follow each other
//   leading    for MN-major only: bytes between blocks of 64 elements of M or N
// Adding descriptor_step(bytes) moves the start: 32 bytes per k-step of 16 when K-major, 2 * stride when MN-major.
// Bits: 0-13 the address / 16, 16-29 leading / 16, 32-45 stride / 16, 62-63 the swizzle (1 is 128 bytes).
CODESHELL_HOST_DEVICE uint64_t descriptor(uint32_t shared_address, uint32_t stride = 1024, uint32_t leading = 0) {
  return static_cast<uint64_t>((shared_address & 0x3ffffu) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}
CODESHELL_HOST_DEVICE constexpr uint64_t descriptor_step(uint32_t bytes) { return bytes >> 4; }

#if defined(__CUDACC__)

// Before the first product of a group: orders earlier accesses of the accumulators and of A's registers before it.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of all products since the last commit.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `Pending` of the groups are unfinished; groups finish in the order of their commits.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// The same wait, but only after `value`, which is not negative, has been computed. ptxas sees nothing that would keep a
// plain wait after arithmetic that does not use the product: it moves the wait up, and then that arithmetic no longer
// runs under the product. It does not move the wait over a barrier of the warp whose mask depends on the value.
template <int Pending>
__device__ __forceinline__ void wgmma_wait_after(float value) {
  __syncwarp(value < 0.0f ? 0u : 0xffffffffu);
  wgmma_wait<Pending>();
}

// Pins accumulators to their place among asm statements. Used after a wait: the compiler does not know that the
// registers change while products run, so without this it could read them before the wait.
template <int N>
__device__ __forceinline__ void wgmma_pin(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

namespace detail {

// The instruction for N columns and a type; Transpose says that the operand is MN-major.
template <int N, bool Bf16, int TransposeA, int TransposeB>
struct Wgmma;

// The accumulators in PTX, for N columns the registers %0 to %(N / 2 - 1): each list is the one before and what is new.
#define CODESHELL_NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define CODESHELL_NAMES_64 \
  CODESHELL_NAMES_32       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CODESHELL_NAMES_128                                                          \
  CODESHELL_NAMES_64                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CODESHELL_NAMES_192                                                          \
  CODESHELL_NAMES_128                                                                \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CODESHELL_NAMES_256                                                                      \
  CODESHELL_NAMES_192                                                                            \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// The same as operands of the asm statement, from register d[i] on.
#define CODESHELL_OPERANDS_16(i)                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define CODESHELL_OPERANDS_32(i) CODESHELL_OPERANDS_16(i), CODESHELL_OPERANDS_16(i + 8)
#define CODESHELL_OPERANDS_64(i) CODESHELL_OPERANDS_32(i), CODESHELL_OPERANDS_32(i + 16)
#define CODESHELL_OPERANDS_128(i) CODESHELL_OPERANDS_64(i), CODESHELL_OPERANDS_64(i + 32)
#define CODESHELL_OPERANDS_192(i) CODESHELL_OPERANDS_128(i), CODESHELL_OPERANDS_64(i + 64)
#define CODESHELL_OPERANDS_256(i) CODESHELL_OPERANDS_128(i), CODESHELL_OPERANDS_128(i + 64)

// p0 to p7 are the numbers of the operands after the accumulators. From shared memory: the descriptors of A and B,
// whether to accumulate, two transpositions. From registers: four of A, the descriptor of B, whether to accumulate, one
// transposition. The two literal 1s of the instruction are the signs of A and B. A product that does not accumulate
// starts from zeros.
#define CODESHELL_WGMMA(N, type, is_bf16, p0, p1, p2, p3, p4, p5, p6, p7)                                      \
  template <int TransposeA, int TransposeB>                                                                    \
  struct Wgmma<N, is_bf16, TransposeA, TransposeB> {                                                           \
    static __device__ __forceinline__ void shared(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p2                                                      \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" CODESHELL_NAMES_##N    \
                   "}, " p0 ", " p1 ", p, 1, 1, " p3 ", " p4 ";\n}\n"                                          \
                   : CODESHELL_OPERANDS_##N(0)                                                                 \
                   : "l"(a), "l"(b), "r"(accumulate), "n"(TransposeA), "n"(TransposeB));                       \
    }                                                                                                          \
    static __device__ __forceinline__ void registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,    \
                                                     int accumulate) {                                         \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p5                                                      \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" CODESHELL_NAMES_##N    \
                   "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", p, 1, 1, " p6 ";\n}\n"                        \
                   : CODESHELL_OPERANDS_##N(0)                                                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TransposeB));    \
    }                                                                                                          \
  };
#define CODESHELL_WGMMA_TYPES(N, ...)           \
  CODESHELL_WGMMA(N, "bf16", true, __VA_ARGS__) \
  CODESHELL_WGMMA(N, "f16", false, __VA_ARGS__)

CODESHELL_WGMMA_TYPES(32, "%16", "%17", "%18", "%19", "%20", "%21", "%22", "%23")
CODESHELL_WGMMA_TYPES(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39")
CODESHELL_WGMMA_TYPES(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71")
CODESHELL_WGMMA_TYPES(192, "%96", "%97", "%98", "%99", "%100", "%101", "%102", "%103")
CODESHELL_WGMMA_TYPES(256, "%128", "%129", "%130", "%131", "%132", "%133", "%134", "%135")

#undef CODESHELL_NAMES_32
#undef CODESHELL_NAMES_64
#undef CODESHELL_NAMES_128
#undef CODESHELL_NAMES_192
#undef CODESHELL_NAMES_256
#undef CODESHELL_OPERANDS_16
#undef CODESHELL_OPERANDS_32
#undef CODESHELL_OPERANDS_64
#undef CODESHELL_OPERANDS_128
#undef CODESHELL_OPERANDS_192
#undef CODESHELL_OPERANDS_256
#undef CODESHELL_WGMMA
#undef CODESHELL_WGMMA_TYPES

}  // namespace detail

// D = A B, plus D if accumulate; T is bf16 or fp16. A and B by descriptors.
template <int N, class T, Major A = Major::kK, Major B = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  detail::Wgmma<N, std::is_same_v<T, bf16>, A == Major::kMn, B == Major::kMn>::shared(d, a, b, accumulate);
}
// A from registers, in the fragment above.
template <int N, class T, Major B = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  detail::Wgmma<N, std::is_same_v<T, bf16>, 0, B == Major::kMn>::registers(d, a, b, accumulate);
}

#else

// The twins on the host (gpu/host/wgmma.cpp). `site` is the caller's place in the source, for error messages.

template <int N>
void wgmma_pin(float (&)[N]) {}

inline void wgmma_fence(host::Site site = host::Site::current()) { host::wgmma_fence(site); }
inline void wgmma_commit(host::Site site = host::Site::current()) { host::wgmma_commit(site); }
template <int Pending>
void wgmma_wait(host::Site site = host::Site::current()) {
  host::wgmma_wait(Pending, site);
}
template <int Pending>
void wgmma_wait_after(float value, host::Site site = host::Site::current()) {
  if (value < 0.0f) host::fail("wgmma_wait_after: a negative value", site);
  host::wgmma_wait(Pending, site);
}

template <int N, class T, Major A = Major::kK, Major B = Major::kK>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate, host::Site site = host::Site::current()) {
  host::wgmma_issue({N, std::is_same_v<T, bf16>, A == Major::kMn, B == Major::kMn, accumulate, a, b, nullptr, d}, site);
}
template <int N, class T, Major B = Major::kK>
void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
           host::Site site = host::Site::current()) {
  host::wgmma_issue({N, std::is_same_v<T, bf16>, false, B == Major::kMn, accumulate, 0, b, a, d}, site);
}

#endif

}  // namespace codeshell::gpu
