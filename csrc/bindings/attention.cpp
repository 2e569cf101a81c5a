// Attention on a GPU: the two launches, and their schedules for the tests. The caller (codeshell/ops/attention_cuda.py)
// holds the tensors and has checked the call.
#include "attention/attention.h"

#include <array>
#include <string>
#include <vector>

#include "attention/backward_schedule.h"
#include "attention/forward_schedule.h"
#include "bindings/attention_tensors.h"

namespace codeshell::bindings {

namespace {

// batch, queries, keys, longest, heads, kv_heads, dim. Packed sequences: `batch` of them, of at most `longest` tokens,
// `queries` = `keys` tokens in all. Dense: `longest` is `queries`.
using Shape = std::array<int, 7>;

// A call in words, for the message of a launch that failed.
std::string call_text(const Shape& shape, bool packed, bool bf16, bool causal, int window) {
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  std::string text =
      packed
          ? "q " + shape_text({queries, heads, dim}) + ", k and v " + shape_text({keys, kv_heads, dim})
          : "q " + shape_text({batch, queries, heads, dim}) + ", k and v " + shape_text({batch, keys, kv_heads, dim});
  text += bf16 ? ", bfloat16" : ", float16";
  if (packed) text += ", " + std::to_string(batch) + " sequences of at most " + std::to_string(longest) + " tokens";
  if (causal) text += ", causal";
  return window > 0 ? text + ", a window of " + std::to_string(window) : text;
}

void forward(const TensorArgument& q, const TensorArgument& k, const TensorArgument& v, const TensorArgument& out,
             std::uintptr_t lse, std::uintptr_t cu_seqlens, const Shape& shape, bool bf16, float scale, bool causal,
             int window, std::uintptr_t stream) {
  // In the order of AttentionForward's members.
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  if constexpr (kHasHopperKernels) {
    check("attention",
          launch_attention_forward(
              {tensor(q), tensor(k), tensor(v), tensor(out), pointer<float>(lse), pointer<const int>(cu_seqlens), bf16,
               batch, queries, keys, longest, heads, kv_heads, dim, scale, causal, window},
              pointer<void>(stream)),
          [&] { return call_text(shape, cu_seqlens != 0, bf16, causal, window); });
  } else {
    raise_no_kernels("attention");
  }
}

// The sizes and the mask of a backward pass. They decide how much workspace the launch needs, before there are any
// outputs; `backward` adds the tensors.
AttentionBackward problem(const Shape& shape, bool packed, bool causal, int window) {
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  AttentionBackward a{};
  // The workspace depends on whether there are offsets, and not on what they hold: any address that is not null does.
  static const int some = 0;
  a.cu_seqlens = packed ? &some : nullptr;
  a.batch = batch, a.queries = queries, a.keys = keys, a.longest = longest;
  a.heads = heads, a.kv_heads = kv_heads, a.dim = dim;
  a.causal = causal, a.window = window;
  return a;
}

int64_t workspace(const Shape& shape, bool packed, bool causal, int window) {
  const AttentionBackward a = problem(shape, packed, causal, window);
  if constexpr (kHasHopperKernels) {
    return attention_backward_workspace(a);
  } else {
    raise_no_kernels("attention");
  }
}

void backward(const std::array<TensorArgument, 8>& tensors, std::uintptr_t lse, std::uintptr_t cu_seqlens,
              std::uintptr_t workspace, const Shape& shape, bool bf16, float scale, bool causal, int window,
              bool deterministic, std::uintptr_t stream) {
  AttentionBackward a = problem(shape, cu_seqlens != 0, causal, window);
  // What the forward pass read and wrote, the gradient that comes in, and the three that go out.
  a.q = tensor(tensors[0]), a.k = tensor(tensors[1]), a.v = tensor(tensors[2]), a.out = tensor(tensors[3]);
  a.grad = tensor(tensors[4]), a.dq = tensor(tensors[5]), a.dk = tensor(tensors[6]), a.dv = tensor(tensors[7]);
  a.lse = pointer<const float>(lse), a.cu_seqlens = pointer<const int>(cu_seqlens);
  a.workspace = pointer<void>(workspace);
  a.bf16 = bf16, a.scale = scale, a.deterministic = deterministic;
  if constexpr (kHasHopperKernels) {
    check("attention_backward", launch_attention_backward(a, pointer<void>(stream)),
          [&] { return call_text(shape, cu_seqlens != 0, bf16, causal, window); });
  } else {
    raise_no_kernels("attention");
  }
}

// The rest are the schedules of the two kernels, which tests compare with the definition of the mask: that each tile is
// visited once, and that its blocks of keys are those that a query of it sees. They need no GPU.

// The visits of a backward launch, in the order in which its blocks make them.
std::vector<std::array<int, 8>> visits(const Shape& shape, bool causal, int window, int splits) {
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  // A block of the launch owns 128 keys of one KV head and visits the tiles of queries that see them, for `part` of the
  // group's query heads.
  const int rows = attention::query_rows(dim), part = heads / kv_heads / splits;
  const attention::BackwardSchedule schedule{(keys + attention::kBlockKeys - 1) / attention::kBlockKeys, batch,
                                             kv_heads, splits};
  std::vector<std::array<int, 8>> all;
  for (int i = 0; i < attention::tiles(schedule); ++i) {
    const auto tile = attention::tile_of(schedule, i);
    const auto range = attention::query_tiles(tile.key_block, queries, keys, causal, window, rows);
    // As in the kernel: the last tile of queries first, and for each tile the heads in ascending order.
    for (int visit = (range.end - range.begin) * part - 1; visit >= 0; --visit) {
      // How many blocks of keys before this one the tile sees: with a fixed order of additions to dQ, so many come
      // first.
      const int query_tile = range.begin + visit / part, head = part - 1 - visit % part;
      all.push_back({i, tile.key_block, tile.kv_head, tile.sequence, (tile.kv_head * splits + tile.split) * part + head,
                     query_tile,
                     tile.key_block - attention::first_key_block(query_tile, queries, keys, causal, window, rows),
                     attention::sees_all(tile.key_block, query_tile, queries, keys, causal, window, rows)});
    }
  }
  return all;
}

// How many blocks share the query heads of a KV head, so that a launch with few keys still fills the GPU.
int splits(const Shape& shape, bool causal, int window, int multiprocessors) {
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  return attention::splits_of(queries, keys, batch, heads, kv_heads, dim, causal, window, multiprocessors);
}

// The tiles of a forward launch in the order in which they start, each with the range of its blocks of keys.
std::vector<std::array<int, 7>> tiles(const Shape& shape, bool causal, int window) {
  const auto [batch, queries, keys, longest, heads, kv_heads, dim] = shape;
  const auto schedule = attention::schedule_of(queries, keys, batch, heads, kv_heads, dim);
  std::vector<std::array<int, 7>> all;
  for (int i = 0; i < attention::tiles(schedule); ++i) {
    const auto tile = attention::tile_of(schedule, i);
    // Blocks in [free_begin, free_end) are seen whole; the others of [begin, end) need the mask.
    const auto blocks = attention::key_blocks(tile.row_block, queries, keys, causal, window);
    all.push_back(
        {tile.row_block, tile.head, tile.sequence, blocks.begin, blocks.free_begin, blocks.free_end, blocks.end});
  }
  return all;
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention_forward_cuda", &forward, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
             py::arg("lse"), py::arg("cu_seqlens"), py::arg("shape"), py::arg("bf16"), py::arg("scale"),
             py::arg("causal"), py::arg("window"), py::arg("stream"));
  module.def("attention_backward_cuda", &backward, py::arg("tensors"), py::arg("lse"), py::arg("cu_seqlens"),
             py::arg("workspace"), py::arg("shape"), py::arg("bf16"), py::arg("scale"), py::arg("causal"),
             py::arg("window"), py::arg("deterministic"), py::arg("stream"));
  module.def("attention_backward_workspace", &workspace, py::arg("shape"), py::arg("packed"), py::arg("causal"),
             py::arg("window"));
  module.def("attention_visits", &visits, py::arg("shape"), py::arg("causal"), py::arg("window"), py::arg("splits"));
  module.def("attention_splits", &splits, py::arg("shape"), py::arg("causal"), py::arg("window"),
             py::arg("multiprocessors"));
  module.def("attention_tiles", &tiles, py::arg("shape"), py::arg("causal"), py::arg("window"));
}

}  // namespace codeshell::bindings
