// The context switch for x86-64 and AArch64, and memory for the stacks.

#include "gpu/host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

extern "C" void codeshell_switch_context(void** saved, void* target);
extern "C" void codeshell_enter_context();

// codeshell_switch_context pushes the registers that a callee must preserve, stores the stack pointer in *saved, takes
// `target` as the stack pointer and pops the other side's registers. A new context is a stack that looks as if it had
// been suspended on entry to codeshell_enter_context, with `entry` in a register; that routine calls it, and traps if
// it returns. Neither saves the floating-point control word or the signal mask: kernels do not change them.

// The beginning and the end of a function in assembler; its symbol is hidden outside this library.
#define CODESHELL_BEGIN(name) ".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name ":"
#define CODESHELL_END(name) ".size " #name ", .-" #name "\n"
#if defined(__x86_64__)
asm(CODESHELL_BEGIN(codeshell_switch_context) R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)" CODESHELL_END(codeshell_switch_context) CODESHELL_BEGIN(codeshell_enter_context) R"(
  xorl %ebp, %ebp
  callq *%rbx
  ud2
)" CODESHELL_END(codeshell_enter_context));
#elif defined(__aarch64__)
asm(CODESHELL_BEGIN(codeshell_switch_context) R"(
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
)" CODESHELL_END(codeshell_switch_context) CODESHELL_BEGIN(codeshell_enter_context) R"(
  mov x29, xzr
  blr x19
  brk #1
)" CODESHELL_END(codeshell_enter_context));
#else
#error "the host execution of kernels has a context switch for x86-64 and AArch64 only"
#endif

namespace codeshell::gpu::host {

void switch_context(Context* saved, Context target) { codeshell_switch_context(saved, target); }

Context make_context(void* stack, size_t bytes, void (*entry)()) {
  // Stacks grow downwards; both ABIs need a 16-byte aligned stack pointer.
  auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
#if defined(__x86_64__)
  // From low to high: r15 r14 r13 r12 rbx rbp and the address to return to. After the return the stack is 16-byte
  // aligned, as the call in codeshell_enter_context needs it.
  uint64_t* frame = top - 9;
  for (int i = 0; i < 9; ++i) frame[i] = 0;
  // rbx, which codeshell_enter_context calls, and the return address.
  frame[4] = reinterpret_cast<uint64_t>(entry);
  frame[6] = reinterpret_cast<uint64_t>(&codeshell_enter_context);
  return frame;
#else
  // The 160 bytes that the switch pops: x29, then x30 (where it returns to), then x19 (entry).
  uint64_t* frame = top - 20;
  for (int i = 0; i < 20; ++i) frame[i] = 0;
  frame[1] = reinterpret_cast<uint64_t>(&codeshell_enter_context);
  frame[2] = reinterpret_cast<uint64_t>(entry);
  return frame;
#endif
}

Stacks::~Stacks() { release(); }

// Gives the whole mapping back.
void Stacks::release() {
  if (memory_) munmap(memory_, count_ * (kBytes + guard_));
  memory_ = nullptr;
  count_ = 0;
}

void Stacks::reserve(size_t count) {
  // Larger launches get new stacks; the old ones are never in use then.
  if (count <= count_) return;
  release();
  guard_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Only addresses are reserved; pages get memory when they are touched. Below each stack lies a page that faults.
  const size_t bytes = count * (kBytes + guard_);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
  count_ = count;
  // The lowest page of each stack's share is its guard.
  for (size_t i = 0; i < count; ++i) mprotect(memory_ + i * (kBytes + guard_), guard_, PROT_NONE);
}

// Stacks are equally far apart, and each begins with its guard.
bool Stacks::in_guard(const void* address) const {
  const auto* byte = static_cast<const char*>(address);
  if (!memory_ || byte < memory_ || byte >= memory_ + count_ * (kBytes + guard_)) return false;
  return static_cast<size_t>(byte - memory_) % (kBytes + guard_) < guard_;
}

}  // namespace codeshell::gpu::host
