// Decoding attention on a GPU: its plan, its launch, and its schedule for the tests. The caller
// (codeshell/ops/decode_cuda.py) holds the tensors and has checked the call.
#include "attention/decode.h"

#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "attention/decode_schedule.h"
#include "bindings/attention_tensors.h"

namespace codeshell::bindings {

namespace {

namespace decode = attention::decode;

// batch, queries, heads, kv_heads, dim, new_tokens, pages, page_size, pages_a_row, rotary_rows, rotary_half, slots.
// Without a block table a page is a row of the cache: `pages` is `batch`, and `page_size` the capacity.
using Shape = std::array<int, 12>;

// How a launch divides its work: (slots, counters, fp32 numbers of workspace). A slot is a block of the launch for each
// KV head and tile of query rows; the kernel gives every row of the batch at least one slot, and long rows several.
// Shapes alone decide, so the caller can allocate without waiting for the lengths.
std::tuple<int, std::int64_t, std::int64_t> plan(int batch, int queries, int heads, int kv_heads, int dim,
                                                 std::int64_t capacity, int multiprocessors) {
  if (multiprocessors < 1) {
    if constexpr (gpu::kHasKernels) {
      multiprocessors = gpu::multiprocessors();
    } else {
      raise_no_kernels("decode");
    }
  }
  // The query heads of a KV head are rows of one matrix, as all of them read the same keys.
  const int rows = queries * (heads / kv_heads);
  const auto plan = decode::plan_of(batch, kv_heads, rows, capacity, multiprocessors);
  return {plan.slots, plan.counters, decode::workspace_floats(batch, kv_heads, rows, dim, plan)};
}

// The two schedules below are functions of the kernel, which tests compare with the definition of the mask and with the
// best division of the slots. They need no GPU.

// The range of tiles of 64 keys that each split of one row reads.
std::vector<std::pair<int, int>> tiles(int first_token, int last_token, int queries, int total, bool causal, int window,
                                       int splits) {
  const auto keys = decode::keys_of(first_token, last_token, queries, total, causal, window);
  std::vector<std::pair<int, int>> all;
  // A row with few tiles uses fewer splits than it was given: `active` of them.
  for (int split = 0; split < decode::tiles_of(keys, 0, splits).active; ++split) {
    const auto part = decode::tiles_of(keys, split, splits);
    all.emplace_back(part.begin, part.end);
  }
  return all;
}

// How many splits each row of the batch gets, by the tiles of keys that it reads.
std::vector<int> shares(const std::vector<int>& tiles_of_rows, int slots) {
  // As in the kernel: every row has one slot, and those beyond go to rows with many tiles.
  const int batch = static_cast<int>(tiles_of_rows.size());
  if (batch < 1 || slots < batch) throw py::value_error("decode: each row of the batch needs a slot");
  int total = 0;
  for (const int tiles : tiles_of_rows) total += tiles;
  // The splits that all rows need where a split is of `chunk` tiles; the kernel counts them with a whole warp.
  const auto count = [&](int chunk) {
    int sum = 0;
    for (const int tiles : tiles_of_rows) sum += decode::splits_of(tiles, chunk);
    return sum;
  };
  std::vector<int> splits(tiles_of_rows.size(), 1);
  if (slots == batch) return splits;
  // A chunk that is just large enough for every split to have a slot.
  const int chunk = decode::chunk_of(total, batch, slots, count);
  for (size_t row = 0; row < splits.size(); ++row) splits[row] = decode::splits_of(tiles_of_rows[row], chunk);
  return splits;
}

// A call in words, for the message of a launch that failed.
std::string call_text(const Shape& shape, bool paged, bool bf16, bool causal, int window) {
  const auto [batch, queries, heads, kv_heads, dim, new_tokens, pages, page_size, pages_a_row, rotary_rows, rotary_half,
              slots] = shape;
  std::string text = "q " + shape_text({batch, queries, heads, dim}) + ", caches " +
                     shape_text({pages, page_size, kv_heads, dim}) + (bf16 ? ", bfloat16" : ", float16");
  if (paged) text += ", block_table " + shape_text({batch, pages_a_row});
  if (new_tokens) text += ", " + std::to_string(new_tokens) + " new tokens";
  if (causal) text += ", causal";
  return window > 0 ? text + ", a window of " + std::to_string(window) : text;
}

// Absent tensors and tables have the address 0. `out` and `lse` are contiguous, so their address is enough.
void launch(const TensorArgument& q, const TensorArgument& k_cache, const TensorArgument& v_cache,
            const TensorArgument& k_new, const TensorArgument& v_new, std::uintptr_t out, std::uintptr_t lse,
            std::uintptr_t cache_seqlens, std::uintptr_t block_table, std::int64_t block_table_stride,
            std::uintptr_t cos, std::uintptr_t sin, std::uintptr_t workspace, std::uintptr_t counters,
            const Shape& shape, bool bf16, bool interleaved, float scale, bool causal, int window,
            std::uintptr_t stream) {
  const auto [batch, queries, heads, kv_heads, dim, new_tokens, pages, page_size, pages_a_row, rotary_rows, rotary_half,
              slots] = shape;
  // The plan is the kernel's own matter, so it is checked here: a row without a slot would not be computed, and several
  // splits of a row meet in the workspace.
  if (slots < batch) throw py::value_error("decode: each row of the batch needs a slot");
  if (slots > batch && !(workspace && counters)) throw py::value_error("decode: several splits need a workspace");
  // In the order of AttentionDecode's members: tensors, outputs, where the keys are, rotary tables, the memory of the
  // plan; then dtype, sizes, and how the scores are masked.
  if constexpr (kHasHopperKernels) {
    check("decode",
          launch_attention_decode({tensor(q),
                                   tensor(k_cache),
                                   tensor(v_cache),
                                   tensor(k_new),
                                   tensor(v_new),
                                   pointer<void>(out),
                                   pointer<float>(lse),
                                   pointer<const int>(cache_seqlens),
                                   pointer<const int>(block_table),
                                   block_table_stride,
                                   pointer<const float>(cos),
                                   pointer<const float>(sin),
                                   pointer<float>(workspace),
                                   pointer<unsigned int>(counters),
                                   bf16,
                                   batch,
                                   queries,
                                   heads,
                                   kv_heads,
                                   dim,
                                   new_tokens,
                                   pages,
                                   page_size,
                                   pages_a_row,
                                   rotary_rows,
                                   rotary_half,
                                   interleaved,
                                   scale,
                                   causal,
                                   window,
                                   slots},
                                  pointer<void>(stream)),
          [&] { return call_text(shape, block_table != 0, bf16, causal, window); });
  } else {
    raise_no_kernels("decode");
  }
}

}  // namespace

void bind_decode(py::module_& module) {
  module.def("attention_decode_cuda", &launch, py::arg("q"), py::arg("k_cache"), py::arg("v_cache"), py::arg("k_new"),
             py::arg("v_new"), py::arg("out"), py::arg("lse"), py::arg("cache_seqlens"), py::arg("block_table"),
             py::arg("block_table_stride"), py::arg("cos"), py::arg("sin"), py::arg("workspace"), py::arg("counters"),
             py::arg("shape"), py::arg("bf16"), py::arg("interleaved"), py::arg("scale"), py::arg("causal"),
             py::arg("window"), py::arg("stream"));
  module.def("attention_decode_plan", &plan, py::arg("batch"), py::arg("queries"), py::arg("heads"),
             py::arg("kv_heads"), py::arg("dim"), py::arg("capacity"), py::arg("multiprocessors") = 0);
  module.def("attention_decode_tiles", &tiles, py::arg("first_token"), py::arg("last_token"), py::arg("queries"),
             py::arg("total"), py::arg("causal"), py::arg("window"), py::arg("splits"));
  module.def("attention_decode_shares", &shares, py::arg("tiles"), py::arg("slots"));
}

}  // namespace codeshell::bindings
