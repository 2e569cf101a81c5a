// The rules of TMA for a tensor and its box. The driver's encoder has one error code for all of them; here each has
// words. Both builds check them: before the driver's encoder, and before the host's copies.
#pragma once

#include "gpu/tma.h"

namespace codeshell::gpu {

// Bytes of an element.
constexpr uint32_t element_bytes(Element element) { return element == Element::kFp32 ? 4 : 2; }

// Null, or which rule the shape breaks.
inline Error check_tensor_shape(const TensorShape& shape) {
  if (shape.rank < 1 || shape.rank > kMaxRank) return "tensor map: rank not in 1 to 5";
  if (static_cast<uint8_t>(shape.element) > 2 || static_cast<uint8_t>(shape.swizzle) > 1)
    return "tensor map: unknown element or swizzle";
  if (!shape.address || reinterpret_cast<uintptr_t>(shape.address) % 16)
    return "tensor map: the address is not a multiple of 16";
  const uint32_t bytes = element_bytes(shape.element);
  // Dimension 0 is contiguous and has no stride.
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.sizes[i] < 1 || shape.sizes[i] > uint64_t{1} << 32) return "tensor map: a size not in 1 to 2^32";
    if (shape.box[i] < 1 || shape.box[i] > 256) return "tensor map: a box dimension not in 1 to 256";
    if (i > 0 && (shape.strides[i - 1] % 16 || shape.strides[i - 1] >= uint64_t{1} << 40))
      return "tensor map: a stride that is not a multiple of 16 below 2^40";
  }
  if (shape.box[0] * bytes % 16) return "tensor map: the box's rows are not multiples of 16 bytes";
  // The hardware takes shorter rows too; ours fill the swizzle, which keeps one rule for where a chunk lies.
  if (shape.swizzle == Swizzle::k128 && shape.box[0] * bytes != 128)
    return "tensor map: with the 128-byte swizzle the box's rows must be 128 bytes";
  return nullptr;
}

}  // namespace codeshell::gpu
