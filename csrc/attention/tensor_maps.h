// The tensor maps of attention's kernels: one encoding for forward, backward and decoding.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "gpu/tma.h"

namespace codeshell::attention {

// Columns of a tile's panel: 64 values of 16 bits are the 128 bytes of the swizzle. A head of 128 is two panels, which
// lie one after another in shared memory.
inline constexpr int kPanel = 64;

// Sizes of a 16-bit tensor (batch, tokens, heads, dim). Packed sequences, and pages of a cache, are its batch.
struct MapSizes {
  int batch, tokens, heads, dim;
};

// A map whose box is one panel of one head for `box_tokens` neighbouring tokens. Coordinates of a copy, innermost first:
// column, head, token, batch. Beyond the last token a copy reads zeros and writes nothing.
inline gpu::Error encode(gpu::TensorMap& map, const AttentionTensor& x, bool bf16, const MapSizes& sizes,
                         int box_tokens) {
  const auto size = [](int n) { return static_cast<uint64_t>(n); };
  // In bytes. A dimension of size 1 may have any stride in torch; TMA wants a multiple of 16, documented as a row at
  // least, so it gets a row.
  const auto stride = [&](int n, int64_t elements) {
    return static_cast<uint64_t>(2 * (n == 1 ? sizes.dim : elements));
  };
  return gpu::encode_tensor_map(&map, {bf16 ? gpu::Element::kBf16 : gpu::Element::kFp16,
                                       4,
                                       x.data,
                                       {size(sizes.dim), size(sizes.heads), size(sizes.tokens), size(sizes.batch)},
                                       {stride(sizes.heads, x.head_stride), stride(sizes.tokens, x.token_stride),
                                        stride(sizes.batch, x.batch_stride)},
                                       {kPanel, 1, static_cast<uint32_t>(box_tokens), 1},
                                       gpu::Swizzle::k128});
}

}  // namespace codeshell::attention
