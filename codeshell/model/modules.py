"""The CodeShell network: GPT-2 with grouped-query attention and rotary position embedding.

Parameter names and shapes are those of the released checkpoint (`transformer.h.0.attn.c_attn.weight` …; `c_attn` is
the fused projection Q | K | V). Pre-norm blocks, LayerNorm with bias, tanh GELU, biases on the four linears of a
block, the output head tied to the embedding (CodeShell report, section 2.2, and the released modelling code).

Inside, tokens are flat: `codeshell.model.layout` cuts padding out before the first block, sequences are told apart by
their offsets (`cu_seqlens`), and no attention mask exists. So padding costs nothing, and cannot leak.

Shapes in this file:

    T        flat tokens of the pass, all rows and documents one after the other
    D        `n_embd`, the width of the residual stream
    H, G, K  query heads, key/value heads (query groups), dimension of a head; D = H * K
    B, S     rows and columns of `input_ids`, before padding is cut out
    V        `vocab_size`, rows of the embedding
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from codeshell import ops
from codeshell.errors import UserError
from codeshell.model import checkpoints, generation, reading
from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig
from codeshell.model.layout import Sequences, arrange
from codeshell.model.quantized import QuantizedLinear
from codeshell.model.rotary import RotaryTables
from codeshell.ops import devices

_FORWARDS = {nn.Linear: nn.Linear.forward, nn.LayerNorm: nn.LayerNorm.forward}

Hidden = torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]
"""What blocks take and return: the residual stream (T, D), or a pair of the stream and the branch that is still to be
added to it, (T, D) or None."""


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a linear layer or a LayerNorm is its formula and no more, so that its weight may be used
    directly.

    It is not where somebody has replaced the module (LoRA, quantisation, a parametrization), its forward, or has hooked
    it or all modules (pruning, probes): then the module has to be called.
    """
    kind = type(module)
    if kind not in _FORWARDS or kind.forward is not _FORWARDS[kind] or "forward" in module.__dict__:
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    return module._compiled_call_impl is None and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def linear(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`module(x)`, by `ops.linear` where the module is plain."""
    if is_plain(module):
        return ops.linear(x, module.weight, module.bias)  # type: ignore[arg-type]
    out: torch.Tensor = module(x)
    return out


def add_and_normalise(
    norm: nn.Module, x: torch.Tensor, branch: torch.Tensor | None, then: nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stream `x + branch` and `norm` of it, in one pass where the norm is plain.

    `then` is the linear layer that takes the norm. If it is plain, the norm comes in the dtype of its product, which
    under autocast would be rounded to that anyway; else in that of the stream, as torch gives it.
    """
    # A LayerNorm may also be without weight or bias, or over more dimensions.
    if is_plain(norm) and norm.bias is not None and norm.weight.shape == x.shape[-1:]:
        dtype: torch.dtype | None = None
        if then is None or not is_plain(then):
            dtype = x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)
        return ops.residual_layer_norm(x, branch, norm.weight, norm.bias, norm.eps, dtype=dtype)  # type: ignore[arg-type]
    stream = x if branch is None else x + branch
    return stream, norm(stream)


def _is_own(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module does what a class of ours does, and nobody looks on."""
    own = type(module).forward is kind.forward and "forward" not in module.__dict__
    hooks = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None
    return own and not hooks and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def _norm(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weight, bias and epsilon of a plain LayerNorm."""
    return norm.weight, norm.bias, norm.eps  # type: ignore[return-value]


def _parts(module: nn.Module, dtype: torch.dtype) -> reading.Linear:
    """A linear layer for `reading`."""
    if is_plain(module) and module.weight.dtype == dtype:
        return reading.Linear.plain(module.weight, module.bias, module)  # type: ignore[arg-type]
    # Without the checks of a call.
    if isinstance(module, QuantizedLinear) and _is_own(module, QuantizedLinear):
        return reading.Linear.called(module.rows)
    return reading.Linear.called(module)


@dataclass
class ModelOutput:
    """What forward returns. `logits` is (B, S, V) or None, `loss` a scalar or None."""

    logits: torch.Tensor | None = None
    loss: torch.Tensor | None = None


class CodeShellAttention(nn.Module):
    """Causal grouped-query attention with rotary positions, over (T, D)."""

    def __init__(self, config: CodeShellConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.n_head, config.num_query_groups, config.head_dim
        self.attn_pdrop = config.attn_pdrop
        # Rows of the weight: H * K of the queries, then G * K of the keys, then G * K of the values.
        self.c_attn = nn.Linear(config.n_embd, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """(T, D) to (T, D), to be added to the residual stream."""
        # Three ways to the same (…, H, K) result: over a cache, in one kernel on the CPU, in two kernels on a GPU.
        if sequences.cache is not None:
            mixed = self._mix_cached(x, sequences)
        elif x.is_cpu and not devices.on_gpu(x.device):
            mixed = self._mix_folded(x, sequences)
        else:
            mixed = self._mix(x, sequences)
        # The heads side by side again, (T, D).
        projected = linear(self.c_proj, mixed.reshape(x.shape[0], -1))
        out: torch.Tensor = self.resid_dropout(projected)
        return out

    def _project(self, x: torch.Tensor, sequences: Sequences) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries (T, H, K), rotated keys and values (T, G, K)."""
        # The product leaves the bias out: the rotary kernel adds it while it has each element in registers.
        plain = is_plain(self.c_attn)
        return ops.rotary_qkv(
            ops.linear(x, self.c_attn.weight) if plain else self.c_attn(x),
            self.c_attn.bias if plain else None,
            sequences.cos,
            sequences.sin,
            heads=self.heads,
            kv_heads=self.kv_heads,
            positions=sequences.positions,
        )

    def _mix(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Without a cache, on a GPU: rotate, then attend."""
        q, k, v = self._project(x, sequences)
        if sequences.shape is not None:
            # Full rows: attention takes (B, S, heads, K) and needs no offsets.
            q, k, v = (part.view(*sequences.shape, *part.shape[1:]) for part in (q, k, v))
        return ops.attention(
            q,
            k,
            v,
            cu_seqlens=sequences.cu_seqlens,
            max_seqlen=sequences.max_seqlen,
            dropout_p=self.attn_pdrop if self.training else 0.0,
        )

    def _mix_folded(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Without a cache, on the CPU: the attention kernel rotates as it reads (measured in docs/decisions.md)."""
        # (T, (H + 2 G) K), or (B, S, (H + 2 G) K) for full rows.
        qkv, positions = linear(self.c_attn, x), sequences.positions
        if sequences.shape is not None:
            qkv, positions = qkv.view(*sequences.shape, -1), positions.view(sequences.shape)
        return ops.packed_attention(
            qkv,
            sequences.cos,
            sequences.sin,
            heads=self.heads,
            kv_heads=self.kv_heads,
            positions=positions,
            cu_seqlens=sequences.cu_seqlens,
            max_seqlen=sequences.max_seqlen,
            dropout_p=self.attn_pdrop if self.training else 0.0,
        )

    def _mix_cached(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """With a cache: fill it from a prompt, or decode over what it holds."""
        cache, rows = sequences.cache, sequences.rows
        assert cache is not None and rows is not None
        if sequences.decoding:
            return self._decode(x, sequences, cache)
        # A prompt: nothing came before these tokens, so they attend to one another and are stored for later.
        q, k, v = self._project(x, sequences)
        cache.write(self.layer, rows, sequences.positions, k, v)
        if sequences.shape is None:
            return ops.attention(q, k, v, cu_seqlens=sequences.cu_seqlens, max_seqlen=sequences.max_seqlen)
        return ops.attention(*(part.reshape(*sequences.shape, *part.shape[1:]) for part in (q, k, v)))

    def _decode(self, x: torch.Tensor, sequences: Sequences, cache: KVCache) -> torch.Tensor:
        """New tokens attend to the cache, which takes them in. On GPUs one launch rotates, writes and attends; on the
        CPU `rotary_qkv` rotates them, because it adds the bias in the same pass."""
        assert sequences.shape is not None
        cos: torch.Tensor | None = None
        sin: torch.Tensor | None = None
        if not _decodes_in_one_launch(x):
            q, k, v = self._project(x, sequences)
        else:
            # Unrotated: with cos and sin given, `decode_attention` rotates queries and keys itself.
            cos, sin = sequences.cos, sequences.sin
            qkv = linear(self.c_attn, x)
            heads = qkv.view(-1, self.heads + 2 * self.kv_heads, self.head_dim)
            q, k, v = torch.split(heads, [self.heads, self.kv_heads, self.kv_heads], dim=1)
        # The cache may be in another dtype than the projections (bf16 under autocast, say); attend in the cache's.
        dtype, (keys, values) = q.dtype, cache.view(self.layer, sequences.shape[1])
        q, k, v = (part.to(keys.dtype).view(*sequences.shape, *part.shape[1:]) for part in (q, k, v))
        return ops.decode_attention(
            q, keys, values, cache_seqlens=cache.lengths, k_new=k, v_new=v, cos=cos, sin=sin
        ).to(dtype)


def _decodes_in_one_launch(x: torch.Tensor) -> bool:
    """Whether `decode_attention` rotates and writes in the launch that attends. (A test replaces this function.)"""
    return devices.on_gpu(x.device)


class CodeShellMLP(nn.Module):
    """Two linears with a tanh GELU between them, over (T, D)."""

    def __init__(self, config: CodeShellConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_size)
        self.c_proj = nn.Linear(config.inner_size, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (T, 4 D), unless the config says another width. The product leaves the bias out: it is added where GELU has
        # each element in registers.
        if is_plain(self.c_fc):
            inner = ops.bias_gelu(ops.linear(x, self.c_fc.weight), self.c_fc.bias)
        else:
            inner = ops.gelu(self.c_fc(x))
        out: torch.Tensor = self.dropout(linear(self.c_proj, inner))
        return out


class CodeShellBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the residual stream (T, D).

    What is added last is normalised next by another block, and adding and normalising is one pass over memory. So
    blocks that follow one another pass a pair, the stream and the branch that is still to be added; a block that is
    given the stream alone returns the stream.
    """

    def __init__(self, config: CodeShellConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CodeShellAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = CodeShellMLP(config)

    def forward(self, x: Hidden, sequences: Sequences) -> Hidden:
        # Pre-norm: the branches read a normalised copy, and the stream itself is only ever added to.
        stream, branch = x if isinstance(x, tuple) else (x, None)
        stream, normed = add_and_normalise(self.ln_1, stream, branch, self.attn.c_attn)
        branch = self.attn(normed, sequences)
        stream, normed = add_and_normalise(self.ln_2, stream, branch, self.mlp.c_fc)
        branch = self.mlp(normed)
        return (stream, branch) if isinstance(x, tuple) else stream + branch


def passes_pairs(block: nn.Module) -> bool:
    """Whether a block of the model takes and returns pairs: a `CodeShellBlock` that nobody looks into.

    Somebody who has replaced it or its forward, or has hooked it or all modules, knows blocks that pass the stream, and
    is given that. FSDP2's hooks, torch.compile and torch's checkpoint_wrapper pass on whatever they are given; only
    reentrant checkpoints do not see tensors within a pair.
    """
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    while True:
        for hooks in (block._forward_hooks, block._forward_pre_hooks, block._backward_hooks, block._backward_pre_hooks):
            if any(not getattr(hook, "__module__", "").startswith("torch.") for hook in hooks.values()):
                return False
        inner = block._modules.get("_orig_mod") or block._modules.get("_checkpoint_wrapped_module")
        if inner is None:
            break
        if getattr(getattr(block, "checkpoint_impl", None), "name", "") == "REENTRANT":
            return False
        block = inner
    return type(block).forward is CodeShellBlock.forward and "forward" not in block.__dict__


class CodeShellModel(nn.Module):
    """Embedding, blocks and the last norm, over flat tokens."""

    def __init__(self, config: CodeShellConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(CodeShellBlock(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, tokens: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """(T,) int64 to (T, D)."""
        x: torch.Tensor = self.drop(self.wte(tokens))
        branch: torch.Tensor | None = None
        for block in self.h:
            if passes_pairs(block):
                x, branch = block((x, branch), sequences)
            else:
                x, branch = block(x if branch is None else x + branch, sequences), None
        # The head may be anything, so the last norm keeps the dtype of the stream.
        return add_and_normalise(self.ln_f, x, branch, None)[1]


class CodeShellForCausalLM(nn.Module):
    """CodeShell with its language-modelling head.

    Weights are initialised as released: N(0, 0.02), biases 0, and the two projections back into the residual stream
    N(0, 0.02 / sqrt(2 layers)). Under `device="meta"` nothing is allocated.
    """

    def __init__(self, config: CodeShellConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = CodeShellModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie_weights()
        self.rotary = RotaryTables(config)
        self.quantized_weights = 0
        """Weights that are int8 (see `codeshell.model.quantized`), a tied head counted once."""
        # On the meta device there is nothing to draw; `from_pretrained` fills the model.
        if not self.transformer.wte.weight.is_meta:
            self.reset_parameters()

    def tie_weights(self) -> None:
        """Make the head and the embedding one parameter, where the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights, in the order of `named_parameters`; None draws from torch's global generator."""
        for name, parameter in self.named_parameters():
            self.draw_parameter(name, parameter, generator)

    @torch.no_grad()
    def draw_parameter(self, name: str, target: torch.Tensor, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights of one parameter into a tensor of its shape."""
        std = self.config.initializer_range
        if name.endswith("bias"):
            target.zero_()
        elif target.dim() == 1:
            target.fill_(1.0)
        else:
            # 2 L projections are added to the residual stream; scaled so, its variance does not grow with L.
            residual = name.endswith("c_proj.weight")
            target.normal_(0.0, std / math.sqrt(2 * self.config.n_layer) if residual else std, generator=generator)

    def num_parameters(self) -> int:
        """Weights of the model, the tied head counted once."""
        return self.quantized_weights + sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """That of activations and of the cache; int8 weights, which are no parameters, have fp32 ones."""
        return next(self.parameters()).dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        targets: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        positions: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        return_logits: bool | Literal["last"] | None = None,
    ) -> ModelOutput:
        """Logits, or the loss, or both.

        Args:
            input_ids: (batch, seq) int64.
            labels: (batch, seq) int64, Hugging Face's convention: shifted inside, never into the next document or
                from padding; -100 does not count.
            targets: (batch, seq) int64, the token after each position; -100 does not count. Not with `labels`.
            cu_seqlens: int32 (documents + 1,), offsets over the flattened batch * seq tokens, from 0 to batch * seq:
                documents do not see one another, and their positions start at 0.
            max_seqlen: with `cu_seqlens`, an upper bound on the length of a document.
            positions: (batch, seq) rotary positions, instead of 0, 1, 2 … in every row or document.
            attention_mask: (batch, seq), 0 or False where a token is padding (on either side); positions count the
                real tokens. The logits of padding are 0, and its targets do not count.
            cache: read and extended by these tokens. A mask may be given with an empty cache, not later.
            reduction: how the loss combines the targets that count.
            return_logits: None returns logits if and only if there is no loss to compute; "last" returns those of each
                row's last real token alone, (batch, 1, vocab_size), which is all that generation needs of a prompt.

        Returns:
            `ModelOutput`. Logits are in the dtype the head computes in (bf16 under bf16 autocast); the loss is fp32.

        Raises:
            ValueError: an argument's shape, dtype or value does not fit; the message names it.
        """
        if isinstance(input_ids, torch.Tensor) and input_ids.dim() == 2 and not input_ids.shape[0]:
            return self._without_rows(input_ids, labels is not None or targets is not None, reduction, return_logits)
        arranged = arrange(
            self.config,
            self.rotary,
            input_ids,
            labels,
            targets,
            cu_seqlens,
            max_seqlen,
            positions,
            attention_mask,
            cache,
        )
        hidden = self.transformer(arranged.tokens, arranged.sequences)  # (T, D)
        # The layers have written their keys and values; only now do these tokens count as cached.
        if cache is not None:
            cache.lengths, cache.longest = arranged.lengths, arranged.longest
        loss = None
        if arranged.targets is not None:
            loss = self._loss(hidden, arranged.targets, reduction)
        logits = None
        # For a prompt (B, V) of the (T, V) logits are enough.
        if return_logits == "last":
            logits = linear(self.lm_head, hidden[arranged.last_tokens()]).unsqueeze(1)
        elif return_logits or (return_logits is None and loss is None):
            logits = arranged.unflatten(linear(self.lm_head, hidden))
        return ModelOutput(logits=logits, loss=loss)

    def _loss(self, hidden: torch.Tensor, targets: torch.Tensor, reduction: Literal["mean", "sum"]) -> torch.Tensor:
        """Cross-entropy of the head's logits of (T, D), a fp32 scalar."""
        # Head and cross entropy in one operation, which never holds all (T, V) logits.
        bias: torch.Tensor | None = getattr(self.lm_head, "bias", None)
        if bias is None and is_plain(self.lm_head):
            return ops.linear_cross_entropy(hidden, self.lm_head.weight, targets, reduction=reduction)
        # The logits as the head gives them, which may be more than a product with its weight.
        logits = self.lm_head(hidden)
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(logits.to(wide), targets, ignore_index=-100, reduction="sum")
        return total / (targets != -100).sum().clamp(min=1) if reduction == "mean" else total

    def generate(self, input_ids: torch.Tensor, **settings: Any) -> list[list[int]]:
        """New tokens of every row; see `codeshell.model.generation.generate`."""
        return generation.generate(self, input_ids, **settings)

    def reader(self) -> reading.CodeShellReader:
        """What a `codeshell.model.session.Session` reads the model by."""
        return reading.CodeShellReader(self)

    def network(self) -> reading.Network | None:
        """The parts of the model for `codeshell.model.reading.Decoder`; None where it cannot stand for `forward`: on a
        GPU, in training, or where somebody looks into a part or has replaced more than linear layers."""
        if self.training or not reading.served(self.device, self.dtype):
            return None
        stem: Any = self.transformer
        blocks: list[Any] = list(stem.h)
        norms = [stem.ln_f, *(norm for block in blocks for norm in (block.ln_1, block.ln_2))]
        if not all(is_plain(norm) and norm.bias is not None for norm in norms):
            return None
        # Dropout does nothing in evaluation, but somebody may have put another module in its place.
        drops = [stem.drop, *(drop for block in blocks for drop in (block.attn.resid_dropout, block.mlp.dropout))]
        watched = [(self, CodeShellForCausalLM), (stem, CodeShellModel), *((drop, nn.Dropout) for drop in drops)]
        for block in blocks:
            watched += [(block, CodeShellBlock), (block.attn, CodeShellAttention), (block.mlp, CodeShellMLP)]
        if not all(_is_own(module, kind) for module, kind in watched):
            return None
        config, dtype = self.config, stem.ln_f.weight.dtype
        return reading.Network(
            stem.wte,
            [
                reading.Layer(
                    _norm(block.ln_1),
                    _parts(block.attn.c_attn, dtype),
                    _parts(block.attn.c_proj, dtype),
                    _norm(block.ln_2),
                    _parts(block.mlp.c_fc, dtype),
                    _parts(block.mlp.c_proj, dtype),
                )
                for block in blocks
            ],
            _norm(stem.ln_f),
            _parts(self.lm_head, dtype),
            self.rotary,
            config.n_head,
            config.num_query_groups,
            config.head_dim,
            dtype,
        )

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        dtype: torch.dtype | str | None = None,
        *,
        torch_dtype: torch.dtype | str | None = None,
    ) -> CodeShellForCausalLM:
        """Load a model directory as the hub has it: `config.json` and weights, in CodeShell's or Starcoder2's layout.

        Args:
            directory: see `codeshell.model.checkpoints.read_weights`.
            dtype: dtype of the weights in memory, torch's or its name; "auto" takes what config.json says; None keeps
                that of the files, which must then be one dtype.
            torch_dtype: transformers' earlier name of `dtype`.

        Returns:
            The model in evaluation mode: the released config has dropout, which only training should apply.

        Raises:
            UserError: a file is missing, broken or unsafe; a tensor is missing, unknown or of the wrong shape.
            ValueError: a dtype that weights cannot have, or two of them.
        """
        config = checkpoints.read_config(directory)
        if dtype is not None and torch_dtype is not None:
            raise ValueError("dtype and torch_dtype are one setting; give dtype alone")
        dtype = checkpoints.resolve_dtype(dtype if torch_dtype is None else torch_dtype, config)
        # Built without memory; the tensors that are read become its parameters, and none is copied.
        with torch.device("meta"):
            model = cls(config)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
        model.load_state_dict(checkpoints.read_weights(directory, config, shapes, dtype), assign=True)
        model.tie_weights()
        return model.eval()

    def save_pretrained(
        self, directory: str | Path, layout: Literal["codeshell", "starcoder2"] = "codeshell", **settings: Any
    ) -> None:
        """Write config and weights; see `codeshell.model.checkpoints.save`."""
        if self.quantized_weights:
            raise UserError(f"{directory}: int8 weights are not saved; save the model before it is quantised")
        tensors = {name: parameter.detach() for name, parameter in self.named_parameters()}
        checkpoints.save(tensors, self.config, directory, layout, **settings)

    def _without_rows(
        self,
        input_ids: torch.Tensor,
        has_targets: bool,
        reduction: Literal["mean", "sum"],
        return_logits: bool | Literal["last"] | None,
    ) -> ModelOutput:
        """The output for (0, seq) ids: logits without rows, and a loss of 0, as where no target counts."""
        hidden = self.transformer.wte(input_ids.reshape(-1))  # (0, D)
        loss = logits = None
        if has_targets:
            loss = self._loss(hidden, input_ids.reshape(-1), reduction)
        if return_logits or (return_logits is None and not has_targets):
            seq = 1 if return_logits == "last" else input_ids.shape[1]
            logits = linear(self.lm_head, hidden).view(0, seq, self.config.vocab_size)
        return ModelOutput(logits=logits, loss=loss)
