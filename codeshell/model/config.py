"""The model's configuration: the fields of the released `config.json`, under their released names.

A file must say what the model is. The released class has other defaults than the released model (one query group,
learned positions), so the fields that decide the shape must be in the file; nothing falls back to defaults silently.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from codeshell.engine.downloads import model_place, read_downloaded_json
from codeshell.errors import UserError

MODEL_TYPES = ("kclgpt", "codeshell", "shell")
"""Names of this architecture in the hub's files; the released CodeShell-7B says `kclgpt`."""

ROPE_BASE = 10000.0
"""Base of the rotary frequencies. The released modelling code hard-codes it, so its `config.json` does not have it."""

MOST = (1 << 31) - 1
"""Any size of a shape is at most this, as the kernels count in 32 bits."""

MOST_LAYERS = 10_000
"""No model has so many, and a slip of a digit must not fill the memory with blocks."""

_SHAPE_FIELDS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "position_embedding_type")
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""Another name of a field, and the field (the released class's `attribute_map`). Some tools write only the first."""


@dataclass
class CodeShellConfig:
    """Shape and settings of a CodeShell model; the defaults are the released 7.7 B model's, without its dropout.

    Args:
        vocab_size: rows of the embedding, padding rows included (released: 70,144 for 70,020 tokens). The number of
            tokens is `n_vocab_used`.
        n_positions: the longest sequence, in tokens.
        n_embd, n_layer, n_head: width, number of blocks, number of query heads. The head dimension is
            `n_embd / n_head`.
        n_inner: width of the MLP; None is `4 * n_embd`, which llama.cpp's converter assumes.
        num_query_groups: number of key/value heads.
        rope_scaling: None, or `{"type": "linear" | "dynamic", "factor": f}`.
        rope_theta: base of the rotary frequencies.
        attn_pdrop, embd_pdrop, resid_pdrop: dropout in training mode (the released file says 0.1).
        n_vocab_used: how many of the `vocab_size` rows are tokens, special ones included. Generation never produces
            an id at or above it. None: not known; all rows may be produced.
        extra: fields of the file that this class does not use; they are written back unchanged.

    Raises:
        ValueError: a value is impossible; the message names the field.
    """

    vocab_size: int = 70144
    n_positions: int = 8192
    n_embd: int = 4096
    n_layer: int = 42
    n_head: int = 32
    n_inner: int | None = None
    num_query_groups: int = 8
    group_query_attention: bool = True
    position_embedding_type: str = "rope"
    rope_scaling: dict[str, Any] | None = None
    rope_theta: float = ROPE_BASE
    activation_function: str = "gelu_pytorch_tanh"
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    # Dropout of attention weights, of the embedding, and of what each branch adds to the residual stream.
    attn_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    resid_pdrop: float = 0.0
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 70000
    eos_token_id: int | None = 70000
    n_vocab_used: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("group_query_attention", "tie_word_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        # Without grouping every query head has a key/value head of its own.
        if not self.group_query_attention:
            self.num_query_groups = self.n_head
        self._check_types()
        # Heads are equal slices of the width, and each key/value head serves a group of query heads.
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}; heads share it evenly")
        if self.n_head % self.num_query_groups:
            raise ValueError(
                f"n_head {self.n_head} is not a multiple of num_query_groups {self.num_query_groups}; "
                "every key/value head serves the same number of query heads"
            )
        # Rotary embedding turns pairs of dimensions.
        if self.head_dim % 2:
            raise ValueError(f"the head dimension n_embd / n_head is {self.head_dim}; rotary embedding needs it even")
        # The network computes these and no others.
        if self.position_embedding_type != "rope":
            raise ValueError(
                f"position_embedding_type is {self.position_embedding_type!r}; only 'rope' is supported "
                "(no released CodeShell uses another)"
            )
        if self.activation_function != "gelu_pytorch_tanh":
            raise ValueError(
                f"activation_function is {self.activation_function!r}; only 'gelu_pytorch_tanh' is supported"
            )
        for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; dropout is at least 0 and below 1")
        if self.layer_norm_epsilon < 0 or self.initializer_range < 0 or self.rope_theta <= 0:
            raise ValueError(
                f"layer_norm_epsilon {self.layer_norm_epsilon!r}, initializer_range {self.initializer_range!r}, "
                f"rope_theta {self.rope_theta!r}; the first two are at least 0 and the last is above 0"
            )
        if self.n_vocab_used is not None and self.n_vocab_used > self.vocab_size:
            raise ValueError(
                f"n_vocab_used is {self.n_vocab_used}; it must lie between 1 and vocab_size {self.vocab_size}"
            )
        self._check_rope_scaling()

    def _check_types(self) -> None:
        """Refuse what JSON of another tool may hold in place of a number: a text, null, 4096.0, NaN."""
        whole = dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_head", "num_query_groups"), MOST)
        whole["n_layer"] = MOST_LAYERS
        for name in ("n_inner", "n_vocab_used"):
            if getattr(self, name) is not None:
                whole[name] = MOST
        for name, most in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                remedy = ", or null for 4 n_embd" if name == "n_inner" else ""
                raise ValueError(f"{name} is {_shown(value)}; it must be a whole number from 1 to {most:,}{remedy}")
        for name in (
            "layer_norm_epsilon",
            "initializer_range",
            "rope_theta",
            "attn_pdrop",
            "embd_pdrop",
            "resid_pdrop",
        ):
            value = getattr(self, name)
            if not _is_number(value):
                raise ValueError(f"{name} is {_shown(value)}; it must be a finite number")
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"{name} is {_shown(value)}; it must be one token id, a whole number, or null")

    def _check_rope_scaling(self) -> None:
        if self.rope_scaling is None:
            return
        # Older files say "type", newer ones "rope_type".
        scaling = self.rope_scaling
        kind = scaling.get("type", scaling.get("rope_type")) if isinstance(scaling, dict) else None
        factor = scaling.get("factor") if isinstance(scaling, dict) else None
        if kind not in ("linear", "dynamic") or not _is_number(factor) or factor < 1.0:
            raise ValueError(
                f"rope_scaling is {scaling!r}; write null or {{'type': 'linear' or 'dynamic', 'factor': a number >= 1}}"
            )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def rope_type(self) -> str | None:
        """None, `"linear"` or `"dynamic"`."""
        if self.rope_scaling is None:
            return None
        return str(self.rope_scaling.get("type", self.rope_scaling.get("rope_type")))

    @property
    def rope_factor(self) -> float:
        return 1.0 if self.rope_scaling is None else float(self.rope_scaling["factor"])

    @property
    def max_length(self) -> int:
        """Longest sequence that forward accepts: `n_positions`, times the factor where RoPE is scaled."""
        return int(self.n_positions * self.rope_factor)

    def to_dict(self) -> dict[str, Any]:
        """The released `config.json`: model type `kclgpt`, `auto_map`, and the fields kept in `extra`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        fields["n_inner"] = self.inner_size
        if fields["n_vocab_used"] is None:
            del fields["n_vocab_used"]
        if self.rope_theta == ROPE_BASE:
            del fields["rope_theta"]  # the released code has no such field
        # The later entries win: what the file said must not contradict the shape.
        return {
            **_RELEASED_CONSTANTS,
            **self.extra,
            **fields,
            "architectures": ["CodeShellForCausalLM"],
            "model_type": "kclgpt",
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "config") -> CodeShellConfig:
        """Read the released layout, or Starcoder2's (`model_type` `starcoder2`); `origin` names it in errors.

        Raises:
            UserError: another architecture, a missing shape field, an impossible value.
        """
        if values.get("model_type") == "starcoder2":
            return _from_starcoder2(values, origin)
        kind = values.get("model_type")
        if kind not in MODEL_TYPES:
            raise UserError(
                f"{origin}: model_type is {kind!r}, which is not a CodeShell; expected one of "
                f"{', '.join(MODEL_TYPES)} or starcoder2"
            )
        # Give aliases their released names, unless the file has both.
        values = {
            _ALIASES.get(name, name) if _ALIASES.get(name) not in values else name: v for name, v in values.items()
        }
        needed = [*_SHAPE_FIELDS, *(["num_query_groups"] if values.get("group_query_attention", True) else [])]
        missing = [name for name in needed if values.get(name) is None]
        if missing:
            raise UserError(
                f"{origin}: {', '.join(missing)} missing; take config.json from where the weights came from"
            )
        # Split the rest into our fields and those that are only carried along.
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        known = {name: value for name, value in values.items() if name in names}
        # A file without grouping may leave the number of groups out.
        known.setdefault("num_query_groups", known["n_head"])
        extra = {name: value for name, value in values.items() if name not in names}
        for name in ("model_type", "architectures"):
            extra.pop(name, None)
        return _construct(known, extra, origin)

    @classmethod
    def from_file(cls, path: str | Path) -> CodeShellConfig:
        """Read a `config.json`; a missing or broken one is a `UserError`."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; {model_place(path.parent)}")
        values = read_downloaded_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path}: not a JSON object; take config.json from where the weights came from")
        return cls.from_dict(values, str(path))

    def to_starcoder2_dict(self) -> dict[str, Any]:
        """The same architecture as a Starcoder2 `config.json`, which stock transformers reads."""
        values: dict[str, Any] = {
            "architectures": ["Starcoder2ForCausalLM"],
            "model_type": "starcoder2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.n_embd,
            "intermediate_size": self.inner_size,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": self.n_head,
            "num_key_value_heads": self.num_query_groups,
            "hidden_act": self.activation_function,
            "max_position_embeddings": self.n_positions,
            "initializer_range": self.initializer_range,
            "norm_epsilon": self.layer_norm_epsilon,
            "rope_theta": self.rope_theta,
            # No window: CodeShell attends to the whole context.
            "sliding_window": None,
            "attention_dropout": self.attn_pdrop,
            "residual_dropout": self.resid_pdrop,
            "embedding_dropout": self.embd_pdrop,
            "use_bias": True,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "use_cache": True,
        }
        if self.rope_scaling is not None:
            values["rope_scaling"] = {"rope_type": self.rope_type, "factor": self.rope_factor}
        if self.n_vocab_used is not None:
            values["n_vocab_used"] = self.n_vocab_used
        # Of the fields that are carried along, this one means the same in both layouts.
        if "torch_dtype" in self.extra:
            values["torch_dtype"] = self.extra["torch_dtype"]
        return values


_RELEASED_CONSTANTS: dict[str, Any] = {
    "auto_map": {
        "AutoConfig": "configuration_codeshell.CodeShellConfig",
        "AutoModelForCausalLM": "modeling_codeshell.CodeShellForCausalLM",
    },
    "attention_softmax_in_fp32": True,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "use_cache": True,
}
"""Fields of the released file that say nothing about the shape, but that its modelling code looks for."""


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number. Python's reader takes NaN and Infinity for numbers, too."""
    most = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _shown(value: Any) -> str:
    """A wrong value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _construct(known: dict[str, Any], extra: dict[str, Any], origin: str) -> CodeShellConfig:
    """The config, or a `UserError` that names the file where a value is impossible."""
    try:
        return CodeShellConfig(**known, extra=extra)
    except (TypeError, ValueError) as error:
        raise UserError(f"{origin}: {error}") from None


def _from_starcoder2(values: dict[str, Any], origin: str) -> CodeShellConfig:
    """Read a Starcoder2 `config.json`, if the model it describes is also a CodeShell."""
    names = {
        "vocab_size": "vocab_size",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "num_key_value_heads": "num_query_groups",
        "norm_epsilon": "layer_norm_epsilon",
    }
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise UserError(f"{origin}: {', '.join(missing)} missing; take config.json from where the weights came from")
    # What is compared or looked into below; all other values are checked where the config is made.
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{origin}: its rope parameters are {_shown(rope)}; they must be an object or null")
    for name in ("sliding_window", "max_position_embeddings"):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise UserError(f"{origin}: {name} is {_shown(value)}; it must be a whole number")
    if not isinstance(values.get("use_bias", True), bool):
        raise UserError(f"{origin}: use_bias is {_shown(values['use_bias'])}; it must be true or false")
    # Refuse what this network does not compute.
    if not values.get("use_bias", True) or values.get("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise UserError(f"{origin}: a Starcoder2 without biases or with another activation is not a CodeShell shape")
    window = values.get("sliding_window")
    # A window as long as the context is none.
    if window is not None and window < values["max_position_embeddings"]:
        raise UserError(f"{origin}: sliding_window is {window}; CodeShell attends to the whole context")
    known = {ours: values[theirs] for theirs, ours in names.items()}
    # transformers 5 writes `rope_parameters`, with the base inside; before that, `rope_scaling` beside `rope_theta`.
    known["rope_theta"] = rope.get("rope_theta", values.get("rope_theta", ROPE_BASE))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        known["rope_scaling"] = {"type": kind, "factor": rope.get("factor")}
    # Fields that a file may leave out; then ours have their defaults.
    for theirs, ours in {
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
        "embedding_dropout": "embd_pdrop",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
        "bos_token_id": "bos_token_id",
        "eos_token_id": "eos_token_id",
        "n_vocab_used": "n_vocab_used",
    }.items():
        if theirs in values:
            known[ours] = values[theirs]
    extra = {"torch_dtype": values["torch_dtype"]} if "torch_dtype" in values else {}
    return _construct(known, extra, origin)
