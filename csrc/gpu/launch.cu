// What is the same for all launches: the device, what a kernel needs before its first launch there, and the words for
// what the runtime refuses. Host code only: tests/gpu/fake_cuda compiles this file against a runtime that records calls.

#include <cuda_runtime.h>
#include <cxxabi.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "gpu/launch.h"
#include "gpu/runtime_error.h"

namespace codeshell::gpu {

namespace {

// Whether kernels count on the registers that they start with: those for debugging do not (gpu/check.h).
#if defined(__CUDACC_DEBUG__)
constexpr bool kMovesRegisters = false;
#else
constexpr bool kMovesRegisters = !kDebugKernels;
#endif

// Beyond it a kernel must ask for its dynamic shared memory.
constexpr size_t kDefaultShared = 48 * 1024;

// While it lives, the runtime allows this thread calls that it would refuse during the capture of a graph because they
// could wait for the device: the first launch of a kernel may be one that is captured. Nothing that they do belongs
// into the graph.
class Uncaptured {
 public:
  Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then the mode that was before
};

// A kernel that is ready on a device for launches with up to so many bytes of dynamic shared memory.
struct Ready {
  const void* kernel;
  int device;
  size_t dynamic_shared;
};

// Those that are, so that a launch pays for one look and not for calls of the runtime. Never destroyed: threads may
// still launch while the process ends.
std::mutex& ready_mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}
std::vector<Ready>& ready_kernels() {
  static auto* const all = new std::vector<Ready>;
  return *all;
}

bool is_ready(const void* kernel, int device, size_t dynamic_shared) {
  const std::lock_guard<std::mutex> lock(ready_mutex());
  for (const Ready& entry : ready_kernels())
    if (entry.kernel == kernel && entry.device == device) return dynamic_shared <= entry.dynamic_shared;
  return false;
}

void forget(const void* kernel, int device) {
  const std::lock_guard<std::mutex> lock(ready_mutex());
  std::erase_if(ready_kernels(), [&](const Ready& e) { return e.kernel == kernel && e.device == device; });
}

void remember(const Ready& entry) {
  forget(entry.kernel, entry.device);
  const std::lock_guard<std::mutex> lock(ready_mutex());
  ready_kernels().push_back(entry);
}

// The kernel's name for messages, without namespaces that say nothing: "attention::forward<64, gpu::bf16>". It stands
// until the thread's next call.
const char* name_of(const void* kernel) {
  static thread_local char text[160];
  std::strcpy(text, "a kernel");
#if CUDART_VERSION >= 12030
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || !mangled) {
    cudaGetLastError();
    return text;
  }
  int status = 0;
  char* plain = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  // Template arguments are kept, the parameters and their parentheses are not.
  const char* from = plain ? plain : mangled;
  if (std::strncmp(from, "void ", 5) == 0) from += 5;
  size_t length = 0;
  int angles = 0;
  for (; *from && length + 1 < sizeof text; ++from) {
    bool skipped = false;
    for (const char* prefix : {"codeshell::", "(anonymous namespace)::"}) {
      if (std::strncmp(from, prefix, std::strlen(prefix)) == 0) {
        from += std::strlen(prefix) - 1;
        skipped = true;
        break;
      }
    }
    if (skipped) continue;
    angles += (*from == '<') - (*from == '>');
    if (*from == '(' && angles == 0) break;
    text[length++] = *from;
  }
  text[length] = '\0';
  std::free(plain);
#else
  (void)kernel;
#endif
  return text;
}

// Asks the kernel what it needs and the device what it gives, and gets the kernel ready. It also loads the kernel's
// code, where the driver loads lazily.
Error prepare(const void* kernel, int device, size_t dynamic_shared, int registers) {
  const Uncaptured uncaptured;
  cudaFuncAttributes attributes{};
  if (const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel); status != cudaSuccess)
    return error_text("%s: %s", name_of(kernel), runtime_error(status));
  // More registers asked for than the block has is no error for the hardware: the warps wait for them for ever.
  if (kMovesRegisters && registers && attributes.numRegs != registers)
    return error_text(
        "%s: was compiled to %d registers per thread and counts on %d, with which it would never end; build codeshell "
        "with another nvcc (13.0 is known to be right), and please report this one",
        name_of(kernel), attributes.numRegs, registers);
  int most = 0;
  if (const cudaError_t status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
      status != cudaSuccess)
    return error_text("%s: %s", name_of(kernel), runtime_error(status));
  const size_t needed = dynamic_shared + attributes.sharedSizeBytes;
  if (needed > static_cast<size_t>(most))
    return error_text(
        "%s: a block needs %zu bytes of shared memory and device %d gives %d; it may be another GPU than the kernel is "
        "for, or a debugger, a profiler or another process under MPS may hold a part of it",
        name_of(kernel), needed, device, most);
  if (dynamic_shared > kDefaultShared) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic_shared));
    if (status != cudaSuccess)
      return error_text("%s: %zu bytes of shared memory: %s", name_of(kernel), needed, runtime_error(status));
  }
  remember({kernel, device, dynamic_shared});
  return nullptr;
}

}  // namespace

Error launch_kernel(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, Stream stream, void** arguments,
                    int registers) {
  // Kernels that need nothing are launched at once; what is wrong with them, the launch says.
  int device = -1;
  if (dynamic_shared > kDefaultShared || registers) {
    if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess)
      return error_text("%s: %s", name_of(kernel), runtime_error(status));
    if (!is_ready(kernel, device, dynamic_shared))
      if (const Error error = prepare(kernel, device, dynamic_shared, registers)) return error;
  }
  const cudaError_t status =
      cudaLaunchKernel(kernel, grid, block, arguments, dynamic_shared, static_cast<cudaStream_t>(stream));
  if (status == cudaSuccess) return nullptr;
  // The device may have been reset, and with it what the kernel asked for: the next launch asks again.
  if (device >= 0) forget(kernel, device);
  return error_text("%s, %u x %u blocks of %u threads, %zu bytes of dynamic shared memory: %s", name_of(kernel), grid.x,
                    grid.y, block.x, dynamic_shared, runtime_error(status));
}

namespace {

constexpr int kDevices = 64;

// An attribute of the current device, or `otherwise` where it cannot be told. Asked once per device, because a launch on
// the host should take little longer than cudaLaunchKernel.
int asked_once(std::atomic<int> (&known)[kDevices], cudaDeviceAttr attribute, int otherwise) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) {
    cudaGetLastError();
    return otherwise;
  }
  int value = known[device].load(std::memory_order_relaxed);
  if (value == 0 && cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess)
    known[device].store(value, std::memory_order_relaxed);
  return value > 0 ? value : otherwise;
}

}  // namespace

int multiprocessors() {
  static std::atomic<int> counts[kDevices];  // zero until asked
  return asked_once(counts, cudaDevAttrMultiProcessorCount, 1);
}

// Every device gives a block 48 KiB without being asked.
int shared_memory_per_block() {
  static std::atomic<int> bytes[kDevices];
  return asked_once(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(kDefaultShared));
}

// Where the device cannot be asked or changed, nothing is set back: the launch itself reports the error.
OnDevice::OnDevice(int device) {
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && current != device && cudaSetDevice(device) == cudaSuccess)
    before_ = current;
}

// Back to the device that was current, if it was changed.
OnDevice::~OnDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace codeshell::gpu
