// Shared memory with its poison and guard page, and the handler of faults.

#include "gpu/host/memory.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace codeshell::gpu::host {

namespace {

constexpr size_t kMaxDynamic = 256 * 1024;
constexpr size_t kBefore = 4096;  // poisoned and checked: a write just below the start

// The thread-local variables of this library, as the loader's program headers give them: the static shared arrays of
// all its kernels. Found by the library in which this function lies.
std::span<char> static_shared() {
  thread_local volatile char anchor;  // the first access makes the thread's copy of the segment
  anchor = anchor;
  std::span<char> segment;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        const auto own = reinterpret_cast<uintptr_t>(&static_shared);
        bool mine = false;
        size_t bytes = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          const uintptr_t start = info->dlpi_addr + header.p_vaddr;
          // The library whose code this function is part of.
          if (header.p_type == PT_LOAD && own >= start && own < start + header.p_memsz) mine = true;
          if (header.p_type == PT_TLS) bytes = header.p_memsz;
        }
        if (!mine) return 0;
        *static_cast<std::span<char>*>(result) = {static_cast<char*>(info->dlpi_tls_data), bytes};
        return 1;
      },
      &segment);
  return segment;
}

}  // namespace

SharedMemory::~SharedMemory() {
  if (memory_) munmap(memory_, mapped_);
}

void SharedMemory::resize(size_t dynamic_bytes) {
  // Mapped once, for the largest size; the faulting page is its last one.
  if (!memory_) {
    guard_bytes_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    mapped_ = kMaxDynamic + kBefore + guard_bytes_;
    mapped_ = (mapped_ + guard_bytes_ - 1) / guard_bytes_ * guard_bytes_;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    guard_ = memory_ + mapped_ - guard_bytes_;
    mprotect(guard_, guard_bytes_, PROT_NONE);
  }
  bytes_ = dynamic_bytes;
  // As near to the guard as the size's own alignment allows: 1024 for swizzled tiles, 16 for other data.
  const size_t alignment = std::clamp<size_t>(dynamic_bytes & (~dynamic_bytes + 1), 16, 1024);
  // The end of the memory lies as near to the faulting page as it can, so that reads beyond it fault.
  data_ = guard_ - (dynamic_bytes + alignment - 1) / alignment * alignment;
}

// Static arrays too. The bytes just below and above the dynamic memory are poisoned for slack_untouched().
void SharedMemory::poison() {
  // From a page below the memory up to the page that faults.
  std::memset(data_ - kBefore, 0xff, static_cast<size_t>(guard_ - data_) + kBefore);
  const std::span<char> segment = static_shared();
  std::memset(segment.data(), 0xff, segment.size());
}

// Writes just outside of the memory that no page catches: below its start, and in the bytes before the faulting page.
bool SharedMemory::slack_untouched() const {
  const auto poisoned = [](char byte) { return byte == '\xff'; };
  return std::all_of(data_ - kBefore, data_, poisoned) && std::all_of(data_ + bytes_, guard_, poisoned);
}

bool SharedMemory::in_guard(const void* address) const {
  const auto* byte = static_cast<const char*>(address);
  return memory_ && byte >= guard_ && byte < guard_ + guard_bytes_;
}

bool SharedMemory::contains(const void* address) const {
  const auto* byte = static_cast<const char*>(address);
  if (memory_ && byte >= data_ && byte < data_ + bytes_) return true;
  const std::span<char> segment = static_shared();
  return byte >= segment.data() && byte < segment.data() + segment.size();
}

// The same in every run, other than addresses: names of places contain it.
ptrdiff_t SharedMemory::offset(const void* address) const {
  const auto* byte = static_cast<const char*>(address);
  return memory_ && byte >= data_ && byte < data_ + bytes_ ? byte - data_ : byte - static_shared().data();
}

namespace {

// Faults of memory, of alignment, of integer division.
constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGFPE};
bool (*claims_fault)(const void*) = nullptr;
sigjmp_buf resume_point;

// Jumps back to run() if the fault is the kernel's. This leaves a signal handler and a fiber's stack for good, so
// nothing on that stack is destroyed.
void handle_fault(int signal, siginfo_t* info, void*) {
  if (claims_fault && claims_fault(signal == SIGFPE ? nullptr : info->si_addr)) siglongjmp(resume_point, 1);
  std::signal(signal, SIG_DFL);  // not a kernel's: fault again, for good
}

}  // namespace

// Saves the process's own handlers; the destructor sets them back.
FaultGuard::FaultGuard(bool (*claims)(const void* address)) {
  static char stack[64 * 1024];  // a fault may be the overflow of the stack it happened on
  // Handlers run on a stack of their own.
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, &previous_stack_);
  claims_fault = claims;
  struct sigaction action{};
  action.sa_sigaction = &handle_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &previous_[i]);
}

FaultGuard::~FaultGuard() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &previous_[i], nullptr);
  claims_fault = nullptr;
  sigaltstack(&previous_stack_, nullptr);
}

// sigsetjmp without the signal mask, which costs system calls; SA_NODEFER keeps the mask as it is.
void FaultGuard::run(const std::function<void()>& work, const std::function<void()>& failed) const {
  if (sigsetjmp(resume_point, 0) == 0) {
    work();
  } else {
    failed();
  }
}

}  // namespace codeshell::gpu::host
