// AdamW on the CPU: which thread updates what, and when. adamw_cpu.inc has the arithmetic.
//
// Tensors are cut into chunks of 8,192 elements, and neighbouring chunks are gathered into tasks of about 32,768, so
// that thousands of small tensors do not become thousands of tasks.
#include "adamw/adamw_cpu.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "simd/parallel.h"

namespace codeshell::adamw {

namespace {

// Elements of one task: some ten microseconds, against about one for handing it out.
constexpr std::int64_t kTask = 4 * kChunk;

// Bytes of an element.
std::int64_t bytes_of(Type type) { return type == Type::fp32 ? 4 : 2; }

void* advance(void* base, std::int64_t bytes) { return static_cast<char*>(base) + bytes; }

// The coefficients of the tensors of one step. Neighbours that have been updated equally often share them. Addresses
// stay valid while more are added (a deque).
class Preparation {
 public:
  explicit Preparation(const Settings& settings) : settings_(settings) {}

  const Prepared* of(const Tensor& tensor) {
    const auto step = static_cast<std::uint64_t>(*tensor.step) + 1;
    if (all_.empty() || all_.back().step != step)
      all_.push_back({step, coefficients_of(settings_, static_cast<double>(step))});
    return &all_.back();
  }

 private:
  const Settings& settings_;
  std::deque<Prepared> all_;
};

// The arrays of a tensor from element `at`.
struct Place {
  const Tensor& tensor;
  std::int64_t at;
};

// Asks for the first cache lines of what a task comes to next: a processor's own prefetching starts anew with each
// array.
void prefetch(const Place& place, std::int64_t param, std::int64_t gradient, std::int64_t moment) {
  constexpr int kLines = 8;
  const Tensor& t = place.tensor;
  const std::pair<const void*, std::int64_t> arrays[4] = {
      {t.param, param}, {t.gradient, gradient}, {t.exp_avg, moment}, {t.exp_avg_sq, moment}};
  for (const auto& [base, bytes] : arrays)
    for (int line = 0; line < kLines; ++line)
      __builtin_prefetch(static_cast<const char*>(base) + place.at * bytes + 64 * line, 1);
}

}  // namespace

Table::Table(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& streams) {
  tensors.resize(sizes.size());
  // As if a full task came before, so that the first chunk begins one.
  std::int64_t elements = kTask;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    tensors[i] = {};
    tensors[i].size = sizes[i];
    tensors[i].stream = streams[i];
    for (std::int64_t at = 0; at < sizes[i]; at += kChunk) {
      // A new task begins when the last one is full.
      if (elements >= kTask) tasks.push_back(static_cast<std::int64_t>(chunks.size())), elements = 0;
      chunks.push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(at / kChunk)});
      elements += std::min(kChunk, sizes[i] - at);
    }
  }
  tasks.push_back(static_cast<std::int64_t>(chunks.size()));
  prepared.resize(tensors.size());
}

void step_cpu(Table& table, const Scheme& scheme, const Settings& settings, int threads,
              const std::function<std::int64_t(std::int64_t first, std::int64_t last)>& read,
              const std::function<void()>& all_read) {
  if (settings.found_inf && *settings.found_inf != 0) return;
  // The last entry of `tasks` is the end of the last one.
  const auto tasks = static_cast<std::int64_t>(table.tasks.size()) - 1,
             count = static_cast<std::int64_t>(table.tensors.size());
  Preparation preparation(settings);
  std::int64_t done = 0;
  // Reads the addresses of the tensors up to `last` and prepares those that fit. Returns whether all did.
  const auto read_until = [&](std::int64_t last) {
    const std::int64_t fit = read(done, last);
    for (; done < fit; ++done) {
      const Tensor& tensor = table.tensors[done];
      if (!tensor.gradient) continue;
      table.prepared[done] = preparation.of(tensor);
      // Counted up here, by one thread: the tasks take the step from `prepared`.
      *tensor.step = static_cast<float>(table.prepared[done]->step);
    }
    for (; done < last; ++done) table.tensors[done].gradient = nullptr;  // left alone, as all after them
    return fit == last;
  };
  // No chunks: there are only empty tensors, whose steps still count.
  if (tasks == 0) {
    read_until(count);
    return all_read();
  }
  const std::int64_t param = bytes_of(scheme.param), gradient = bytes_of(scheme.gradient),
                     moment = bytes_of(scheme.moment);
  // The function for this processor, looked up once.
  const auto kernel = cpu_kernels().step;
  // A task: its chunks one after another.
  const auto work = [&](std::int64_t task) {
    const std::int64_t end = table.tasks[task + 1];
    for (std::int64_t i = table.tasks[task]; i < end; ++i) {
      // The next chunk comes into the cache while this one is computed.
      if (i + 1 < end) {
        const Chunk& next = table.chunks[i + 1];
        prefetch({table.tensors[next.tensor], next.piece * kChunk}, param, gradient, moment);
      }
      const Tensor& tensor = table.tensors[table.chunks[i].tensor];
      if (!tensor.gradient) continue;
      // The coefficients of its tensor.
      const Prepared& mine = *table.prepared[table.chunks[i].tensor];
      const std::int64_t at = table.chunks[i].piece * kChunk;
      // The piece of every array. keys_of needs the bits of the index above 32.
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
  };
  // This thread reads addresses, task by task, while the others update what has been read; then it works too.
  simd::parallel_as_made(
      threads, tasks,
      [&](std::int64_t task) {
        // Empty tensors have no chunk: they are read with what comes after them.
        return read_until(task + 1 < tasks ? table.chunks[table.tasks[task + 1] - 1].tensor + 1 : count);
      },
      all_read, work);
}

// Chunks in parallel, then their sums in order.
double sum_of_squares_cpu(const Table& table, Type gradient, int threads) {
  std::vector<double> sums(table.chunks.size());
  const std::int64_t bytes = bytes_of(gradient);
  const auto kernel = cpu_kernels().sum_of_squares;
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
