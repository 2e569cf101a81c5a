// Packs: N neighbouring elements moved by one instruction. A pack of 16 bytes is LDG.E.128 and STG.E.128, the widest
// access there is: memory-bound kernels use it wherever addresses allow. A pack's address must be a multiple of its
// size; a GPU faults where it is not, and so does the host execution.
#pragma once

#include <cstdint>

#include "gpu/cuda.h"
#include "gpu/types.h"

namespace codeshell::gpu {

// N elements, aligned to their total size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N == 2 || sizeof(T) * N == 4 || sizeof(T) * N == 8 || sizeof(T) * N == 16,
                "a pack is 2, 4, 8 or 16 bytes: what one instruction moves");
  T elements[N];

  CODESHELL_HOST_DEVICE T& operator[](int index) { return elements[index]; }
  CODESHELL_HOST_DEVICE const T& operator[](int index) const { return elements[index]; }
};

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

namespace detail {

// The built-in type of so many bytes: accesses through it are one instruction, whatever T is.
template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <class P>
using WordOf = typename Word<sizeof(P)>::type;

// Between a pack and its word, by their bytes; nothing is left of the copies after compilation.
template <class P>
__device__ __forceinline__ P unpack(WordOf<P> word) {
  P pack;
  memcpy(&pack, &word, sizeof(P));
  return pack;
}

template <class P>
__device__ __forceinline__ WordOf<P> word_of(const P& pack) {
  WordOf<P> word;
  memcpy(&word, &pack, sizeof(P));
  return word;
}

}  // namespace detail

// Plain: any memory, global or shared, cached as usual.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* source) {
  using P = Pack<T, N>;
  return detail::unpack<P>(*reinterpret_cast<const detail::WordOf<P>*>(source));
}

// Both infer T; N is given to a load, and is the pack's in a store.
template <class T, int N>
__device__ __forceinline__ void store(T* target, const Pack<T, N>& pack) {
  *reinterpret_cast<detail::WordOf<Pack<T, N>>*>(target) = detail::word_of(pack);
}

// Through the read-only path: global memory that nobody writes during the kernel, read more than once.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_readonly(const T* source) {
  using P = Pack<T, N>;
  return detail::unpack<P>(__ldg(reinterpret_cast<const detail::WordOf<P>*>(source)));
}

// Streaming: global memory that is touched once. It leaves the caches first, so that what others read again stays.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_streaming(const T* source) {
  using P = Pack<T, N>;
  return detail::unpack<P>(__ldcs(reinterpret_cast<const detail::WordOf<P>*>(source)));
}

template <class T, int N>
__device__ __forceinline__ void store_streaming(T* target, const Pack<T, N>& pack) {
  __stcs(reinterpret_cast<detail::WordOf<Pack<T, N>>*>(target), detail::word_of(pack));
}

}  // namespace codeshell::gpu
