// Rotary embedding: arguments are checked and become rotary::Arguments, then the kernel of the tensors' device runs.
//
// All checks of the operation are here and not in Python, because a call costs only a few microseconds. Layouts: q and
// k are (batch, seq, heads, dim) or (total, heads, dim); a fused projection qkv is (batch, seq, width) or
// (total, width), where width = (heads + 2 kv_heads) * dim; cos and sin are described at `set_tables`.
#include "rotary/rotary.h"

#include <algorithm>

#include "bindings/gpu.h"
#include "bindings/tensors.h"

namespace codeshell::bindings {

namespace {

using rotary::Arguments;
using rotary::Heads;

// The host execution layer runs the CUDA kernel on CPU tensors. Values of positions and offsets, which a GPU would have
// to be waited for, are not checked then either, so that tests see what the kernel does with them.
#if defined(CODESHELL_HOST_GPU)
constexpr bool kHostExecution = true;
#else
constexpr bool kHostExecution = false;
#endif

constexpr std::int64_t kMostDimensions = 1024;  // the largest head dimension that the kernels serve

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

std::string described(const char* name, const Tensor& tensor) { return std::string(name) + " " + shape_text(tensor); }

// Optional arguments are None where they are absent.
bool given(PyObject* object) { return object != Py_None; }

// The dtypes that the operation takes; the kernels themselves do not take fp64 (`served`).
bool floating(DType dtype) {
  return dtype == DType::fp32 || dtype == DType::bf16 || dtype == DType::fp16 || dtype == DType::fp64;
}

// The kernels' type. Only asked for what they serve, so fp64 never matters here.
rotary::Type type_of(DType dtype) {
  return dtype == DType::bf16 ? rotary::Type::bf16 : dtype == DType::fp16 ? rotary::Type::fp16 : rotary::Type::fp32;
}

// The wording is that of check_one_device in codeshell/ops/library.py.
void check_device(const char* name, const Tensor& tensor, const char* like_name, const Tensor& like) {
  if (!tensor.on_same_device(like))
    refuse(described(name, tensor) + " is on " + device_text(tensor) + ", " + described(like_name, like) + " on " +
           device_text(like) + "; they must be on one device");
}

void check_contiguous(const char* name, const Tensor& tensor) {
  // The strides of a tensor without elements mean nothing.
  for (int i = 0; i < tensor.dimensions; ++i)
    if (tensor.shape[i] == 0) return;
  if (tensor.size(1) > 1 && tensor.stride(1) != 1)
    refuse(described(name, tensor) + " has stride " + std::to_string(tensor.stride(1)) +
           " in its last dimension; that one must be contiguous");
}

// In place, an element that several indices share would be rotated several times.
void check_writable(const char* name, const Tensor& tensor) {
  for (int i = 0; i < tensor.dimensions; ++i)
    if (tensor.shape[i] > 1 && tensor.strides[i] == 0)
      refuse(described(name, tensor) + " is expanded (a stride is 0), so it cannot be written in place");
}

// Where the kernel reads the heads of a tensor (batch, seq, heads, dim) or (total, heads, dim). Tokens without a batch
// dimension are one batch, whose stride is never used.
void set_source(Heads& heads, const Tensor& t) {
  heads.from = t.data;
  heads.from_batch = t.dimensions == 4 ? t.strides[0] : 0;
  heads.from_token = t.stride(3), heads.from_head = t.stride(2);
  heads.count = t.size(2);
}

// Where it writes them; the same place as the source where the call is in place.
void set_target(Heads& heads, const Tensor& t) {
  heads.to = t.data;
  heads.to_batch = t.dimensions == 4 ? t.strides[0] : 0;
  heads.to_token = t.stride(3), heads.to_head = t.stride(2);
}

// The angles of a call, in the order in which Python passes them. Three-dimensional tables are always doubled: they are
// those of transformers.
struct Angles {
  Tensor cos, sin;
  PyObject* positions;
  PyObject* cu_seqlens;
  std::int64_t offset;
  bool interleaved, doubled, conjugate;

  explicit Angles(PyObject* const* arguments)
      : cos(tensor_of(arguments[0], "cos")),
        sin(tensor_of(arguments[1], "sin")),
        positions(arguments[2]),
        cu_seqlens(arguments[3]),
        offset(integer_of(arguments[4], "offset")),
        interleaved(truth_of(arguments[5])),
        doubled(truth_of(arguments[6]) || cos.dimensions == 3),
        conjugate(truth_of(arguments[7])) {}
  static constexpr int kCount = 8;
};

// Tables have one of three shapes: (positions, rotary_dim / 2); doubled (positions, rotary_dim), with each value twice;
// or doubled with a row for each token, (batch or 1, seq, rotary_dim).
void set_tables(Arguments& a, const Angles& angles, const char* name, const Tensor& like) {
  const Tensor &cos = angles.cos, &sin = angles.sin;
  // cos and sin must have one shape, of two or three dimensions.
  bool alike = cos.dimensions == sin.dimensions && (cos.dimensions == 2 || cos.dimensions == 3);
  for (int i = 0; alike && i < cos.dimensions; ++i) alike = cos.shape[i] == sin.shape[i];
  if (!alike)
    refuse(
        described("cos", cos) + ", " + described("sin", sin) +
        ": both must be (positions, rotary_dim / 2), or doubled (positions, rotary_dim) or (batch, seq, rotary_dim)");
  // Tables of the package are fp32, so that far positions keep their angles; those of transformers have the model's
  // dtype.
  if (cos.dtype != sin.dtype || !floating(cos.dtype) ||
      (!angles.doubled && cos.dtype != DType::fp32 && cos.dtype != DType::fp64))
    refuse(described("cos", cos) + " is " + dtype_text(cos.dtype) + " and " + described("sin", sin) + " " +
           dtype_text(sin.dtype) + "; both must be fp32, or one floating-point dtype where they are doubled");
  // One pair of dimensions has one angle. The head may have more dimensions than the tables rotate, not fewer.
  const std::int64_t width = cos.size(1);
  if (angles.doubled && width % 2)
    refuse(described("cos", cos) + " is doubled but has an odd rotary dimension, " + std::to_string(width));
  a.pairs = angles.doubled ? width / 2 : width;
  if (2 * a.pairs > a.dim)
    refuse(described("cos", cos) + " rotates " + std::to_string(2 * a.pairs) + " dimensions, but a head of " +
           described(name, like) + " has " + std::to_string(a.dim) +
           (!angles.doubled && width <= a.dim ? " (tables of transformers: doubled=True)" : ""));
  check_device("cos", cos, name, like);
  check_device("sin", sin, name, like);
  check_contiguous("cos", cos);
  check_contiguous("sin", sin);
  // A table that all batches share has the batch stride 0.
  a.cos = {cos.data, 0, cos.stride(2)};
  a.sin = {sin.data, 0, sin.stride(2)};
  a.rows = cos.size(2);
  // A row for each token: the batch and the sequence must be those of the tensor, or one batch for all.
  if (cos.dimensions == 3) {
    if ((cos.shape[0] != a.batch && cos.shape[0] != 1) || cos.shape[1] != a.seq)
      refuse(described("cos", cos) + " does not go with " + described(name, like) + ": it must be (" +
             std::to_string(a.batch) + " or 1, " + std::to_string(a.seq) + ", rotary_dim)");
    if (cos.shape[0] > 1) a.cos.batch_stride = cos.strides[0];
    if (sin.shape[0] > 1) a.sin.batch_stride = sin.strides[0];
  }
  a.table_type = type_of(cos.dtype);
  // A doubled table of interleaved pairs repeats each value beside itself, so every second column is read; the halves
  // of one that is not interleaved are alike, and only the first is read.
  a.table_step = angles.doubled && angles.interleaved ? 2 : 1;
  a.interleaved = angles.interleaved;
  a.conjugate = angles.conjugate;
}

// Positions on the CPU: the smallest and the largest must be rows of the tables.
template <class T>
void check_position_values(const Arguments& a) {
  const T* positions = static_cast<const T*>(a.positions);
  T low = positions[0], high = positions[0];
  for (std::int64_t b = 0; b < (a.position_batch ? a.batch : 1); ++b)
    for (std::int64_t t = 0; t < a.seq; ++t) {
      const T position = positions[b * a.position_batch + t];
      low = std::min(low, position), high = std::max(high, position);
    }
  if (low < 0 || high >= a.rows)
    refuse("positions run from " + std::to_string(low) + " to " + std::to_string(high) + ", but cos has rows 0 to " +
           std::to_string(a.rows - 1));
}

// Explicit positions: (seq,) for all batches, or (batch, seq). `flat` tokens are (total,), and so are their positions.
void set_positions(Arguments& a, const Angles& angles, const char* name, const Tensor& like, bool flat) {
  const Tensor positions = tensor_of(angles.positions, "positions");
  if (positions.dtype != DType::int32 && positions.dtype != DType::int64)
    refuse(described("positions", positions) + " is " + dtype_text(positions.dtype) +
           "; it must be an integer tensor, int32 or int64");
  // Either all batches share the positions, or each has its own. Flat tokens have no batches to share them.
  const bool shared = positions.dimensions == 1 && positions.shape[0] == a.seq;
  const bool whole = !flat && positions.dimensions == 2 && positions.shape[0] == a.batch && positions.shape[1] == a.seq;
  if (!shared && !whole) {
    const std::string seq = std::to_string(a.seq);
    refuse(described("positions", positions) + " does not go with " + described(name, like) + ": it must be (" + seq +
           ",)" + (!flat ? " or (" + std::to_string(a.batch) + ", " + seq + ")" : ""));
  }
  check_device("positions", positions, name, like);
  check_contiguous("positions", positions);
  a.positions = positions.data;
  a.positions_are_64_bits = positions.dtype == DType::int64;
  a.position_batch = whole && a.batch > 1 ? positions.strides[0] : 0;
  // On a GPU the values are not looked at, because that would wait for it: a bad row gives NaN there.
  if (positions.cuda || kHostExecution || a.seq == 0 || a.batch == 0) return;
  a.positions_are_64_bits ? check_position_values<std::int64_t>(a) : check_position_values<std::int32_t>(a);
}

// Packed sequences: positions count from the start of each, and `offset` is added to all of them.
void set_sequences(Arguments& a, const Angles& angles, const char* name, const Tensor& like, bool flat) {
  const Tensor cu_seqlens = tensor_of(angles.cu_seqlens, "cu_seqlens");
  if (cu_seqlens.dtype != DType::int32 || cu_seqlens.dimensions != 1 || cu_seqlens.shape[0] < 2)
    refuse(described("cu_seqlens", cu_seqlens) + " is " + dtype_text(cu_seqlens.dtype) +
           "; it must be int32 (sequences + 1,)");
  if (!flat)
    refuse("cu_seqlens goes with packed tokens, (total, …), but " + described(name, like) + " has a batch dimension");
  check_device("cu_seqlens", cu_seqlens, name, like);
  check_contiguous("cu_seqlens", cu_seqlens);
  a.cu_seqlens = static_cast<const std::int32_t*>(cu_seqlens.data);
  a.sequences = cu_seqlens.shape[0] - 1;
  if (cu_seqlens.cuda || kHostExecution) return;
  // On the CPU the values are checked: they rise from 0 to all tokens, and the longest sequence fits into the tables.
  std::int64_t longest = 0;
  bool rises = a.cu_seqlens[0] == 0 && a.cu_seqlens[a.sequences] == a.seq;
  for (std::int64_t i = 0; i < a.sequences; ++i) {
    const std::int64_t length = std::int64_t{a.cu_seqlens[i + 1]} - a.cu_seqlens[i];
    rises = rises && length >= 0;
    longest = std::max(longest, length);
  }
  if (!rises)
    refuse(described("cu_seqlens", cu_seqlens) + " must rise from 0 to the " + std::to_string(a.seq) + " tokens of " +
           described(name, like));
  if (a.offset + longest > a.rows)
    refuse("cos has " + std::to_string(a.rows) + " positions, fewer than the " + std::to_string(a.offset + longest) +
           " of the longest sequence in cu_seqlens" + (a.offset ? ", its offset included" : ""));
}

// Sets everything but the heads; batch, seq and dim are set already. `flat`: the tokens are (total,). There are four
// ways to say where the tokens are, and a call uses one of them: positions, cu_seqlens, a table row for each token, or
// none of these, which counts 0, 1, 2 … from `offset`.
void set_angles(Arguments& a, const Angles& angles, const char* name, const Tensor& like, bool flat) {
  set_tables(a, angles, name, like);
  a.offset = angles.offset;
  if (a.offset < 0) refuse("offset is " + std::to_string(a.offset) + "; positions are never negative");
  // cu_seqlens and offset go together, as one way; the others exclude each other.
  const int ways = given(angles.positions) + (given(angles.cu_seqlens) || a.offset != 0);
  if (ways + (angles.cos.dimensions == 3) > 1)
    refuse("positions, cu_seqlens (with an offset) and tables (batch, seq, rotary_dim) each say where the tokens of " +
           described(name, like) + " are; give one of them (cos is " + shape_text(angles.cos) + ")");
  if (given(angles.positions)) return set_positions(a, angles, name, like, flat);
  if (given(angles.cu_seqlens)) return set_sequences(a, angles, name, like, flat);
  // Positions 0, 1, 2 … from the offset: the last one must be a row of the tables.
  if (a.offset + a.seq > a.rows)
    refuse("cos has " + std::to_string(a.rows) + " positions, fewer than the " + std::to_string(a.offset + a.seq) +
           " of " + described(name, like) + (a.offset ? ", its offset included" : ""));
}

void set_dtype(Arguments& a, const char* name, const Tensor& like) {
  if (!floating(like.dtype))
    refuse(described(name, like) + " is " + dtype_text(like.dtype) +
           "; it must be a floating-point tensor: float32, bfloat16, float16 or float64");
  a.type = type_of(like.dtype);
}

// Whether the kernels serve the case. PyTorch computes the rest: fp64, heads beyond kMostDimensions, and all on a GPU
// that does not run the kernels, for which Python gives no stream.
bool served(const Arguments& a, const Tensor& like, const Angles& angles, PyObject* stream) {
  return given(stream) && like.dtype != DType::fp64 && angles.cos.dtype != DType::fp64 && a.dim <= kMostDimensions;
}

// Runs the kernel of the device on which `like`, the argument called `name`, is.
void run(const char* op, const Arguments& a, const Tensor& like, const char* name, PyObject* threads,
         PyObject* stream) {
  // Nothing to do is no error; a launch of no blocks would be one.
  if (a.batch * a.seq == 0 || a.heads == 0 || a.dim == 0) return;
  if (like.cuda || kHostExecution) {
    const auto queue = pointer<void>(static_cast<std::uintptr_t>(integer_of(stream, "stream")));
    if constexpr (gpu::kHasKernels) {
      gpu::Error error = nullptr;
      {
        // A launch may have to wait for the driver. Other Python threads run meanwhile.
        const py::gil_scoped_release release;
        const gpu::OnDevice there(like.device);
        error = rotary::launch_rotary(a, queue);
      }
      if (error) check((std::string(op) + " of " + described(name, like)).c_str(), error);
    } else {
      raise_no_kernels((std::string(op) + ": " + described(name, like) + " is on " + device_text(like)).c_str());
    }
    return;
  }
#if !defined(CODESHELL_HOST_GPU)
  // These two do less than py::gil_scoped_release, and a call on a few tokens is nearly all overhead.
  const auto count = static_cast<int>(integer_of(threads, "threads"));
  PyThreadState* state = PyEval_SaveThread();
  rotary::rotate(a, count);
  PyEval_RestoreThread(state);
#else
  (void)threads;
#endif
}

PyObject* boolean(bool value) { return Py_NewRef(value ? Py_True : Py_False); }

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.dimensions == b.dimensions && std::equal(a.shape, a.shape + a.dimensions, b.shape);
}

// Arguments: (q_out, k_out, q, k, angles…, threads, stream). True, or False where the kernels do not serve the case.
PyObject* rotary_call(PyObject* const* arguments) {
  const Tensor q = tensor_of(arguments[2], "q"), k = tensor_of(arguments[3], "k");
  if (q.dimensions < 3 || q.dimensions > 4 || k.dimensions != q.dimensions)
    refuse(described("q", q) + ", " + described("k", k) +
           ": both must be (batch, seq, heads, dim) or (total, heads, dim)");
  // q and k may differ in their number of heads alone.
  bool alike = q.size(1) == k.size(1);
  for (int i = 0; i < q.dimensions - 2; ++i) alike = alike && q.shape[i] == k.shape[i];
  if (!alike) refuse(described("q", q) + " and " + described("k", k) + " differ in more than their number of heads");
  if (q.dtype != k.dtype)
    refuse(described("q", q) + " is " + dtype_text(q.dtype) + " and " + described("k", k) + " " + dtype_text(k.dtype) +
           "; they must be one floating-point dtype");
  Arguments a;
  a.batch = q.dimensions == 4 ? q.shape[0] : 1;
  a.seq = q.size(3);
  a.dim = q.size(1);
  set_dtype(a, "q", q);
  check_device("k", k, "q", q);
  check_contiguous("q", q);
  check_contiguous("k", k);
  const Angles angles(arguments + 4);
  set_angles(a, angles, "q", q, q.dimensions == 3);
  // The same Python object as input and output means in place. Everything that can be refused has been by now, so an
  // error leaves the tensors as they were.
  const bool in_place = arguments[0] == arguments[2];
  if (in_place) check_writable("q", q), check_writable("k", k);
  if (!served(a, q, angles, arguments[5 + Angles::kCount])) return boolean(false);
  // The outputs are the package's own, so these checks hold unless somebody calls the binding directly.
  const Tensor out_q = in_place ? q : tensor_of(arguments[0], "q_out");
  const Tensor out_k = in_place ? k : tensor_of(arguments[1], "k_out");
  if (!same_shape(out_q, q) || !same_shape(out_k, k) || out_q.dtype != q.dtype || out_k.dtype != q.dtype)
    refuse(described("q_out", out_q) + " and " + described("k_out", out_k) + " are not like q and k");
  // Two parts, q and k: one launch walks the tokens of both, and reads each row of the tables once.
  set_source(a.parts[0], q), set_source(a.parts[1], k);
  set_target(a.parts[0], out_q), set_target(a.parts[1], out_k);
  a.part_count = 2;
  a.heads = q.size(2) + k.size(2);
  run("rotary", a, q, "q", arguments[4 + Angles::kCount], arguments[5 + Angles::kCount]);
  return boolean(true);
}

// Views (…, heads, dim) of the three parts of a fused projection (…, width): Q, then K, then V. Width becomes heads and
// dim; the strides of the leading dimensions stay.
struct Fused {
  Tensor parts[3];

  Fused(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads) {
    const std::int64_t counts[3] = {heads, kv_heads, kv_heads}, dim = qkv.size(1) / (heads + 2 * kv_heads);
    const std::int64_t bytes = qkv.dtype == DType::fp64 ? 8 : qkv.dtype == DType::fp32 ? 4 : 2;
    std::int64_t before = 0;  // heads of the parts before this one
    for (int i = 0; i < 3; ++i) {
      Tensor& part = parts[i];
      part = qkv;
      part.dimensions = qkv.dimensions + 1;
      part.shape[part.dimensions - 2] = counts[i], part.strides[part.dimensions - 2] = dim;
      part.shape[part.dimensions - 1] = dim, part.strides[part.dimensions - 1] = 1;
      part.data = static_cast<char*>(qkv.data) + before * dim * bytes;
      before += counts[i];
    }
  }
};

// What the forward and the backward pass share: checks qkv (or its gradient), and sets everything but the addresses of
// the three parts. V passes through without a rotation.
Arguments fused_arguments(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Angles& angles) {
  if (heads < 1 || kv_heads < 1 || qkv.dimensions < 2 || qkv.dimensions > 3 || qkv.size(1) % (heads + 2 * kv_heads))
    refuse(described("qkv", qkv) +
           ": must be (batch, seq, width) or (total, width), the width a multiple of heads + "
           "2 kv_heads = " +
           std::to_string(heads + 2 * kv_heads));
  Arguments a;
  a.batch = qkv.dimensions == 3 ? qkv.shape[0] : 1;
  a.seq = qkv.size(2);
  a.heads = heads + 2 * kv_heads;
  a.dim = qkv.size(1) / a.heads;
  a.part_count = 3;
  a.parts[2].turns = false;
  set_dtype(a, "qkv", qkv);
  check_contiguous("qkv", qkv);
  set_angles(a, angles, "qkv", qkv, qkv.dimensions == 2);
  return a;
}

// Raises unless a part (q, k or v, or its gradient) is like its view of the fused tensor, apart from the strides.
void check_part(const char* name, const Tensor& part, const Tensor& wanted) {
  if (!same_shape(part, wanted) || part.dtype != wanted.dtype || !part.on_same_device(wanted))
    refuse(described(name, part) + " does not go with qkv: it must be " + shape_text(wanted) + " " +
           dtype_text(wanted.dtype) + " on " + device_text(wanted));
  check_contiguous(name, part);
}

// Arguments: (q, k, v, qkv, bias, heads, kv_heads, angles…, threads, stream). Reads qkv, fills q, k and v.
PyObject* rotary_qkv_call(PyObject* const* arguments) {
  const Tensor qkv = tensor_of(arguments[3], "qkv");
  const std::int64_t heads = integer_of(arguments[5], "heads"), kv_heads = integer_of(arguments[6], "kv_heads");
  const Angles angles(arguments + 7);
  Arguments a = fused_arguments(qkv, heads, kv_heads, angles);
  if (given(arguments[4])) {
    const Tensor bias = tensor_of(arguments[4], "bias");
    if (bias.dimensions != 1 || bias.shape[0] != qkv.size(1) || !floating(bias.dtype))
      refuse(described("bias", bias) + " is " + dtype_text(bias.dtype) + " and does not go with " +
             described("qkv", qkv) + ": it must be (" + std::to_string(qkv.size(1)) + ",), floating-point");
    check_device("bias", bias, "qkv", qkv);
    check_contiguous("bias", bias);
    // PyTorch takes an fp64 bias: it is rounded to the dtype of qkv before it is added.
    if (bias.dtype == DType::fp64) return boolean(false);
    a.bias = bias.data;
    a.bias_type = type_of(bias.dtype);
  }
  if (!served(a, qkv, angles, arguments[8 + Angles::kCount])) return boolean(false);
  const Fused fused(qkv, heads, kv_heads);
  const char* names[3] = {"q", "k", "v"};
  // From the views of qkv to three tensors of their own.
  for (int i = 0; i < 3; ++i) {
    const Tensor part = tensor_of(arguments[i], names[i]);
    check_part(names[i], part, fused.parts[i]);
    set_source(a.parts[i], fused.parts[i]);
    set_target(a.parts[i], part);
  }
  run("rotary_qkv", a, qkv, "qkv", arguments[7 + Angles::kCount], arguments[8 + Angles::kCount]);
  return boolean(true);
}

// Arguments: (grad_q, grad_k, grad_v, grad_qkv, grad_bias, partial_sums, heads, kv_heads, angles…, threads, stream).
// The other direction: reads the gradients of q, k and v, fills that of qkv. The angles are conjugate already.
PyObject* rotary_qkv_backward_call(PyObject* const* arguments) {
  const Tensor qkv = tensor_of(arguments[3], "grad_qkv");
  const std::int64_t heads = integer_of(arguments[6], "heads"), kv_heads = integer_of(arguments[7], "kv_heads");
  const Angles angles(arguments + 8);
  Arguments a = fused_arguments(qkv, heads, kv_heads, angles);
  if (!served(a, qkv, angles, arguments[9 + Angles::kCount])) return boolean(false);
  // The bias's gradient is the sum of grad_qkv over all tokens: (width,), and a row of partial sums for each chunk.
  if (given(arguments[4])) {
    const Tensor sums = tensor_of(arguments[4], "grad_bias"), partial = tensor_of(arguments[5], "partial_sums");
    const std::int64_t chunks = rotary::sum_chunks(a.batch * a.seq), width = qkv.size(1);
    if (sums.dtype != DType::fp32 || sums.dimensions != 1 || sums.shape[0] != width || partial.dtype != DType::fp32 ||
        partial.dimensions != 2 || partial.shape[0] != chunks || partial.shape[1] != width ||
        partial.strides[0] != width)
      refuse(described("grad_bias", sums) + " and " + described("partial_sums", partial) +
             " must be float32 (width,) and (chunks, width)");
    check_device("grad_bias", sums, "grad_qkv", qkv);
    check_device("partial_sums", partial, "grad_qkv", qkv);
    a.sums = static_cast<float*>(sums.data);
    a.partial_sums = static_cast<float*>(partial.data);
  }
  const Fused fused(qkv, heads, kv_heads);
  const char* names[3] = {"grad_q", "grad_k", "grad_v"};
  // From three gradients to the views of one.
  for (int i = 0; i < 3; ++i) {
    const Tensor part = tensor_of(arguments[i], names[i]);
    check_part(names[i], part, fused.parts[i]);
    set_source(a.parts[i], part);
    set_target(a.parts[i], fused.parts[i]);
  }
  run("rotary_qkv_backward", a, qkv, "grad_qkv", arguments[8 + Angles::kCount], arguments[9 + Angles::kCount]);
  return boolean(true);
}

}  // namespace

void bind_rotary(py::module_& module) {
  define_fast(module, "rotary", &fast_call<rotary_call, 6 + Angles::kCount>,
              "Rotates q and k into q_out and k_out; False where the kernels do not serve the case.");
  define_fast(module, "rotary_qkv", &fast_call<rotary_qkv_call, 9 + Angles::kCount>,
              "Adds the bias to a fused projection, rotates q and k, and writes q, k and v; False if not served.");
  define_fast(module, "rotary_qkv_backward", &fast_call<rotary_qkv_backward_call, 10 + Angles::kCount>,
              "Rotates the gradients back into that of the projection, and sums the bias's; False if not served.");
  module.def("rotary_sum_chunks", &rotary::sum_chunks, py::arg("tokens"),
             "Rows of the workspace that rotary_qkv_backward sums the bias gradient in.");
}

}  // namespace codeshell::bindings
