"""The network over a cache, without what training needs: the inner step of generation on a CPU.

A step of one token is a product of each weight matrix with one vector, and all else is overhead: checks, views, small
tensors. So a pass here is written out as the few operations that it takes. What somebody has replaced (quantised
linears, adapters) is called as it is; a model with hooks or other blocks is read by its own forward.

Measured on the demo's model, one token after 200 in fp32: docs/decisions.md.

Shapes in this file:

    N        tokens of the pass: those of one row, or one for each of R rows
    D        `n_embd`
    H, G, K  query heads, key/value heads, dimension of a head; M = H / G queries share a key/value head
    S        keys: the tokens of the longest row, those of the pass among them
    V        ids that may be produced
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from codeshell import _C, ops
from codeshell.model.cache import KVCache, RowCache
from codeshell.model.rotary import RotaryTables
from codeshell.ops import devices
from codeshell.ops.products import few_rows, most_few_rows, serves_few_rows

PIECE_OPERATIONS = 1_200_000_000
"""Floating-point operations of one block between two questions whether to continue, attention aside. On one core of an
AMD EPYC a model of 100 M parameters took at most 35 ms of CPU time between two."""

FEWEST, MOST = 16, 512
"""Tokens of a piece of a prompt: enough that the weights are not read for almost nothing, and few enough that their
scores against a long prompt stay small."""

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""What `Decoder` serves. fp16 has no product on some CPUs."""

# Looked up once: each is called dozens of times for a token.
_linear, _layer_norm, _rotary_qkv = torch._C._nn.linear, torch.layer_norm, _C.rotary_qkv
_gelu: Callable[..., torch.Tensor] = getattr(torch._C._nn, "gelu_")  # noqa: B009  (no stub knows it)


class Linear(NamedTuple):
    """A linear layer: its weight and bias if it is plain, else what to call."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    module: Callable[[torch.Tensor], torch.Tensor]
    most: int
    """Rows that `few_rows` multiplies at most; more are torch's. 0: all are."""

    @classmethod
    def plain(cls, weight: torch.Tensor, bias: torch.Tensor | None, module: Callable[..., torch.Tensor]) -> Linear:
        return cls(weight, bias, module, most_few_rows(weight.dtype) if serves_few_rows(weight, bias) else 0)

    @classmethod
    def called(cls, module: Callable[[torch.Tensor], torch.Tensor]) -> Linear:
        return cls(None, None, module, 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) if self.weight is None else self._product(x, self.bias)

    def without_bias(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The product, and the bias that is still to be added."""
        return (self.module(x), None) if self.weight is None else (self._product(x, None), self.bias)

    def _product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        assert self.weight is not None
        if x.shape[0] <= self.most:
            return few_rows(x, self.weight, bias)
        out: torch.Tensor = _linear(x, self.weight, bias)
        return out


class Layer(NamedTuple):
    """The parts of a block; `norm_1` and `norm_2` are weight, bias and epsilon."""

    norm_1: tuple[torch.Tensor, torch.Tensor, float]
    c_attn: Linear
    attn_proj: Linear
    norm_2: tuple[torch.Tensor, torch.Tensor, float]
    c_fc: Linear
    mlp_proj: Linear


@dataclass(frozen=True)
class Network:
    """The parts of a model, as `CodeShellForCausalLM.network` gives them."""

    embed: Callable[[torch.Tensor], torch.Tensor]
    layers: Sequence[Layer]
    last_norm: tuple[torch.Tensor, torch.Tensor, float]
    head: Linear
    rotary: RotaryTables
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    """The dtype of the stream."""


class Decoder:
    """The passes of a `Network` on the CPU, in one of `DTYPES`.

    Every caller is in inference mode.
    """

    def __init__(self, network: Network) -> None:
        self._net = network
        self._scale = network.head_dim**-0.5
        self.token_bytes = 2 * len(network.layers) * network.kv_heads * network.head_dim * network.dtype.itemsize
        """The memory of the keys and values of a token."""
        half_or_single = network.dtype in (torch.float32, torch.bfloat16)
        self._has_kernel = half_or_single and network.head_dim % 16 == 0 and network.head_dim <= 256
        # What baddbmm adds nothing of.
        self._nothing = torch.zeros((), dtype=network.dtype)

    def new_cache(self, rows: int, capacity: int) -> RowCache:
        net = self._net
        return RowCache(len(net.layers), rows, net.kv_heads, capacity, net.head_dim, dtype=net.dtype)

    def read(
        self, cache: RowCache, row: int, tokens: Sequence[int], check: Callable[[], None], logits: bool
    ) -> torch.Tensor | None:
        """Read the next tokens of one row; the logits (V,) after the last one if asked for.

        Args:
            check: called before each block. If it raises, the cache holds what it held before.
        """
        net, count = self._net, len(tokens)
        begin = cache.lengths[row]
        end = begin + count
        cos, sin = net.rotary.get(end, torch.device("cpu"))
        keys, values = cache.keys[:, row], cache.values[:, row]
        # For each block, where the new keys and values go, (N, G, K); and what queries see, (G, K, S) and (G, S, K).
        new_keys = keys[:, :, begin:end].transpose(1, 2).unbind(0)
        new_values = values[:, :, begin:end].transpose(1, 2).unbind(0)
        seen_keys = keys[:, :, :end].transpose(2, 3).unbind(0)
        seen_values = values[:, :, :end].unbind(0)
        x = net.embed(torch.tensor(tokens))
        # (H, N, K), so that the queries of a key/value head follow one another.
        queries = x.new_empty((net.heads, count, net.head_dim))
        turned, group = queries.transpose(0, 1), net.heads // net.kv_heads
        grouped = queries.view(net.kv_heads, group * count, net.head_dim)
        # Query i of the new tokens does not see those after it: (N, N), to be added to the last scores.
        later = None
        in_kernel = count >= FEWEST and self._has_kernel
        if count > 1 and not in_kernel:
            later = torch.full((count, count), -torch.inf, dtype=net.dtype).triu_(1)

        def attend(layer: int, qkv: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            _rotate(turned, new_keys[layer], new_values[layer], qkv, bias, net, cos, sin, None, begin)
            if in_kernel:
                # Many queries: the kernel leaves out what they do not see. It takes (1, N, H, K) and (1, S, G, K).
                given = turned, seen_keys[layer].permute(2, 0, 1), seen_values[layer].transpose(0, 1)
                return ops.attention(*(part.unsqueeze(0) for part in given)).view(count, -1)
            scores = torch.baddbmm(self._nothing, grouped, seen_keys[layer], beta=0, alpha=self._scale)
            if later is not None:
                scores.view(net.kv_heads, group, count, end)[..., begin:].add_(later)
            mixed = torch.bmm(scores.softmax(-1), seen_values[layer])  # (G, M N, K)
            return mixed.view(net.heads, count, net.head_dim).transpose(0, 1).reshape(count, -1)

        hidden = self._blocks(x, attend, check)
        cache.lengths[row] = end
        return self._scores(hidden[-1:])[0] if logits else None

    def step(self, cache: RowCache, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token of each of the first R rows of the cache; the logits (R, V) after them."""
        rows, net = len(tokens), self._net
        if rows == 1:
            scores = self.read(cache, 0, tokens, go_on, True)
            assert scores is not None
            return scores.unsqueeze(0)
        lengths = cache.lengths[:rows]
        longest = max(lengths) + 1
        cos, sin = net.rotary.get(longest, torch.device("cpu"))
        positions = torch.tensor(lengths)
        where = torch.arange(rows), slice(None), positions
        keys, values = cache.keys[:, :rows], cache.values[:, :rows]
        each_keys, each_values = keys.unbind(0), values.unbind(0)
        # (R G, K, S) and (R G, S, K) for each block.
        flat = (len(net.layers), rows * net.kv_heads, cache.capacity, net.head_dim)
        seen_keys = keys.reshape(flat)[:, :, :longest].transpose(2, 3).unbind(0)
        seen_values = values.reshape(flat)[:, :, :longest].unbind(0)
        # (R, 1, S): keys after a row's own are not seen. What lies there is finite: zeros, or what was read before.
        later = None
        if min(lengths) + 1 < longest:
            after = torch.arange(longest) > positions.unsqueeze(1)
            later = torch.zeros(after.shape, dtype=net.dtype).masked_fill_(after, -torch.inf).unsqueeze(1)
        x = net.embed(torch.tensor(tokens))
        group = net.heads // net.kv_heads
        queries = x.new_empty((rows, net.heads, net.head_dim))
        new_keys, new_values = (x.new_empty((rows, net.kv_heads, net.head_dim)) for _ in range(2))
        grouped = queries.view(rows * net.kv_heads, group, net.head_dim)

        def attend(layer: int, qkv: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            _rotate(queries, new_keys, new_values, qkv, bias, net, cos, sin, positions, 0)
            each_keys[layer][where] = new_keys
            each_values[layer][where] = new_values
            scores = torch.baddbmm(self._nothing, grouped, seen_keys[layer], beta=0, alpha=self._scale)
            if later is not None:
                scores.view(rows, net.heads, longest).add_(later)
            return torch.bmm(scores.softmax(-1), seen_values[layer]).view(rows, -1)

        hidden = self._blocks(x, attend, go_on)
        for row in range(rows):
            cache.lengths[row] += 1
        return self._scores(hidden)

    def _blocks(
        self,
        x: torch.Tensor,
        attend: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor],
        check: Callable[[], None],
    ) -> torch.Tensor:
        """All blocks, from the embedded tokens (N, D), which are overwritten, to the stream after them."""
        width = x.shape[-1:]
        for index, layer in enumerate(self._net.layers):
            check()
            weight, bias, eps = layer.norm_1
            normed = _layer_norm(x, width, weight, bias, eps, False)
            # The kernel that rotates adds the bias on the way.
            mixed = attend(index, *layer.c_attn.without_bias(normed))
            x.add_(layer.attn_proj(mixed))
            weight, bias, eps = layer.norm_2
            inner = layer.c_fc(_layer_norm(x, width, weight, bias, eps, False))
            x.add_(layer.mlp_proj(_gelu(inner, approximate="tanh")))
        return x

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, eps = self._net.last_norm
        return self._net.head(_layer_norm(x, x.shape[-1:], weight, bias, eps, False))


def _rotate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    net: Network,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    offset: int,
) -> None:
    """Split (N, (H + 2 G) K), add the bias, rotate, and write to q (N, H, K), k and v (N, G, K), of any strides."""
    # In order: no cu_seqlens, the position of the first token; pairs are halves and not neighbours, tables have one
    # column for a pair, angles are not negated; threads, stream.
    done = _rotary_qkv(
        q, k, v, qkv, bias, net.heads, net.kv_heads, cos, sin, positions, None, offset, False, False, False,
        torch.get_num_threads(), 0,
    )  # fmt: skip
    if not done:
        # fp64, which the kernels do not take.
        parts = ops.rotary_qkv(
            qkv, bias, cos, sin, heads=net.heads, kv_heads=net.kv_heads, positions=positions, offset=offset
        )
        for target, part in zip((q, k, v), parts, strict=True):
            target.copy_(part)


def go_on() -> None:
    """Nobody cancels."""


class CodeShellReader:
    """A `CodeShellForCausalLM` as `codeshell.model.session.Reader`, by `Decoder` where it serves, else by its forward.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        # With "dynamic" scaling keys depend on the length of the pass that read them, as soon as it stretches.
        dynamic = config.rope_type == "dynamic"
        self.positions: int = config.n_positions if dynamic else config.max_length
        self.vocabulary: int = config.n_vocab_used or config.vocab_size
        network = model.network()
        self._decoder = None if network is None else Decoder(network)
        width = config.num_query_groups * config.head_dim
        self._token_bytes = 2 * config.n_layer * width * model.dtype.itemsize
        # Weights of a block are multiplied and added with every token.
        weights = config.n_embd * (2 * config.n_embd + 2 * width + 2 * config.inner_size)
        self._piece: int = min(max(FEWEST, PIECE_OPERATIONS // (2 * weights)), MOST)

    def new_cache(self, capacity: int) -> Any:
        if self._decoder is not None:
            return self._decoder.new_cache(1, capacity)
        return KVCache(self.model.config, 1, capacity, dtype=self.model.dtype, device=self.model.device)

    def copy_cache(self, cache: Any, length: int, capacity: int) -> Any:
        copy = self.new_cache(capacity)
        copy.take(cache, length)
        return copy

    def cut_cache(self, cache: Any, length: int) -> None:
        cache.cut(length)

    def capacity(self, cache: Any) -> int:
        capacity: int = cache.capacity
        return capacity

    def cache_bytes(self, capacity: int) -> int:
        return int(self._token_bytes * capacity)

    def piece(self, cached: int) -> int:
        return self._piece

    @torch.inference_mode()
    def read(self, cache: Any, tokens: Sequence[int], check: Callable[[], None], logits: bool) -> torch.Tensor | None:
        if self._decoder is not None:
            return self._decoder.read(cache, 0, tokens, check, logits)
        ids = torch.tensor([tokens], device=self.model.device)
        out = self.model(ids, cache=cache, return_logits="last" if logits else False).logits
        return None if out is None else out[0, 0]


def served(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `Decoder` takes a model of this device and dtype, as things are now."""
    on_cpu = device.type == "cpu" and devices.simulated is None
    return on_cpu and dtype in DTYPES and not torch.is_autocast_enabled("cpu")
