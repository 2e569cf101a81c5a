// CUDA's short vector types and dim3, with CUDA's alignments.
#pragma once

// Alignment as CUDA's: a power of two that one access can move, 16 bytes at most.
#define CODESHELL_VECTORS(name, element, bytes)                                        \
  struct name##1 { element x; };                                                       \
  struct alignas(2 * bytes) name##2 { element x, y; };                                 \
  struct name##3 { element x, y, z; };                                                 \
  struct alignas(4 * bytes < 16 ? 4 * bytes : 16) name##4 { element x, y, z, w; };     \
  inline name##2 make_##name##2(element x, element y) { return {x, y}; }               \
  inline name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; } \
  inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

CODESHELL_VECTORS(char, signed char, 1)
CODESHELL_VECTORS(uchar, unsigned char, 1)
CODESHELL_VECTORS(short, short, 2)
CODESHELL_VECTORS(ushort, unsigned short, 2)
CODESHELL_VECTORS(int, int, 4)
CODESHELL_VECTORS(uint, unsigned int, 4)
CODESHELL_VECTORS(longlong, long long, 8)
CODESHELL_VECTORS(ulonglong, unsigned long long, 8)
CODESHELL_VECTORS(float, float, 4)
CODESHELL_VECTORS(double, double, 8)

#undef CODESHELL_VECTORS

// Sizes that are not given are 1.
struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
