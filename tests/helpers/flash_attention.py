"""A stand-in for the FlashAttention 2 that torch has for GPUs, so that code around it can be tested on a CPU.

`FlashAttention()` is a context in which `aten::_flash_attention_forward` and `aten::_flash_attention_backward` have
kernels for tensors of a CPU, and so have `torch.nn.attention.varlen.varlen_attn` and whatever else calls the two. On
the GPU of helpers.simulated_gpu, `codeshell.ops.flash` uses them. The results are computed in fp64 from the definition.
All else is as in torch's C++ (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp), as far as a caller sees
it:

- What torch refuses is refused in its words, by RuntimeError; what the GPU would answer by a fault or by reading
  somewhere else (an address that is not of 16 bytes, offsets outside of the tensor) by AssertionError.
- Rows and keys that the grid does not reach, because a maximum is too small, stay what memory was: NaN here.
- A query that sees no key has zeros, and a log-sum-exp of *plus* infinity.
- A window that is at least the longest sequence is taken for none, and one that has a bound on one side only gets
  max_k for the other. Both are wrong for more queries than keys, and a caller has to avoid that.
- One query for each sequence, with groups of heads and no window, is turned into a batch of groups, which needs a query
  in every sequence.
- The backward pass is deterministic if `torch.use_deterministic_algorithms(True)` is on, and only then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from codeshell.ops import flash


@dataclass(frozen=True)
class Pass:
    """One call of a kernel: what a test wants to know of it."""

    dense: bool
    max_q: int
    max_k: int
    causal: bool
    left: int
    right: int
    deterministic: bool
    paged: bool


@dataclass
class FlashAttention:
    """The context, and its record.

    Attributes:
        forwards, backwards: the calls so far.
        capability: of the GPU that this stands for; some head dimensions depend on it.
    """

    capability: tuple[int, int] = (8, 0)
    forwards: list[Pass] = field(default_factory=list)
    backwards: list[Pass] = field(default_factory=list)

    def __enter__(self) -> FlashAttention:
        self._library = torch.library.Library("aten", "IMPL")
        self._library.impl("_flash_attention_forward", self._forward, "CPU")
        self._library.impl("_flash_attention_backward", self._backward, "CPU")
        self._built, flash.built = flash.built, True
        return self

    def __exit__(self, *_: Any) -> None:
        flash.built = self._built
        self._library._destroy()

    def _forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cum_seq_q: torch.Tensor | None,
        cum_seq_k: torch.Tensor | None,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        return_debug_mask: bool,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
        seqused_k: torch.Tensor | None = None,
        alibi_slopes: torch.Tensor | None = None,
        block_table: torch.Tensor | None = None,
        num_splits: int | None = None,
    ) -> tuple[torch.Tensor, ...]:
        _require(
            (cum_seq_q is None) == (cum_seq_k is None), "cumulative_sequence_length_q and … must be both set or not"
        )
        _require(num_splits is None, "num_splits requires FA3")
        assert alibi_slopes is None and not return_debug_mask and not dropout_p, "the stand-in has none of these"
        problem = _Problem(
            *(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, is_causal, scale),
            *(window_size_left, window_size_right, seqused_k, block_table),
        )
        problem.check(query, key, value)
        problem.check_one_query()
        self.forwards.append(problem.record())
        # Memory that nobody writes holds NaN. The layout of the output is that of the queries.
        out = torch.empty_like(query).fill_(torch.nan)
        lse = torch.full(problem.lse_shape, torch.nan, dtype=torch.float32)
        for sequence in problem.sequences():
            q, k, v = sequence.queries(query), sequence.keys(key), sequence.keys(value)
            scores = problem.scores(sequence, q, k)
            # The sum of exponentials, after the largest score was taken out of it where there is one.
            largest = (
                scores.amax(-1, keepdim=True) if k.shape[0] else scores.new_full((*scores.shape[:2], 1), -torch.inf)
            )
            weights = (scores - largest.masked_fill(largest == -torch.inf, 0.0)).exp()
            total = weights.sum(-1, keepdim=True)
            blind = total == 0.0
            probability = weights / total.masked_fill(blind, 1.0)
            group = q.shape[1] // v.shape[1]
            result = torch.einsum("hqk,khd->qhd", probability, v.repeat_interleave(group, 1))
            sequence.queries(out)[: problem.rows] = result.to(out.dtype)[: problem.rows]
            row_lse = torch.where(blind, torch.inf, largest + total.log()).squeeze(-1)
            sequence.lse(lse)[:, : problem.rows] = row_lse.float()[:, : problem.rows]
        state, unused = (torch.zeros(size, dtype=torch.uint64) for size in (2, ()))
        return out, lse, state, unused, query.new_empty(0)

    def _backward(
        self,
        grad_out: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        logsumexp: torch.Tensor,
        cum_seq_q: torch.Tensor | None,
        cum_seq_k: torch.Tensor | None,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        rng_state: torch.Tensor,
        unused: torch.Tensor,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
    ) -> tuple[torch.Tensor, ...]:
        assert not dropout_p
        grad_out, out = grad_out.contiguous(), out.contiguous()  # as torch does
        problem = _Problem(
            *(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, is_causal, scale),
            *(window_size_left, window_size_right, None, None),
        )
        problem.check(query, key, value, out, grad_out)
        _require(out.shape == query.shape and grad_out.shape == query.shape, "out and dout must have the shape of q")
        assert logsumexp.shape == problem.lse_shape and logsumexp.dtype == torch.float32 and logsumexp.is_contiguous()
        dim, other = query.shape[-1], self.capability not in ((8, 0), (9, 0), (10, 0), (10, 3))
        if other and dim > 192:
            _require(dim > 224, "FlashAttention backward for head dim 224 requires A100 or H100")
        self.backwards.append(problem.record())
        assert query.numel() and key.numel() and max_k > 0, "a grid without blocks: the launch fails"
        grads = [torch.empty_like(x).fill_(torch.nan) for x in (query, key, value)]
        for sequence in problem.sequences():
            q, grad, result = (sequence.queries(x).double() for x in (query, grad_out, out))
            k, v = sequence.keys(key), sequence.keys(value)
            group = q.shape[1] // k.shape[1]
            # The probabilities again, from the LSE that the forward pass gave; exp(-inf - inf) and exp(x - inf) are 0.
            lse = sequence.lse(logsumexp).double().unsqueeze(-1)
            probability = (problem.scores(sequence, q, k) - lse).exp()
            delta = (grad * result).sum(-1).transpose(0, 1).unsqueeze(-1)
            d_probability = torch.einsum("qhd,khd->hqk", grad, v.repeat_interleave(group, 1))
            d_scores = probability * (d_probability - delta) * problem.scale
            d_q = torch.einsum("hqk,khd->qhd", d_scores, k.repeat_interleave(group, 1))
            d_k = torch.einsum("hqk,qhd->khd", d_scores, q).unflatten(1, (-1, group)).sum(2)
            d_v = torch.einsum("hqk,qhd->khd", probability, grad).unflatten(1, (-1, group)).sum(2)
            sequence.queries(grads[0])[: problem.rows] = d_q.to(query.dtype)[: problem.rows]
            for into, d in ((grads[1], d_k), (grads[2], d_v)):
                sequence.keys(into, cast=False)[: problem.columns] = d.to(key.dtype)[: problem.columns]
        return tuple(grads)


@dataclass
class _Sequence:
    """Where one sequence lies; all of it dense (batch, tokens, …) or packed (tokens, …)."""

    number: int
    dense: bool
    first: int
    end: int
    first_key: int
    keys_count: int
    pages: torch.Tensor | None

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """A view (queries, heads, dim)."""
        return x[self.number] if self.dense else x[self.first : self.end]

    def lse(self, x: torch.Tensor) -> torch.Tensor:
        """A view (heads, queries)."""
        return x[self.number] if self.dense else x[:, self.first : self.end]

    def keys(self, x: torch.Tensor, cast: bool = True) -> torch.Tensor:
        """(keys, kv_heads, dim): fp64, or with `cast` off a view."""
        if self.pages is not None:
            count = -(-self.keys_count // x.shape[1])
            used = self.pages[:count].long()
            assert ((used >= 0) & (used < x.shape[0])).all(), "a page outside of the pool"
            found = x[used].flatten(0, 1)[: self.keys_count]
        elif self.dense:
            found = x[self.number]
        else:
            found = x[self.first_key : self.first_key + self.keys_count]
        return found.double() if cast else found


class _Problem:
    """The arguments that both passes share."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        offsets: torch.Tensor | None,
        key_offsets: torch.Tensor | None,
        max_q: int,
        max_k: int,
        causal: bool,
        scale: float | None,
        left: int | None,
        right: int | None,
        used: torch.Tensor | None,
        pages: torch.Tensor | None,
    ) -> None:
        self.q, self.k, self.offsets, self.key_offsets, self.used, self.pages = q, k, offsets, key_offsets, used, pages
        self.dense = offsets is None
        # A dense call has its own lengths, whatever the maxima say.
        self.rows, self.columns = (q.shape[1], k.shape[1]) if self.dense else (int(max_q), int(max_k))
        self.given = int(max_q), int(max_k), bool(causal), _or_none(left), _or_none(right)
        self.scale = q.shape[-1] ** -0.5 if scale is None else scale
        # One query is the last of its sequence, so it is the same with and without the flag.
        causal = causal and self.rows != 1
        left, right = _or_none(left), _or_none(right)
        left = -1 if left >= self.columns else left
        right = 0 if causal else -1 if right >= self.columns else right
        if left < 0 < right:  # causal attention has no left bound to compare with
            left = self.columns
        if right < 0 <= left:
            right = self.columns
        self.left, self.right = left, right

    @property
    def lse_shape(self) -> tuple[int, ...]:
        q = self.q
        return (q.shape[0], q.shape[2], q.shape[1]) if self.dense else (q.shape[1], q.shape[0])

    def record(self) -> Pass:
        on = torch.are_deterministic_algorithms_enabled()
        deterministic = on and not torch.is_deterministic_algorithms_warn_only_enabled()
        return Pass(self.dense, *self.given, deterministic, self.pages is not None)

    def check(self, *tensors: torch.Tensor) -> None:
        """What torch refuses, in its words; and what the kernel relies on."""
        q, k, v = tensors[:3]
        _require(q.dtype in (torch.float16, torch.bfloat16), "FlashAttention only support fp16 and bf16 data type")
        for x in tensors:
            _require(x.dtype == q.dtype, "all tensors must have the same dtype")
            _require(x.stride(-1) == 1, "Input tensor must have contiguous last dimension")
            steps = [stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
            aligned = x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in steps)
            assert aligned or not x.numel(), f"misaligned address: strides {x.stride()}, address {x.data_ptr()}"
        heads, dim, kv_heads = q.shape[-2], q.shape[-1], k.shape[-2]
        sequences = q.shape[0] if self.offsets is None else self.offsets.numel() - 1
        assert max(sequences, heads) <= 65535, "more blocks along y or z than a grid has"
        _require(dim % 8 == 0, "head_size must be a multiple of 8, this is ensured by padding!")
        _require(dim <= 256, "FlashAttention forward only supports head dimension at most 256")
        _require(heads % kv_heads == 0, "Number of heads in key/value must divide number of heads in query")
        _require(k.shape == v.shape and k.shape[-1] == dim, "k and v must have the shape …, head_size")
        assert self.scale > 0.0, "the kernel takes the largest score before it scales"
        if self.dense:
            _require(q.dim() == k.dim() == 4 and k.shape[0] == q.shape[0], "k must have shape (batch_size, …)")
            return
        offsets, key_offsets, paged = self.offsets, self.key_offsets, self.pages is not None
        assert offsets is not None and key_offsets is not None
        _require(q.dim() == 3 and k.dim() == (4 if paged else 3), "q must have shape (total_q, num_heads, head_size)")
        for name, x in (("cu_seqlens_q", offsets), ("cu_seqlens_k", key_offsets)):
            _require(x.dtype == torch.int32, f"{name} must have dtype int32")
            _require(x.is_contiguous(), f"{name} must be contiguous")
        batch = offsets.numel() - 1
        _require(batch > 0, "batch size must be positive")
        _require(key_offsets.numel() == batch + 1, "cu_seqlens_k must have shape (batch_size + 1)")
        if self.used is not None:
            _require(self.used.dtype == torch.int32, "seqused_k must have dtype int32")
            _require(self.used.is_contiguous() and self.used.shape == (batch,), "seqused_k must be contiguous (batch,)")
        if self.pages is not None:
            _require(self.pages.dtype == torch.int32, "block_table must have dtype torch.int32")
            _require(self.pages.stride(-1) == 1, "block_table must have contiguous last dimension")
            _require(k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256")
            _require(self.pages.dim() == 2 and self.pages.shape[0] == batch, "block_table must have shape (batch, …)")
        # What the kernel reads without a question. With numbers of keys, each sequence begins where it likes.
        free = self.used is not None
        for x, total in ((offsets, q.shape[0]), (key_offsets, k.shape[0])):
            values = x.tolist()
            assert min(values) >= 0, f"offsets {values}"
            if x is offsets or not free:
                assert values == sorted(values) and values[-1] <= total, f"offsets {values} of {total} tokens"

    def check_one_query(self) -> None:
        """The forward pass alone turns one query of each sequence into a batch of groups."""
        max_q, _, _, left, right = self.given
        groups = self.q.shape[-2] > self.k.shape[-2]
        if not self.dense and max_q == 1 and groups and left < 0 and right < 0:
            assert self.offsets is not None
            _require(self.q.shape[0] == self.offsets.numel() - 1, "shape is invalid for input of this size")

    def sequences(self) -> Iterator[_Sequence]:
        if self.dense:
            for number in range(self.q.shape[0]):
                yield _Sequence(number, True, 0, self.q.shape[1], 0, self.k.shape[1], None)
            return
        assert self.offsets is not None and self.key_offsets is not None
        starts, key_starts = self.offsets.tolist(), self.key_offsets.tolist()
        for number in range(len(starts) - 1):
            count = key_starts[number + 1] - key_starts[number]
            if self.used is not None:
                count = int(self.used[number])
                room = self.k.shape[1] * self.pages.shape[1] if self.pages is not None else count
                assert 0 <= count <= room and (self.pages is not None or key_starts[number] + count <= len(self.k))
            pages = None if self.pages is None else self.pages[number]
            yield _Sequence(number, False, starts[number], starts[number + 1], key_starts[number], count, pages)

    def scores(self, sequence: _Sequence, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """(heads, queries, keys) in fp64, minus infinity where a query does not see a key."""
        group = q.shape[1] // k.shape[1]
        scores = torch.einsum("qhd,khd->hqk", q.double(), k.double().repeat_interleave(group, 1)) * self.scale
        queries, keys = scores.shape[1:]
        for row in range(queries):
            place = row + keys - queries
            if self.left >= 0:
                scores[:, row, : max(0, min(keys, place - self.left))] = -torch.inf
            if self.right >= 0:
                scores[:, row, max(0, place + self.right + 1) :] = -torch.inf
        return scores


def _or_none(bound: int | None) -> int:
    return -1 if bound is None else int(bound)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise RuntimeError(message)
