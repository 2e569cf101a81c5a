#include "adamw/adamw_cpu.h"

#include <algorithm>

#include "simd/kernels.h"
#include "simd/parallel.h"

namespace codeshell::adamw {

namespace {

// Elements of one task: some ten microseconds, against about one for handing it out.
constexpr std::int64_t kTask = 4 * kChunk;

std::int64_t bytes_of(Type type) { return type == Type::fp32 ? 4 : 2; }

void* advance(void* base, std::int64_t bytes) { return static_cast<char*>(base) + bytes; }

// What the chunks of one tensor share.
struct Prepared {
  Coefficients coefficients;
  std::uint64_t step;
};

}  // namespace

Table::Table(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& streams) {
  tensors.resize(sizes.size());
  std::int64_t elements = kTask;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    tensors[i] = {};
    tensors[i].size = sizes[i];
    tensors[i].stream = streams[i];
    for (std::int64_t at = 0; at < sizes[i]; at += kChunk) {
      if (elements >= kTask) tasks.push_back(static_cast<std::int64_t>(chunks.size())), elements = 0;
      chunks.push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(at / kChunk)});
      elements += std::min(kChunk, sizes[i] - at);
    }
  }
  tasks.push_back(static_cast<std::int64_t>(chunks.size()));
}

bool step_cpu(const Table& table, const Scheme& scheme, const Settings& settings, int threads) {
  if (settings.found_inf && *settings.found_inf != 0) return false;
  std::vector<Prepared> prepared(table.tensors.size());
  const Prepared* last = nullptr;
  for (std::size_t i = 0; i < prepared.size(); ++i) {
    const Tensor& tensor = table.tensors[i];
    if (!tensor.gradient) continue;
    const auto step = static_cast<std::uint64_t>(*tensor.step) + 1;
    prepared[i] =
        last && last->step == step ? *last : Prepared{coefficients_of(settings, static_cast<double>(step)), step};
    last = &prepared[i];
  }
  const std::int64_t param = bytes_of(scheme.param), gradient = bytes_of(scheme.gradient),
                     moment = bytes_of(scheme.moment);
  const auto kernel = simd::kernels().adamw;
  simd::parallel_for(threads, static_cast<std::int64_t>(table.tasks.size()) - 1, [&](std::int64_t task) {
    for (std::int64_t i = table.tasks[task]; i < table.tasks[task + 1]; ++i) {
      const Tensor& tensor = table.tensors[table.chunks[i].tensor];
      if (!tensor.gradient) continue;
      const Prepared& mine = prepared[table.chunks[i].tensor];
      const std::int64_t at = table.chunks[i].piece * kChunk;
      Span span{advance(tensor.param, at * param),
                advance(tensor.gradient, at * gradient),
                advance(tensor.exp_avg, at * moment),
                advance(tensor.exp_avg_sq, at * moment),
                tensor.master + (scheme.master ? at : 0),
                static_cast<long>(std::min(kChunk, tensor.size - at)),
                static_cast<std::uint32_t>(at),
                {},
                settings.grad_scale != nullptr};
      if (scheme.stochastic) span.keys = keys_of(settings.seed, mine.step, tensor.stream, at >> 32);
      kernel(span, scheme, mine.coefficients);
    }
  });
  for (std::size_t i = 0; i < prepared.size(); ++i)
    if (table.tensors[i].gradient) *table.tensors[i].step = static_cast<float>(prepared[i].step);
  return true;
}

double sum_of_squares_cpu(const Table& table, Type gradient, int threads) {
  std::vector<double> sums(table.chunks.size());
  const std::int64_t bytes = bytes_of(gradient);
  const auto kernel = simd::kernels().sum_of_squares;
  simd::parallel_for(threads, static_cast<std::int64_t>(table.tasks.size()) - 1, [&](std::int64_t task) {
    for (std::int64_t i = table.tasks[task]; i < table.tasks[task + 1]; ++i) {
      const Tensor& tensor = table.tensors[table.chunks[i].tensor];
      const std::int64_t at = table.chunks[i].piece * kChunk;
      if (tensor.gradient)
        sums[i] = kernel(advance(tensor.gradient, at * bytes), static_cast<long>(std::min(kChunk, tensor.size - at)),
                         gradient);
    }
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace codeshell::adamw
