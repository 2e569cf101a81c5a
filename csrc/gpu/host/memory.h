// A block's shared memory on the host, and faults turned into errors.
#pragma once

#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <functional>
#include <span>

namespace codeshell::gpu::host {

// Dynamic shared memory ends at a page that faults. Static shared arrays are this library's thread-local variables
// (gpu/host/cuda.h), which is why it is a library of its own.
class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void resize(size_t dynamic_bytes);
  // Fills static and dynamic shared memory with 0xff: NaN in every floating-point format, -1 as an integer.
  void poison();
  // Whether the few bytes between the end of the dynamic memory and the faulting page are as poison() left them.
  bool slack_untouched() const;
  bool in_guard(const void* address) const;
  bool contains(const void* address) const;
  ptrdiff_t offset(const void* address) const;  // from the start of the static or the dynamic memory

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* memory_ = nullptr;
  size_t mapped_ = 0;
  char* guard_ = nullptr;
  size_t guard_bytes_ = 0;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// While it lives, a fault inside guard.run(work, failed) for which claims(address) answers true ends the work: the
// stack of run() is taken up again, without destructors, and failed() called.
class FaultGuard {
 public:
  explicit FaultGuard(bool (*claims)(const void* address));
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  void run(const std::function<void()>& work, const std::function<void()>& failed) const;

 private:
  struct sigaction previous_[3];
  stack_t previous_stack_;
};

}  // namespace codeshell::gpu::host
