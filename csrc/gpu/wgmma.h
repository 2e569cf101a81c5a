// wgmma: the product of a 64 x 16 tile A and a 16 x N tile B, added to fp32 accumulators of 128 threads.
//
// B, and A unless it comes from registers, lie in shared memory as TMA's 128-byte swizzle leaves them, and are named by
// descriptors. K-major: rows of M or N, 64 elements of K a row. MN-major: rows of K, 64 elements of M or N a row.
// Thread t = 32 w + l of the warpgroup holds of D, in d[i]: row 16 w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) +
// 2 (l % 4) + i % 2; of A in registers, in half h of a[r]: row 16 w + l / 4 + 8 (r % 2), column 8 (r / 2) + 2 (l % 4) +
// h.
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

// 128-byte swizzle, tiles that start at multiples of 1024 bytes. `stride`: bytes between groups of 8 rows (1024 where
// rows follow each other). `leading`, for MN-major only: bytes between blocks of 64 elements of M or N. Adding
// descriptor_step(bytes) moves the start: 32 bytes a k-step of 16 when K-major, 2 * stride when MN-major.
CODESHELL_HOST_DEVICE uint64_t descriptor(uint32_t shared_address, uint32_t stride = 1024, uint32_t leading = 0) {
  return static_cast<uint64_t>((shared_address & 0x3ffffu) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}
CODESHELL_HOST_DEVICE constexpr uint64_t descriptor_step(uint32_t bytes) { return bytes >> 4; }

#if defined(__CUDACC__)

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// A wait that comes after the arithmetic that made `value`, which is at least 0 or NaN. ptxas moves a wait up over all
// arithmetic that does not need its products, and what was to run under them runs after them. It moves none over an
// instruction with effects, here one that is never executed and would change nothing, whose condition needs the value.
template <int Pending>
__device__ __forceinline__ void wgmma_wait_after(float value) {
  asm volatile(
      "{\n"
      ".reg .pred never;\n"
      "setp.lt.f32 never, %1, 0f00000000;\n"
      "@never nanosleep.u32 1;\n"
      "wgmma.wait_group.sync.aligned %0;\n"
      "}\n" ::"n"(Pending),
      "f"(value)
      : "memory");
}

// Pins accumulators to their place among asm statements: after a wait, so that the compiler reads them no earlier.
template <int N>
__device__ __forceinline__ void wgmma_pin(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

namespace detail {

template <int N, bool Bf16, int TransposeA, int TransposeB>
struct Wgmma;

// The accumulators' names in PTX, and as operands: one list a multiple of 32 registers.
#define CODESHELL_NAMES_32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define CODESHELL_OPERANDS_32                                                                                 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define CODESHELL_NAMES_64                                                 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15," \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define CODESHELL_OPERANDS_64                                                                                 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),  \
      "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), \
      "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define CODESHELL_NAMES_128                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"           \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31," \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47," \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define CODESHELL_OPERANDS_128                                                                                \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),  \
      "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), \
      "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), \
      "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), \
      "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
      "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define CODESHELL_NAMES_192                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"           \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31," \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47," \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63," \
  " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79," \
  " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}"
#define CODESHELL_OPERANDS_192                                                                                \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),  \
      "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), \
      "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), \
      "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), \
      "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
      "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), \
      "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), \
      "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), \
      "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), \
      "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define CODESHELL_NAMES_256                                                                      \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"                       \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"             \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"             \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"             \
  " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"             \
  " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"             \
  " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111," \
  " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
#define CODESHELL_OPERANDS_256                                                                                        \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),         \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),          \
      "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),         \
      "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),         \
      "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),         \
      "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),         \
      "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),         \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]),         \
      "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]),         \
      "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),         \
      "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]),         \
      "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]),         \
      "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]),    \
      "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), \
      "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), \
      "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// Operands after the accumulators: the descriptors or A's registers, and whether to accumulate.
#define CODESHELL_WGMMA(N, type, is_bf16, p0, p1, p2, p3, p4, p5, p6, p7)                                      \
  template <int TransposeA, int TransposeB>                                                                    \
  struct Wgmma<N, is_bf16, TransposeA, TransposeB> {                                                           \
    static __device__ __forceinline__ void shared(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p2                                                      \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " " CODESHELL_NAMES_##N     \
                   ", " p0 ", " p1 ", p, 1, 1, " p3 ", " p4 ";\n}\n"                                           \
                   : CODESHELL_OPERANDS_##N                                                                    \
                   : "l"(a), "l"(b), "r"(accumulate), "n"(TransposeA), "n"(TransposeB));                       \
    }                                                                                                          \
    static __device__ __forceinline__ void registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,    \
                                                     int accumulate) {                                         \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p5                                                      \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " " CODESHELL_NAMES_##N     \
                   ", {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", p, 1, 1, " p6 ";\n}\n"                         \
                   : CODESHELL_OPERANDS_##N                                                                    \
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
#undef CODESHELL_OPERANDS_32
#undef CODESHELL_NAMES_64
#undef CODESHELL_OPERANDS_64
#undef CODESHELL_NAMES_128
#undef CODESHELL_OPERANDS_128
#undef CODESHELL_NAMES_192
#undef CODESHELL_OPERANDS_192
#undef CODESHELL_NAMES_256
#undef CODESHELL_OPERANDS_256
#undef CODESHELL_WGMMA
#undef CODESHELL_WGMMA_TYPES

}  // namespace detail

// D = A B, plus D if accumulate. T is bf16 or fp16.
template <int N, class T, Major A = Major::kK, Major B = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  detail::Wgmma<N, std::is_same_v<T, bf16>, A == Major::kMn, B == Major::kMn>::shared(d, a, b, accumulate);
}
template <int N, class T, Major B = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  detail::Wgmma<N, std::is_same_v<T, bf16>, 0, B == Major::kMn>::registers(d, a, b, accumulate);
}

#else

template <int N>
void wgmma_pin(float (&)[N]) {}

inline void wgmma_fence(host::Site site = host::Site::current()) { host::wgmma_fence(site); }
inline void wgmma_commit(host::Site site = host::Site::current()) { host::wgmma_commit(site); }
template <int Pending>
void wgmma_wait(host::Site site = host::Site::current()) {
  host::wgmma_wait(Pending, site);
}

template <int Pending>
void wgmma_wait_after(float, host::Site site = host::Site::current()) {
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
