"""A model as a GGUF, written by rows and read back before it gets its name.

The architecture is llama.cpp's `starcoder2` or its `codeshell`. Both compute the same function from the same numbers:

    ours                     starcoder2                  codeshell
    transformer.wte          token_embd                  token_embd; a tied one is `output` alone
    h.i.ln_1                 blk.i.attn_norm             the same
    h.i.attn.c_attn          blk.i.attn_q, _k, _v        blk.i.attn_qkv
    h.i.attn.c_proj          blk.i.attn_output           the same
    h.i.ln_2                 blk.i.ffn_norm              the same
    h.i.mlp.c_fc, c_proj     blk.i.ffn_up, ffn_down      the same
    transformer.ln_f         output_norm                 the same
    lm_head                  output                      output

`starcoder2` is the default, because more programs read it: transformers loads such a GGUF, and llama.cpp reads a tied
embedding of it since its first version (of `codeshell` since March 2025). `codeshell` is what llama.cpp's own
converter makes of the released models.

Rotary dimensions turn in halves in all of them, so no row is moved. The file is finished under a temporary name, read
by gguf's own reader, and compared with the weights value by value; only then it is renamed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from codeshell.engine.files import atomic_path, make_directory
from codeshell.errors import UserError
from codeshell.export.blocks import BLOCK, LARGEST, Format, encode, q8_0_bound
from codeshell.export.gguf_tokenizer import GgufTokenizer
from codeshell.model.checkpoints import EMBEDDING, converted
from codeshell.model.config import CodeShellConfig
from codeshell.model.weight_rows import WeightRows

Architecture = Literal["starcoder2", "codeshell"]

ALIGNMENT = 32
"""Every tensor begins at a multiple of so many bytes after the first one: GGUF's default."""

_NAMES = {
    "transformer.wte.": "token_embd.",
    "transformer.ln_f.": "output_norm.",
    "lm_head.": "output.",
    "transformer.h.": "blk.",
    ".ln_1.": ".attn_norm.",
    ".attn.c_attn.": ".attn_qkv.",
    ".attn.c_proj.": ".attn_output.",
    ".ln_2.": ".ffn_norm.",
    ".mlp.c_fc.": ".ffn_up.",
    ".mlp.c_proj.": ".ffn_down.",
}
"""Parts of our names, and GGUF's for the same tensors."""


@dataclass(frozen=True)
class Piece:
    """A tensor of the file: rows `first` to `last` of one of ours."""

    name: str
    source: str
    first: int
    last: int
    shape: tuple[int, ...]


def pieces(weights: WeightRows, architecture: Architecture) -> Iterator[Piece]:
    """The tensors of the file, in their order."""
    config = weights.config
    keys = config.num_query_groups * config.head_dim
    for source, layout in weights.layouts.items():
        name = source
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        rows = layout.shape[0]
        if architecture == "codeshell":
            if source == EMBEDDING and config.tie_word_embeddings:
                name = "output.weight"
            yield Piece(name, source, 0, rows, layout.shape)
        elif ".attn_qkv." in name:
            start = 0
            for letter, count in zip("qkv", (config.n_embd, keys, keys), strict=True):
                part = name.replace(".attn_qkv.", f".attn_{letter}.")
                yield Piece(part, source, start, start + count, (count, *layout.shape[1:]))
                start += count
        else:
            yield Piece(name, source, 0, rows, layout.shape)


def model_fields(config: CodeShellConfig, architecture: Architecture) -> dict[str, Any]:
    """The keys that say what the model is; floats are written as fp32, whole numbers as uint32.

    Raises:
        UserError: rotary scaling that llama.cpp does not have.
    """
    fields: dict[str, Any] = {
        "context_length": config.max_length,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.num_query_groups,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "vocab_size": config.vocab_size,
    }
    if config.rope_type == "dynamic":
        raise UserError(
            "rope_scaling dynamic: GGUF has no such scaling, and other positions would be computed; export without it "
            "(rope_scaling null in config.json) for contexts up to n_positions"
        )
    if config.rope_type == "linear":
        fields["rope.scaling.type"] = "linear"
        fields["rope.scaling.factor"] = config.rope_factor
        fields["rope.scaling.original_context_length"] = config.n_positions
    return {f"{architecture}.{name}": value for name, value in fields.items()}


def tokenizer_fields(tokenizer: GgufTokenizer, template: str | None) -> dict[str, Any]:
    """The tokenizer's keys; `template` is the chat template's source."""
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": tokenizer.pre,
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.token_type": tokenizer.types,
        "tokenizer.ggml.merges": tokenizer.merges,
        "tokenizer.ggml.add_bos_token": tokenizer.adds_bos,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    fields |= {f"tokenizer.ggml.{name}": index for name, index in tokenizer.ids.items()}
    if template is not None:
        fields["tokenizer.chat_template"] = template
    return fields


def general_fields(weights: WeightRows, form: Format, name: str, own: Mapping[str, str]) -> dict[str, Any]:
    """What the file says of itself; `own` are further texts such as `license`."""
    import gguf

    count = sum(int(np.prod(layout.shape, dtype=np.int64)) for layout in weights.layouts.values())
    fields: dict[str, Any] = {
        "type": "model",
        "name": name,
        "size_label": gguf.size_label(count, 0, 0, 0),
        "file_type": int(gguf.LlamaFileType[form.file]),
    }
    if form.dtype is None:
        fields["quantization_version"] = gguf.GGML_QUANT_VERSION
    return {f"general.{key}": value for key, value in (fields | dict(own)).items()}


def write(
    path: Path,
    weights: WeightRows,
    tokenizer: GgufTokenizer,
    form: Format,
    architecture: Architecture = "starcoder2",
    *,
    name: str,
    template: str | None = None,
    own: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> int:
    """Write the file, read it back, compare all of it; then give it its name.

    Args:
        path: an earlier file is replaced once the new one has been compared; its directory is made if there is none.
        weights: of the model.
        tokenizer: of the model.
        form: of the matrices.
        architecture: llama.cpp's.
        name: `general.name`.
        template: chat template, if the model has one.
        own: further keys below `general.`.
        progress: called with the bytes that were written since the last call.

    Returns:
        The number of tensors.

    Raises:
        UserError: a shape or a value that the format cannot hold, a full disk, or a file that was not read back as
            it was written.
    """
    fields = {
        **general_fields(weights, form, name, own or {}),
        **model_fields(weights.config, architecture),
        **tokenizer_fields(tokenizer, template),
    }
    found = list(pieces(weights, architecture))
    _check_widths(found, form)
    make_directory(path.parent)
    with atomic_path(path) as temporary:
        _write_header(temporary, fields, found, form, architecture)
        with open(temporary, "ab") as file:
            file.write(bytes(-file.tell() % ALIGNMENT))
            for piece in found:
                for rows in _rows(weights, piece):
                    data = encode(_fitting(rows, piece, form, weights.directory), form)
                    file.write(data.data)
                    progress(data.nbytes)
                file.write(bytes(-file.tell() % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        compare(temporary, fields, weights, form, architecture)
    return len(found)


def _check_widths(found: list[Piece], form: Format) -> None:
    for piece in found:
        if form.dtype is None and len(piece.shape) > 1 and piece.shape[1] % BLOCK:
            raise UserError(
                f"--type {form.name}: {piece.source} has rows of {piece.shape[1]} values, and Q8_0 takes blocks of "
                f"{BLOCK}; choose f16, bf16 or f32"
            )


def _rows(weights: WeightRows, piece: Piece) -> Iterator[torch.Tensor]:
    """The rows of a tensor of the file, a block at a time."""
    for low, high in weights.blocks(piece.source):
        first, last = max(low, piece.first), min(high, piece.last)
        if first < last:
            yield weights.read(piece.source, first, last)


def _fitting(rows: torch.Tensor, piece: Piece, form: Format, origin: Path) -> torch.Tensor:
    """The rows, in the dtype of the format if that is a plain one; values that it cannot hold are an error."""
    if not bool(rows.isfinite().all()):
        raise UserError(f"{origin}: tensor {piece.source} holds NaN or infinity; export an earlier checkpoint")
    if rows.dim() < 2:
        return converted(piece.source, rows, torch.float32, origin)
    if form.dtype is not None:
        return converted(piece.source, rows, form.dtype, origin)
    if float(rows.abs().max()) > LARGEST:
        raise UserError(
            f"{origin}: tensor {piece.source} has values beyond the range of Q8_0's fp16 scales; choose --type bf16"
        )
    return rows


def _write_header(
    path: Path, fields: Mapping[str, Any], found: list[Piece], form: Format, architecture: Architecture
) -> None:
    """Everything before the tensors' data, by gguf's writer."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, _value_type(value))
    for piece in found:
        kind = gguf.GGMLQuantizationType[form.ggml if len(piece.shape) > 1 else "F32"]
        # The dtype is that of the shape's elements; the format's own is the last argument.
        writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), form.nbytes(piece.shape), kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _value_type(value: object) -> Any:
    import gguf

    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
    return gguf.GGUFValueType[kinds[type(value)]]


def compare(
    path: Path, fields: Mapping[str, Any], weights: WeightRows, form: Format, architecture: Architecture
) -> None:
    """Read the file with gguf's reader and compare every key and every value with what it should be.

    A weight in f32, f16 or bf16 is the nearest one of the format; one in Q8_0 is within `q8_0_bound` of the weight in
    fp64.

    Raises:
        UserError: something differs, which a full or failing disk may cause, or a fault of ours.
    """
    import gguf

    def wrong(what: str) -> UserError:
        return UserError(f"{path.name}: read back, {what} is not what was written; check the disk, and export again")

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise wrong(f"the header ({error})") from None
    for key, value in {"general.architecture": architecture, **fields}.items():
        there = reader.fields[key].contents() if key in reader.fields else None
        if (np.float32(value) != np.float32(there)) if type(value) is float else there != value:
            raise wrong(f"the key {key}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found = list(pieces(weights, architecture))
    if len(tensors) != len(found) or len(reader.tensors) != len(found):
        raise wrong("the list of tensors")
    for piece in found:
        tensor = tensors.get(piece.name)
        # GGUF counts the dimensions from the innermost one.
        if tensor is None or tuple(reversed(tensor.shape.tolist())) != piece.shape:
            raise wrong(f"tensor {piece.name}")
        at = 0
        for rows in _rows(weights, piece):
            stored = gguf.dequantize(tensor.data[at : at + len(rows)], tensor.tensor_type)
            at += len(rows)
            if not _agrees(rows, stored.reshape(tuple(rows.shape)), form):
                raise wrong(f"tensor {piece.name}")


def _agrees(rows: torch.Tensor, stored: np.ndarray[Any, Any], form: Format) -> bool:
    if form.dtype is None and rows.dim() > 1:
        exact = rows.double().numpy()
        return bool((np.abs(stored.astype(np.float64) - exact) <= q8_0_bound(exact)).all())
    expected = rows.float() if rows.dim() < 2 or form.dtype is None else rows.to(form.dtype).float()
    return bool(np.array_equal(expected.numpy(), stored.astype(np.float32)))
