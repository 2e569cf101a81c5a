// The gradient of the cross-entropy over rows of logits, in place and on a GPU: what a call takes. No CUDA, no torch.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell::loss {

enum class Type : std::uint8_t { fp32, bf16, fp16 };

// logits (rows, vocabulary) become (softmax - one-hot) * scale, and losses (rows,) the negative log-probability of each
// target, in nats and without the scale.
//
// A row whose target is `ignore_index` becomes zeros, and its loss is 0, whatever its logits are. A row whose target
// lies outside the vocabulary becomes NaN, and so does its loss: the host does not wait for the targets, so nobody can
// have checked them.
struct SoftmaxGradient {
  void* logits;
  std::int64_t row_stride;  // elements, at least `vocabulary`; what lies between the rows is not touched
  const std::int64_t* targets;
  float* losses;
  const float* scale_pointer;  // on the device; null: `scale`
  float scale;
  float* partials;  // (rows, splits, 2), scratch; null where splits is 1
  std::int64_t rows;
  std::int64_t vocabulary;  // at most kMostTokens
  std::int64_t ignore_index;
  int splits;
  Type type;
};

// The largest vocabulary: numbers within a row are 32-bit.
inline constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;

// Into how many parts the rows are split, so that few rows still fill a GPU: 1 where there are rows enough. At most 32,
// which one warp adds up; no part is smaller than 2 KiB. `bytes`: of an element.
inline int softmax_gradient_splits(std::int64_t rows, std::int64_t vocabulary, int bytes, int multiprocessors) {
  constexpr std::int64_t kSmallest = 2048, kMost = 32, kBlocks = 2;  // kBlocks: of a multiprocessor
  const std::int64_t room = kBlocks * multiprocessors / (rows > 0 ? rows : 1);
  const std::int64_t parts = vocabulary * bytes / kSmallest;
  const std::int64_t splits = room < parts ? room : parts;
  return static_cast<int>(splits < 1 ? 1 : splits < kMost ? splits : kMost);
}

// One launch, two where the rows are split. It takes the device that is current, and neither synchronises nor
// allocates. No rows, no launch.
gpu::Error launch_softmax_gradient(const SoftmaxGradient& arguments, gpu::Stream stream);

}  // namespace codeshell::loss
