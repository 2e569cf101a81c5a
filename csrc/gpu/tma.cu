// Tensor maps are encoded by the driver, whose functions are found at run time: the package links no libcuda, so that it
// imports where there is none. Host code only: tests/gpu/fake_cuda compiles this file against a driver that records
// calls.

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cinttypes>

#include "gpu/runtime_error.h"
#include "gpu/tensor_shape.h"
#include "gpu/tma.h"

namespace codeshell::gpu {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));

namespace {

// A function of the driver, as of CUDA `version`. It is looked up until it is found and then kept: a first call may come
// before the driver is ready.
template <class Function>
class DriverFunction {
 public:
  constexpr DriverFunction(const char* name, unsigned int version) : name_(name), version_(version) {}

  // Null where it is missing; then `status` is the runtime's error, or success if the driver just does not have it.
  Function find(cudaError_t& status) {
    status = cudaSuccess;
    Function function = function_.load(std::memory_order_acquire);
    if (function) return function;
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    status = cudaGetDriverEntryPointByVersion(name_, &address, version_, cudaEnableDefault, &found);
#else
    // The function as of the CUDA that this was built with.
    status = cudaGetDriverEntryPoint(name_, &address, cudaEnableDefault, &found);
#endif
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess || !address) {
      cudaGetLastError();  // it must not fail a later call
      return nullptr;
    }
    function = reinterpret_cast<Function>(address);
    function_.store(function, std::memory_order_release);
    return function;
  }
  Function find() {
    cudaError_t ignored;
    return find(ignored);
  }

 private:
  const char* name_;
  unsigned int version_;
  std::atomic<Function> function_{nullptr};
};

constinit DriverFunction<decltype(&cuTensorMapEncodeTiled)> encode_function("cuTensorMapEncodeTiled", 12000);
constinit DriverFunction<decltype(&cuCtxGetCurrent)> context_function("cuCtxGetCurrent", 4000);
constinit DriverFunction<decltype(&cuGetErrorName)> name_function("cuGetErrorName", 6000);

// Makes the current device's primary context the thread's, if it has none. The runtime does so at a thread's first call
// that needs one, but the encoder is the driver's and does not; and a thread of autograd may come here before anything
// else has called the runtime (torch sets no device where it is the one in force). Since CUDA 12 cudaSetDevice binds the
// context at once. Unlike cudaFree(nullptr) it waits for nothing, so it may come while a graph is captured. Asking costs
// the read of a variable of the thread's, so it is asked every time: contexts can also be taken away.
Error bind_context() {
  CUcontext context = nullptr;
  const auto get_current = context_function.find();
  if (get_current && get_current(&context) == CUDA_SUCCESS && context) return nullptr;
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaSetDevice(device);
  return status == cudaSuccess ? nullptr : error_text("tensor map: no context: %s", runtime_error(status));
}

// The driver's name for the type of an element; additions are done in this type.
CUtensorMapDataType data_type(Element element) {
  switch (element) {
    case Element::kBf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Element::kFp16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Element::kFp32: break;
  }
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

// What the driver refused: its error and all that it was given.
Error refused(CUresult status, const TensorShape& shape) {
  const char* name = nullptr;
  const auto name_of = name_function.find();
  if (!name_of || name_of(status, &name) != CUDA_SUCCESS || !name) name = "an error without a name";
  // "(8, 4, 300)" of each list.
  const auto list = [](char (&text)[128], const auto* numbers, int count) {
    int length = 0;
    for (int i = 0; i < count && length < static_cast<int>(sizeof text); ++i)
      length += std::snprintf(text + length, sizeof text - static_cast<size_t>(length), "%s%" PRIu64, i ? ", " : "",
                              static_cast<uint64_t>(numbers[i]));
    return text;
  };
  char sizes[128] = "", strides[128] = "", box[128] = "";
  return error_text(
      "tensor map: cuTensorMapEncodeTiled says %s (%d) to %u-byte elements at %p, sizes (%s), strides (%s) "
      "bytes, box (%s)%s",
      name, static_cast<int>(status), element_bytes(shape.element), shape.address, list(sizes, shape.sizes, shape.rank),
      list(strides, shape.strides, shape.rank - 1), list(box, shape.box, shape.rank),
      status == CUDA_ERROR_INVALID_VALUE ? "; the GPU may have no TMA: it needs compute capability 9.0" : "");
}

}  // namespace

// Runs on the host and does not wait for the device. The map holds the address, so launchers encode it for every call.
Error encode_tensor_map(TensorMap* map, const TensorShape& shape) {
  if (const Error error = check_tensor_shape(shape)) return error;
  cudaError_t lookup;
  const auto encode = encode_function.find(lookup);
  if (lookup != cudaSuccess) return error_text("tensor map: cuTensorMapEncodeTiled: %s", runtime_error(lookup));
  if (!encode)
    return "tensor map: the driver has no cuTensorMapEncodeTiled: update it to one of CUDA 12 or newer (525 or later)";
  if (const Error error = bind_context()) return error;
  // Every element of a box, none skipped; zeros where a box reaches over the edge.
  const cuuint32_t steps[kMaxRank] = {1, 1, 1, 1, 1};
  const auto swizzle = shape.swizzle == Swizzle::k128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE;
  cuuint64_t sizes[kMaxRank], strides[kMaxRank - 1];
  for (int i = 0; i < kMaxRank; ++i) sizes[i] = shape.sizes[i];
  for (int i = 0; i < kMaxRank - 1; ++i) strides[i] = shape.strides[i];
  // No interleaving; misses of the L2 cache bring 256 bytes.
  const CUresult status =
      encode(reinterpret_cast<CUtensorMap*>(map), data_type(shape.element), static_cast<cuuint32_t>(shape.rank),
             shape.address, sizes, strides, shape.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? nullptr : refused(status, shape);
}

}  // namespace codeshell::gpu
