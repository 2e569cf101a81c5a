"""Model directories: the released CodeShell layout as the hub has it, and the same weights as a Starcoder2.

This file deals in configs and tensors by name; `CodeShellForCausalLM.from_pretrained` and `save_pretrained` put them
into a model and take them out.

Reading expects files from strangers. Weights come from safetensors or from `.bin` files through torch's restricted
unpickler (`weights_only=True`), never from an unrestricted pickle; an index cannot name a file outside its directory;
every tensor is checked by name and shape before the model is used. Shards are read one at a time.

The hub's CodeShell files tie the wrong way round: they hold `lm_head.weight` and not `transformer.wte.weight`, which
their index may list all the same. They also hold rotary buffers, which are recomputed here instead.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from codeshell.engine.downloads import AGAIN, check_model_directory, fault, read_downloaded_json
from codeshell.engine.files import TEMPORARY, atomic_path, make_directory, remove_quietly, write_json
from codeshell.errors import UserError
from codeshell.model.config import CodeShellConfig
from codeshell.model.tensor_files import Layout, TensorFileError, TensorParts, TensorWriter, part_names

IGNORED = re.compile(
    r"(\.attn\.bias|\.attn\.masked_bias|^transformer\.bias|rotary_emb\.(inv_freq|cos_cached|sin_cached))$"
)
"""Buffers of the released class and its ancestors. All are functions of the config, so they are not read."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
"""Our names of the two tensors that may be one."""

_STARCODER2 = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
    ".ln_1.": ".input_layernorm.",
    ".ln_2.": ".post_attention_layernorm.",
    ".attn.c_proj.": ".self_attn.o_proj.",
    "transformer.h.": "model.layers.",
}
"""Parts of our names, and Starcoder2's for the same tensors. There, `c_attn` is split in three."""


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
"""The dtypes of weights, by the names that config.json and transformers have for them."""


def resolve_dtype(dtype: torch.dtype | str | None, config: CodeShellConfig) -> torch.dtype | None:
    """The dtype that weights are loaded in; None keeps that of the files.

    Args:
        dtype: a name of `DTYPES`, torch's own dtype, None, or "auto": what config.json says, else that of the files.
        config: of the model.

    Raises:
        ValueError: another name, or a dtype that weights cannot have.
    """
    if dtype == "auto":
        said = str(config.extra.get("dtype") or config.extra.get("torch_dtype") or "")
        return DTYPES.get(said.removeprefix("torch."))
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in DTYPES:
        return DTYPES[dtype.removeprefix("torch.")]
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in DTYPES.values()):
        return dtype
    raise ValueError(
        f"dtype is {dtype!r}; choose one of {', '.join(map(repr, DTYPES))}, 'auto', or None for the files'"
    )


def read_config(directory: str | Path) -> CodeShellConfig:
    """The configuration in a model directory of either layout.

    Raises:
        UserError: no such directory, or no usable `config.json` in it.
    """
    return CodeShellConfig.from_file(check_model_directory(directory) / "config.json")


def read_weights(
    directory: str | Path, config: CodeShellConfig, shapes: Mapping[str, torch.Size], dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Read the weights of a model directory, whole or in shards, safetensors or `.bin`.

    Args:
        directory: in the layout of CodeShell (model type kclgpt, codeshell or shell) or Starcoder2.
        config: what `read_config` gave for it.
        shapes: shape of each tensor that the model has, a tied head included.
        dtype: dtype of the result; None keeps that of the files, which must then be one dtype.

    Returns:
        A tensor on the CPU for each name in `shapes`; a tied head is the embedding itself.

    Raises:
        UserError: a file is missing, broken or unsafe; a tensor is missing, unknown or of the wrong shape.
    """
    directory = Path(directory)
    starcoder2 = read_downloaded_json(directory / "config.json").get("model_type") == "starcoder2"
    weights: dict[str, torch.Tensor] = {}
    origin: dict[str, Path] = {}  # the file of each tensor, for messages
    pending: dict[str, torch.Tensor] = {}  # Starcoder2's q, k and v whose other parts are in a later shard
    for file, tensors in _contents(directory):
        if starcoder2:
            pending.update(tensors)
            tensors = dict(_from_starcoder2(pending, config))
        for name, tensor in tensors.items():
            if IGNORED.search(name):
                continue
            check_tensor(name, tensor, shapes, file)
            origin[name] = file
            # Converted file by file, so that at most one file is in memory in both dtypes.
            weights[name] = tensor if dtype is None else converted(name, tensor, dtype, file)
    if pending:
        raise UserError(
            f"{directory}: tensor {min(pending)} belongs to no Starcoder2 of this config; check config.json"
        )
    if config.tie_word_embeddings:
        _tie(weights, origin)
    _check_complete(weights, shapes, config, directory)
    return weights


def save(
    tensors: Mapping[str, torch.Tensor],
    config: CodeShellConfig,
    directory: str | Path,
    layout: Literal["codeshell", "starcoder2"] = "codeshell",
    *,
    max_shard_bytes: int = 5_000_000_000,
    fetch: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.cpu,
) -> None:
    """Write `config.json`, `generation_config.json` and safetensors.

    `codeshell` is the released layout: a tied embedding is stored once, as `lm_head.weight` (what the hub's files hold
    and llama.cpp's converter reads). `starcoder2` is the same function as a Starcoder2ForCausalLM, which stock
    transformers loads without remote code.

    Args:
        tensors: the weights by our names, a tied embedding once, as `transformer.wte.weight`.
        config: of the model.
        directory: made if need be; an earlier model in it is replaced.
        layout: of the files.
        max_shard_bytes: a file is at most this large, unless one tensor alone is larger. Several files get an index.
        fetch: brings a tensor whole to the CPU. It is called once for each tensor, in their order, and what it gives is
            written before the next call: one tensor is in memory, whatever the model's size.

    Raises:
        ValueError: unknown layout.
        UserError: the directory cannot be written.
    """
    if layout not in ("codeshell", "starcoder2"):
        raise ValueError(f"layout is {layout!r}; choose 'codeshell' or 'starcoder2'")
    directory = make_directory(directory)
    fields = config.to_dict() if layout == "codeshell" else config.to_starcoder2_dict()
    fields["torch_dtype"] = str(tensors[EMBEDDING].dtype).removeprefix("torch.")
    # Where each tensor goes, by the layout's names, before any is fetched.
    shards = _shards(_layouts(tensors, config, layout), max_shard_bytes)
    names = _shard_names(len(shards))
    place = {key: number for number, shard in enumerate(shards) for key in shard}
    # A directory that has a config.json is complete: the old one is deleted first, and the new one is written last.
    remove_quietly(directory / "config.json")
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                TensorWriter(stack.enter_context(atomic_path(directory / name)), shard, {"format": "pt"})
            )
            for name, shard in zip(names, shards, strict=True)
        ]
        for name, tensor in tensors.items():
            whole = fetch(tensor)
            if not bool(whole.isfinite().all()):
                warnings.warn(f"{directory}: tensor {name} holds NaN or infinity, and is saved so", stacklevel=3)
            for key, part in to_layout(name, whole, config, layout):
                writers[place[key]].write(key, part)
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(kind.nbytes for shard in shards for kind in shard.values())
        write_json(
            directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    write_json(directory / "generation_config.json", {**generation, "_from_model_config": True})
    # A reader might find the weights of an earlier save, which had another number of files, before these.
    keep = {*names, "model.safetensors.index.json"} if len(shards) > 1 else set(names)
    for stale in directory.glob("model*.safetensors*"):
        if stale.name not in keep and not stale.name.endswith(TEMPORARY):
            stale.unlink()
    write_json(directory / "config.json", fields)


def to_layout(
    name: str, tensor: torch.Tensor, config: CodeShellConfig, layout: Literal["codeshell", "starcoder2"]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The layout's name and tensor for one of ours; a tied embedding has the head's name in ours."""
    if layout == "starcoder2":
        yield from _to_starcoder2({name: tensor}, config)
    else:
        yield HEAD if name == EMBEDDING and config.tie_word_embeddings else name, tensor


def _layouts(
    tensors: Mapping[str, torch.Tensor], config: CodeShellConfig, layout: Literal["codeshell", "starcoder2"]
) -> dict[str, Layout]:
    """Dtype and shape of what is written, in the order of the files; a tied embedding of ours comes last."""
    result: dict[str, Layout] = {}
    for name, tensor in tensors.items():
        # Tensors without memory take the same way as those with values.
        shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for key, part in to_layout(name, shape, config, layout):
            result[key] = Layout(part.dtype, tuple(part.shape))
    if layout == "codeshell" and config.tie_word_embeddings:
        result[HEAD] = result.pop(HEAD)
    return result


def _contents(directory: Path) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    """Each file of weights with its tensors; the parts of a trainer's checkpoint give whole tensors, one at a time."""
    try:
        names = part_names(directory, "model")
        if names and names != ["model.safetensors"]:
            parts = TensorParts(directory, names)
            for name in parts.layouts:
                yield directory / names[0], {name: parts.read(name)}
            return
    except TensorFileError as error:
        raise UserError(f"{directory}: a damaged checkpoint: {error}; take another one") from None
    for file in weight_files(directory):
        yield file, read_file(file)


def weight_files(directory: Path) -> list[Path]:
    """The files to read: those of an index, else the single file; safetensors before `.bin`."""
    # safetensors first where both are there, because nothing in it can run.
    for name in _WEIGHTS:
        index = directory / f"{name}.index.json"
        if index.is_file():
            return _indexed_files(index)
        if (directory / name).is_file():
            return [directory / name]
    shards = sorted([*directory.glob("model-*.safetensors"), *directory.glob("pytorch_model-*.bin")])
    if shards:
        raise UserError(
            f"{directory}: {shards[0].name} is there, but not the .index.json beside it; download that, too"
        )
    raise UserError(
        f"{directory}: no weights; expected one of {', '.join(_WEIGHTS)} or its .index.json with shards beside it"
    )


def _indexed_files(index: Path) -> list[Path]:
    """The shards that an index names, each a plain file beside it."""
    # Only the file names are used: which tensors a file holds, the file itself says.
    content = read_downloaded_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise UserError(
            f"{index}: no weight_map from tensor names to files; take the index from where the weights came from"
        )
    files = []
    for name in sorted(set(weight_map.values())):
        # The index is a stranger's: a name with a folder in it could read any file of this machine.
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
            raise UserError(f"{index}: refuses shard {name!r}; shards are plain file names beside the index")
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name}: missing, but listed in {index.name}; download it")
        files.append(index.parent / name)
    return files


def read_file(file: Path, mmap: bool = False) -> dict[str, torch.Tensor]:
    """All tensors of one file, on the CPU; with `mmap` a `.bin` stays on the disk until a tensor is used."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            wrong = fault(file) or f"not a readable safetensors file ({_line(error)}); {AGAIN}"
            raise UserError(f"{file}: {wrong}") from None
    # A `.bin` is a pickle, which can hold code; the restricted unpickler builds tensors and containers, nothing else.
    try:
        # Files of torch before 1.6 are no archives, and cannot be mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if known := fault(file):
            raise UserError(f"{file}: {known}") from None
        # A file of torch is an archive, or in earlier versions begins as pickles do. Anything else is no such file.
        with open(file, "rb") as opened:
            if not opened.read(2).startswith((b"PK", b"\x80")) and "GLOBAL" not in str(error):
                raise UserError(f"{file}: not a PyTorch file; {AGAIN}") from None
        raise UserError(
            f"{file}: holds more than tensors, and unpickling it could run its author's code; "
            "if you trust it, convert it to safetensors"
        ) from None
    # Any other error of the unpickler (it raises many kinds) is a file that is cut short or something else.
    except Exception as error:
        wrong = fault(file) or f"not a readable PyTorch file ({_line(error)}); {AGAIN}"
        raise UserError(f"{file}: {wrong}") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UserError(f"{file}: not a dict of tensors; give a state dict saved by torch.save")
    return content


def _line(error: BaseException) -> str:
    """The first line of another library's message, cut short."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def check_tensor(name: str, tensor: torch.Tensor, shapes: Mapping[str, torch.Size], file: Path) -> None:
    if name not in shapes:
        raise UserError(
            f"{file}: tensor {name} {tuple(tensor.shape)} has no place in config.json's model; use its own config"
        )
    if tensor.shape != shapes[name]:
        raise UserError(
            f"{file}: tensor {name} is {tuple(tensor.shape)}, but config.json makes it {tuple(shapes[name])}; "
            "use the config.json that belongs to these weights"
        )
    # Quantised weights are integers or 8-bit floats, whose scales are in tensors of their own.
    if tensor.dtype not in DTYPES.values() or tensor.layout != torch.strided:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise UserError(f"{file}: tensor {name} is {kind}; quantised checkpoints are not supported, take the bf16 one")


def converted(name: str, tensor: torch.Tensor, dtype: torch.dtype, file: Path) -> torch.Tensor:
    """The tensor in another dtype; a finite weight that would become infinite there is an error."""
    result = tensor.to(dtype)
    # Only a dtype of a smaller range can overflow.
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and bool((result.isinf() & tensor.isfinite()).any()):
        raise UserError(
            f"{file}: tensor {name} has values beyond the range of {str(dtype).removeprefix('torch.')}; "
            "load it with dtype='float32' or 'bfloat16'"
        )
    return result


def _tie(weights: dict[str, torch.Tensor], origin: Mapping[str, Path]) -> None:
    """Give head and embedding the same tensor, whichever of the two the files hold."""
    # Some files hold both; that is accepted if they are equal, because then nothing is lost.
    embedding, head = weights.get(EMBEDDING), weights.get(HEAD)
    if embedding is not None and head is not None and not torch.equal(embedding, head):
        raise UserError(
            f"{origin[HEAD]}: lm_head.weight differs from transformer.wte.weight, but config.json ties them; "
            'set "tie_word_embeddings": false in config.json'
        )
    tied = embedding if embedding is not None else head
    if tied is not None:
        weights[EMBEDDING] = weights[HEAD] = tied


def _check_complete(
    weights: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], config: CodeShellConfig, directory: Path
) -> None:
    """Refuse a model with a tensor missing or of two dtypes."""
    missing = [name for name in shapes if name not in weights]
    if config.tie_word_embeddings and HEAD in missing:
        missing.remove(HEAD)  # the same parameter as the embedding, which is missing, too
    if missing:
        raise UserError(
            f"{directory}: tensor {missing[0]} {tuple(shapes[missing[0]])} is in none of its weight files "
            f"({len(missing)} missing in all); the download is incomplete or config.json is another model's"
        )
    # One dtype, because a linear layer does not multiply two.
    dtypes = sorted({str(tensor.dtype) for tensor in weights.values()})
    if len(dtypes) > 1:
        raise UserError(
            f"{directory}: weights are of {len(dtypes)} dtypes ({', '.join(dtypes)}); choose one with dtype="
        )


def _to_starcoder2(tensors: Mapping[str, torch.Tensor], config: CodeShellConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Starcoder2's name and tensor for each of ours; the fused projection becomes three."""
    # Rows of c_attn that are queries, keys and values.
    widths = [config.n_embd, *[config.num_query_groups * config.head_dim] * 2]
    for name, tensor in tensors.items():
        new = name
        for ours, theirs in _STARCODER2.items():
            new = new.replace(ours, theirs)
        if ".attn.c_attn." in name:
            for part, letter in zip(torch.split(tensor, widths), "qkv", strict=True):
                yield new.replace(".attn.c_attn.", f".self_attn.{letter}_proj."), part
        else:
            yield new, tensor


def _from_starcoder2(pending: dict[str, torch.Tensor], config: CodeShellConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Take from `pending` the tensors that make whole ones of ours; q, k and v may lie in different shards."""
    # A list of the names, because the loop takes tensors out. Each q looks for its k and v; what stays waits for the
    # next shard.
    for theirs in sorted(pending):
        found = re.fullmatch(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)", theirs)
        if found is None:
            name = theirs
            for part, starcoder2 in _STARCODER2.items():
                name = name.replace(starcoder2, part)
            yield name, pending.pop(theirs)
        elif found[2] == "q":
            parts = [f"{found[1]}{letter}_proj.{found[3]}" for letter in "qkv"]
            if all(part in pending for part in parts):
                layer = found[1].removeprefix("model.layers.").removesuffix(".self_attn.")
                whole = torch.cat([pending.pop(part) for part in parts])
                yield f"transformer.h.{layer}.attn.c_attn.{found[3]}", whole


def _shards(tensors: dict[str, Layout], limit: int) -> list[dict[str, Layout]]:
    """The tensors in their order, cut into files of at most `limit` bytes; a tensor is never cut."""
    shards: list[dict[str, Layout]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
