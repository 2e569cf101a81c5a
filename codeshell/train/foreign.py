"""Models of transformers for the trainer: `ForeignModel` computes the loss of packed documents by the model's own code.

The model is patched (`codeshell.patch`), so its attention and its rotary embedding are this package's. Packed documents
become one long row with their offsets and with positions that begin anew, and the head and the loss are one operation
that never holds all logits (`codeshell.ops.linear_cross_entropy`), which at Qwen2's 152,000 tokens is most of the
memory.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch.nn import functional as F

from codeshell import ops
from codeshell.errors import UserError
from codeshell.integrations import causal


class ForeignModel(torch.nn.Module):
    """A causal language model of transformers in the form that the trainer takes (`codeshell.train.parts`).

    Args:
        model: of a type that `codeshell.patch` serves; it is patched in place.

    Attributes:
        inner: the model.
        config: its config.
    """

    def __init__(self, model: Any, *, patched: bool = True) -> None:
        super().__init__()
        if patched:
            from codeshell.integrations.patching import patch

            patch(model)
        self.inner = model
        self.config = model.config
        # What stands between the last hidden state and the loss, beside the head.
        self._divisor = float(getattr(self.config, "logits_scaling", None) or 1.0)
        self._cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        if self.config.model_type != "granite" and self._divisor != 1.0:
            raise UserError(f"model type {self.config.model_type} with logits_scaling is not served; only granite's is")

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        found: Sequence[torch.nn.Module] = self.inner.model.layers
        return found

    @property
    def embedding(self) -> torch.nn.Module:
        found: torch.nn.Module = self.inner.get_input_embeddings()
        return found

    @property
    def work(self) -> tuple[int, int, int]:
        """(layers, width of the queries, weights of the base's matrix products, the tied head counted once)."""
        return work(self.inner)

    def forward(
        self,
        input_ids: torch.Tensor,
        *,
        targets: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        reduction: Literal["mean", "sum"] = "sum",
    ) -> Any:
        """The loss of a micro-batch.

        Args:
            input_ids: (sequences, context) int64.
            targets: the same shape, the token after each position; -100 does not count.
            cu_seqlens: int32 (pieces + 1,), offsets over the flattened tokens; pieces do not see one another, and their
                positions begin at 0. None: a sequence attends to all of itself.
            max_seqlen: no piece is longer.
            reduction: of the loss.

        Returns:
            An object with `.loss`, an fp32 scalar.
        """
        packed: dict[str, Any] = {}
        if cu_seqlens is not None:
            offsets = cu_seqlens.to(torch.int32)
            lengths = offsets.diff().long()
            starts = offsets[:-1].long().repeat_interleave(lengths)
            input_ids = input_ids.reshape(1, -1)
            packed = {
                "position_ids": (torch.arange(input_ids.shape[1], device=input_ids.device) - starts).unsqueeze(0),
                "cu_seq_lens_q": offsets,
                "cu_seq_lens_k": offsets,
                "max_length_q": max_seqlen,
                "max_length_k": max_seqlen,
            }
        hidden = self.inner.model(input_ids=input_ids, use_cache=False, **packed).last_hidden_state
        loss = self._loss(hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), reduction)
        return SimpleNamespace(loss=loss, logits=None)

    def _loss(self, hidden: torch.Tensor, targets: torch.Tensor, reduction: Literal["mean", "sum"]) -> torch.Tensor:
        head: Any = self.inner.get_output_embeddings()
        plain = type(head) is torch.nn.Linear and getattr(head, "bias", None) is None
        if self._cap is None and plain:
            # A head that divides its logits is a head of a divided state.
            hidden = hidden if self._divisor == 1.0 else hidden / self._divisor
            if not torch.is_autocast_enabled(hidden.device.type):
                hidden = hidden.to(head.weight.dtype)
            return ops.linear_cross_entropy(hidden, head.weight, targets, reduction=reduction)
        logits = head(hidden).float() / self._divisor
        if self._cap is not None:
            logits = self._cap * torch.tanh(logits / self._cap)
        total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        return total / (targets != -100).sum().clamp(min=1) if reduction == "mean" else total


def load(directory: Path, dtype: torch.dtype) -> ForeignModel:
    """A model of transformers from its directory, patched, in training mode, on the CPU.

    Raises:
        UserError: it cannot be loaded or patched, or its files lack tensors.
    """
    model = causal.load(directory, dtype)
    try:
        return ForeignModel(model.train())
    except ValueError as error:
        raise UserError(f"{directory}: {error}") from None


def without_memory(config: Any, layers: int) -> Any:
    """The model of a config, with so many layers and without weights (on the meta device), not patched."""
    import transformers

    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = (list(config.layer_types) * layers)[:layers]
    automatic: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        return automatic.from_config(config)


@contextlib.contextmanager
def weightless(*models: torch.nn.Module) -> Iterator[None]:
    """In the block, models of the meta device compute as on a CPU, and no tensor has memory (torch's fake tensors)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for model in models:
            made: dict[int, torch.Tensor] = {}  # a tied parameter stays one
            for module in model.modules():
                for tensors in (module._parameters, module._buffers):
                    for name, tensor in list(tensors.items()):
                        if tensor is None:
                            continue
                        if id(tensor) not in made:
                            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                            trained = tensor.requires_grad
                            parameter = isinstance(tensor, torch.nn.Parameter)
                            made[id(tensor)] = torch.nn.Parameter(fake, trained) if parameter else fake
                        tensors[name] = made[id(tensor)]  # type: ignore[assignment]
        yield


def work(model: Any) -> tuple[int, int, int]:
    """(layers, width of the queries, weights of the matrix products) of a model of transformers.

    The embedding is looked up and not multiplied; a tied head is multiplied once.
    """
    config = model.config
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    products = 0 if head is table else -table.numel()
    for name, parameter in model.named_parameters():
        if "lora_" not in name and parameter.dim() >= 2:
            products += parameter.numel()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, config.num_attention_heads * dim, products
