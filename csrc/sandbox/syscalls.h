// System calls without a C library, for the keeper: a program of a few pages that is started for every sandbox.
//
// Every call returns what the kernel returns: a value, or minus the error number.
#pragma once

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the sandbox is written for x86-64 and aarch64"
#endif

namespace codeshell::sandbox::sys {

inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
#if defined(__x86_64__)
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#else
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#endif
}

inline long of(const void* pointer) { return reinterpret_cast<long>(pointer); }

// Calls that newer processors have in their general form alone.
inline long openat(long folder, const char* path, long flags, long mode = 0) {
  return call(__NR_openat, folder, of(path), flags, mode);
}
inline long close(long fd) { return call(__NR_close, fd); }
inline long read(long fd, void* data, size_t size) { return call(__NR_read, fd, of(data), static_cast<long>(size)); }
inline long write(long fd, const void* data, size_t size) {
  return call(__NR_write, fd, of(data), static_cast<long>(size));
}
[[noreturn]] inline void exit(long status) {
  for (;;) call(__NR_exit_group, status);
}

}  // namespace codeshell::sandbox::sys
