// The Python module fake_cuda: csrc/gpu/tma.cu and csrc/gpu/launch.cu, which are host code, compiled against a CUDA that
// has no GPU. It notes every call and answers what the test has chosen. So tests see the order of calls, what happens on
// a thread without a context, and the words of every error.
//
// The fake keeps to what CUDA documents: each thread has a context of its own or none, cudaSetDevice binds the device's
// primary context, the encoder answers CUDA_ERROR_INVALID_CONTEXT where there is none.

#include <cuda.h>
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "attention/tensor_maps.h"
#include "gpu/launch.h"
#include "gpu/tma.h"

namespace py = pybind11;

// What a test chooses, and what was called. The GIL guards it: nothing here releases it.
namespace {

struct Fake {
  std::vector<std::string> calls;
  std::map<std::string, std::vector<int>> answers;  // by name: those of the next calls, then success
  int shared_limit = 232448;                        // of sm_90: 227 KiB
  int registers = 168;
  int static_shared = 1024;
  int multiprocessors = 132;
  bool capturing = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  cudaError_t last_error = cudaSuccess;
  std::vector<uint64_t> strides;  // those of the last map
};
Fake fake;

// The thread's device, and whether its context is current.
thread_local int device_here = 0;
thread_local bool context_here = false;

// Notes a call, and takes the answer that is next for it.
int called(const std::string& name, const std::string& detail = "") {
  fake.calls.push_back(detail.empty() ? name : name + " " + detail);
  auto& left = fake.answers[name];
  if (left.empty()) return 0;
  const int answer = left.front();
  left.erase(left.begin());
  return answer;
}

cudaError_t answered(const std::string& name, const std::string& detail = "") {
  const auto status = static_cast<cudaError_t>(called(name, detail));
  if (status != cudaSuccess) fake.last_error = status;
  return status;
}

// Calls that CUDA refuses while a graph is captured, unless the thread's mode is relaxed.
cudaError_t unsafe(const std::string& name, const std::string& detail = "") {
  const cudaError_t status = answered(name, detail);
  if (status != cudaSuccess || !fake.capturing || fake.mode == cudaStreamCaptureModeRelaxed) return status;
  return fake.last_error = cudaErrorStreamCaptureUnsupported;
}

}  // namespace

// The driver.

CUresult cuCtxGetCurrent(CUcontext* context) {
  static int some;
  *context = context_here ? reinterpret_cast<CUcontext>(&some) : nullptr;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_INVALID_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
          : error == CUDA_ERROR_INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
                                                : nullptr;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t rank, void*, const cuuint64_t*,
                                const cuuint64_t* strides, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  fake.strides.assign(strides, strides + rank - 1);
  const auto status = static_cast<CUresult>(called("cuTensorMapEncodeTiled"));
  return context_here ? status : CUDA_ERROR_INVALID_CONTEXT;
}

// The runtime.

cudaError_t cudaGetLastError() {
  const cudaError_t status = fake.last_error;
  fake.last_error = cudaSuccess;
  return status;
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorName"; }
const char* cudaGetErrorString(cudaError_t) { return "CUDA's own words"; }

cudaError_t cudaGetDevice(int* device) {
  const cudaError_t status = answered("cudaGetDevice");
  if (status == cudaSuccess) *device = device_here;
  return status;
}
cudaError_t cudaSetDevice(int device) {
  const cudaError_t status = answered("cudaSetDevice", std::to_string(device));
  if (status == cudaSuccess) device_here = device, context_here = true;
  return status;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const cudaError_t status = answered("cudaDeviceGetAttribute");
  if (status == cudaSuccess)
    *value = attribute == cudaDevAttrMultiProcessorCount ? fake.multiprocessors : fake.shared_limit;
  return status;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, fake.mode);
  return answered("cudaThreadExchangeStreamCaptureMode");
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  const cudaError_t status = unsafe("cudaFuncGetAttributes");
  if (status == cudaSuccess) *attributes = {static_cast<size_t>(fake.static_shared), fake.registers};
  return status;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return unsafe("cudaFuncSetAttribute", std::to_string(value));
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t) {
  return answered("cudaLaunchKernel", std::to_string(grid.x) + " " + std::to_string(block.x) + " " +
                                          std::to_string(shared) + " on " + std::to_string(device_here));
}
namespace {
cudaError_t look_up(const std::string& name, void** function, cudaDriverEntryPointQueryResult* found,
                    const std::string& detail) {
  // An answer of -1: the driver does not have it.
  const int answer = called("lookup " + name, detail);
  if (answer > 0) return fake.last_error = static_cast<cudaError_t>(answer);
  *found = answer < 0 ? cudaDriverEntryPointSymbolNotFound : cudaDriverEntryPointSuccess;
  *function = answer < 0                         ? nullptr
              : name == "cuCtxGetCurrent"        ? reinterpret_cast<void*>(&cuCtxGetCurrent)
              : name == "cuGetErrorName"         ? reinterpret_cast<void*>(&cuGetErrorName)
              : name == "cuTensorMapEncodeTiled" ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled)
                                                 : nullptr;
  return cudaSuccess;
}
}  // namespace
#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int version,
                                             unsigned long long, cudaDriverEntryPointQueryResult* found) {
  return look_up(name, function, found, std::to_string(version));
}
#else
cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* found) {
  return look_up(name, function, found, "");
}
#endif
#if CUDART_VERSION >= 12030
cudaError_t cudaFuncGetName(const char** name, const void*) {
  *name = "_ZN9codeshell9attention12_GLOBAL__N_17forwardILi64ENS_3gpu4bf16EEEvNS1_10ParametersE";
  return answered("cudaFuncGetName");
}
#endif

namespace codeshell::gpu {
Error launch_kernel(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, Stream stream, void** arguments,
                    int registers);
}

namespace {

using namespace codeshell;

std::optional<std::string> words(gpu::Error error) { return error ? std::optional<std::string>(error) : std::nullopt; }

}  // namespace

PYBIND11_MODULE(CODESHELL_MODULE, module) {
  module.attr("version") = CUDART_VERSION;
  module.def("answer", [](const std::string& name, const std::vector<int>& answers) { fake.answers[name] = answers; });
  module.def("calls", [] { return std::exchange(fake.calls, {}); });
  module.def("last_error", [] { return static_cast<int>(fake.last_error); });
  module.def("set_kernel", [](int registers, int static_shared) {
    fake.registers = registers;
    fake.static_shared = static_shared;
  });
  module.def("set_shared_limit", [](int bytes) { fake.shared_limit = bytes; });
  module.def("set_capturing", [](bool on) { fake.capturing = on; });
  module.def("capture_mode", [] { return static_cast<int>(fake.mode); });
  module.def("set_thread", [](int device, bool context) { device_here = device, context_here = context; });
  module.def("thread", [] { return std::pair(device_here, context_here); });
  // A map of (batch, tokens, heads, dim) in 16 bits as attention's launchers make it; strides in elements.
  module.def(
      "encode",
      [](std::uintptr_t address, int batch, int tokens, int heads, int dim, int64_t batch_stride, int64_t token_stride,
         int64_t head_stride) {
        gpu::TensorMap map;
        const AttentionTensor x{reinterpret_cast<void*>(address), batch_stride, token_stride, head_stride};
        return words(attention::encode(map, x, true, {batch, tokens, heads, dim}, 64));
      },
      py::arg("address"), py::arg("batch"), py::arg("tokens"), py::arg("heads"), py::arg("dim"),
      py::arg("batch_stride"), py::arg("token_stride"), py::arg("head_stride"));
  module.def("strides", [] { return fake.strides; });
  module.def("launch", [](int kernel, size_t dynamic_shared, int registers) {
    static const char kernels[8] = {};
    void* arguments[1] = {};
    return words(
        gpu::launch_kernel(kernels + kernel, {7, 1, 1}, {384, 1, 1}, dynamic_shared, nullptr, arguments, registers));
  });
  module.def("on_device", [](int device) {
    const gpu::OnDevice there(device);
    return device_here;
  });
  module.def("multiprocessors", &gpu::multiprocessors);
}
