// Fibers: stacks that take turns on one thread. A switch saves the registers that a call preserves and nothing else, so
// it costs about as much as a call; swapcontext would add two system calls for the signal mask.
#pragma once

#include <cstddef>

namespace codeshell::gpu::host {

// A suspended execution: where its stack stands. Opaque.
using Context = void*;

// Continues `target`; returns when somebody continues `*saved`.
void switch_context(Context* saved, Context target);

// An execution that calls entry() on the given stack, from which it must not return.
Context make_context(void* stack, size_t bytes, void (*entry)());

// Memory for `count` stacks of the same size, each above a page that faults, so that an overflow is no silent one.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  static constexpr size_t kBytes = 256 * 1024;

  void reserve(size_t count);
  void* stack(size_t index) const { return memory_ + index * (kBytes + guard_) + guard_; }
  // Whether the address lies in one of the pages between the stacks.
  bool in_guard(const void* address) const;

 private:
  void release();

  char* memory_ = nullptr;
  size_t count_ = 0;
  size_t guard_ = 0;
};

}  // namespace codeshell::gpu::host
