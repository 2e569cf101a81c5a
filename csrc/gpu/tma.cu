// Tensor maps are encoded by the driver, which is found at run time: the package links no libcuda, so that it imports
// where there is none.

#include <cuda.h>
#include <cuda_runtime.h>

#include "gpu/tensor_shape.h"
#include "gpu/tma.h"

namespace codeshell::gpu {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));

namespace {

// The driver's function; null where the driver is older than CUDA 12, or missing.
using Encode = decltype(&cuTensorMapEncodeTiled);

// The lookup goes through cudart. Its error is cleared: it must not fail a later call.
Encode find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return reinterpret_cast<Encode>(function);
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

}  // namespace

// Runs on the host and does not wait for the device. The map holds the address, so launchers encode it for every call.
Error encode_tensor_map(TensorMap* map, const TensorShape& shape) {
  if (const Error error = check_tensor_shape(shape)) return error;
  // Looked up once per process.
  static const Encode encode = find_encoder();
  if (!encode) return "tensor map: the driver has no cuTensorMapEncodeTiled (it must be of CUDA 12 or newer)";
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
  return status == CUDA_SUCCESS ? nullptr : "tensor map: cuTensorMapEncodeTiled refuses the shape";
}

}  // namespace codeshell::gpu
