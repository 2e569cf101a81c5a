"""A fine-tuned model as the files that others read: in its base's own format, with its base's tokenizer and settings.

    model/              the tuned model: for LoRA, the base's tensors with the products of the factors added
    model-starcoder2/   the same as a Starcoder2, where the base is a model of codeshell
    adapter/            the factors, in peft's format, for LoRA

Every directory is written under a temporary name and renamed, so that it is whole or absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from codeshell.engine.downloads import AGAIN, fault
from codeshell.engine.files import TEMPORARY, make_directory, read_json, write_json
from codeshell.errors import UserError
from codeshell.integrations import causal
from codeshell.model import checkpoints
from codeshell.model.tensor_files import Layout, TensorWriter
from codeshell.train import lora
from codeshell.train.base import Base, read
from codeshell.train.export import export
from codeshell.train.manifest import disk_errors, flush_directory, replace_directory

if TYPE_CHECKING:
    from codeshell.recipe import Recipe
    from codeshell.tokenizer import Tokenizer
    from codeshell.train.agreement import Ranks

LAYOUTS: dict[str, Literal["codeshell", "starcoder2"]] = {"model": "codeshell", "model-starcoder2": "starcoder2"}

ADAPTER = "adapter"

TEMPLATE = "chat_template.jinja"
"""The chat template's file, beside the weights, as transformers has it."""

_COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.jinja", "generation_config.json"),
)
"""Files of a base that say how its model is used; they go with the tuned one."""


def write(recipe: Recipe, directory: Path, model: Any, tokenizer: Tokenizer, group: Ranks | None = None) -> None:
    """Write what a training has made into a run's directory; all ranks call it.

    Args:
        recipe: `finetune` is used.
        directory: of the run.
        model: on its device, trained.
        tokenizer: of the run.
        group: the ranks that train together; None for one alone.

    Raises:
        UserError: the disk is full or read-only; the base has changed since.
    """
    settings = recipe.finetune
    if not settings.base:
        for name, layout in LAYOUTS.items():
            export(directory / name, model, layout, tokenizer, group)
        return
    base = read(settings.base)

    def finish(target: Path) -> None:
        _complete(target, base)
        if settings.instructions:
            _speak(target, directory / "tokens")

    if settings.method == "lora":
        with _replaced(directory / ADAPTER) as temporary:
            lora.save(temporary, model, settings, base)
            if settings.instructions:
                # Whoever merges it elsewhere needs the template, too.
                _complete(temporary, base, ("generation_config.json",))
                _speak(temporary, directory / "tokens")
        adapter = lora.read(directory / ADAPTER)
        for name in LAYOUTS if base.kind == "codeshell" else ("model",):
            _merge(base, adapter, directory / name, LAYOUTS[name], finish)
    elif base.kind == "codeshell":
        for name, layout in LAYOUTS.items():
            export(directory / name, model, layout, tokenizer, group, finish)
    else:
        with _replaced(directory / "model") as temporary:
            _save_foreign(temporary, model, base)
            finish(temporary)


def merge(base_name: str, adapter_directory: str | Path, target: Path) -> int:
    """Add an adapter's products to its base, and write the result in the base's own format.

    Args:
        base_name: a model directory, or a name on the hub.
        adapter_directory: in peft's format.
        target: the new model directory, which must not be there.

    Returns:
        The number of matrices that changed.

    Raises:
        UserError: no such model or adapter, or the adapter belongs to another base.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; remove it or choose another -o")
    adapter = lora.read(adapter_directory)
    base = read(base_name)

    def finish(directory: Path) -> None:
        _complete(directory, base)
        # An adapter of a chat brings its template along.
        for name in (TEMPLATE, "generation_config.json"):
            if (adapter.directory / name).is_file():
                shutil.copyfile(adapter.directory / name, directory / name)

    _merge(base, adapter, target, "codeshell", finish)
    return len(adapter.factors)


def _merge(
    base: Base,
    adapter: lora.Adapter,
    target: Path,
    layout: Literal["codeshell", "starcoder2"],
    finish: Callable[[Path], None],
) -> None:
    lora.check_base(adapter, base)
    with _replaced(target) as temporary:
        if base.kind == "codeshell":
            _merge_own(base, adapter, temporary, layout)
        else:
            _merge_files(base, adapter, temporary)
        finish(temporary)


def _merge_own(base: Base, adapter: lora.Adapter, target: Path, layout: Literal["codeshell", "starcoder2"]) -> None:
    """The merged model of a base of codeshell, whose files may be of several kinds: by the reader of all of them."""
    from codeshell.model import CodeShellForCausalLM

    model = CodeShellForCausalLM.from_pretrained(base.directory)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    _check_names(adapter, set(tensors), base)
    for name in adapter.factors:
        weight = tensors[name]
        tensors[name] = _added(weight, adapter, name)
    checkpoints.save(tensors, model.config, target, layout)


def _merge_files(base: Base, adapter: lora.Adapter, target: Path) -> None:
    """The files of a base of transformers, each tensor as it is or with its product added: one is in memory at a time.

    Names, dtypes and the cut into files are the base's.
    """
    files = sorted(base.directory.glob("model*.safetensors"))
    if not files:
        raise UserError(f"{base.directory}: no model.safetensors; only bases in safetensors are merged")
    layouts: dict[Path, dict[str, Layout]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                layouts[file] = {name: _layout(opened, name) for name in opened.keys()}  # noqa: SIM118 (no iterator)
        except (SafetensorError, OSError) as error:
            wrong = fault(file) or f"not a readable safetensors file ({error}); {AGAIN}"
            raise UserError(f"{file}: {wrong}") from None
    _check_names(adapter, {name for layout in layouts.values() for name in layout}, base)
    for file, layout in layouts.items():
        with (
            safe_open(file, "pt") as opened,
            TensorWriter(target / file.name, layout, dict(opened.metadata() or {"format": "pt"})) as writer,
        ):
            for name in layout:
                tensor = opened.get_tensor(name)
                writer.write(name, _added(tensor, adapter, name) if name in adapter.factors else tensor)
    for name in ("model.safetensors.index.json", "config.json"):
        if (base.directory / name).is_file():
            shutil.copyfile(base.directory / name, target / name)


def _layout(opened: Any, name: str) -> Layout:
    """Dtype and shape of a tensor of a file; of its values one row is read."""
    part = opened.get_slice(name)
    shape = tuple(part.get_shape())
    dtype = (part[:1] if shape else opened.get_tensor(name)).dtype
    return Layout(dtype, shape)


def _check_names(adapter: lora.Adapter, names: set[str], base: Base) -> None:
    """Refuse an adapter that changes what the base has not."""
    unknown = sorted(set(adapter.factors) - names)
    if unknown:
        raise UserError(
            f"{adapter.directory}: its factors change {unknown[0]}, which {base.name} does not have; this adapter "
            "belongs to another model"
        )


def _added(weight: torch.Tensor, adapter: lora.Adapter, name: str) -> torch.Tensor:
    """The weight with its product added, summed in fp32 and rounded once to the weight's dtype."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    delta = adapter.delta(name, Layout(weight.dtype, tuple(weight.shape)))
    return (weight.to(wide) + delta.to(wide)).to(weight.dtype)


def _save_foreign(target: Path, model: Any, base: Base) -> None:
    """A model of transformers, by its own method: the names of its files, and the dtype of its base."""
    inner = model.inner
    # What the base's files hold; the trained weights are fp32 or bf16.
    dtype = _dtype(base)
    tensors = {
        name: parameter.detach().to("cpu", dtype) for name, parameter in inner.named_parameters(remove_duplicate=False)
    }
    with causal.quiet():
        inner.save_pretrained(target, state_dict=tensors)
    # Its config says what it was computed in; the files say what they hold.
    config = read_json(target / "config.json")
    config["dtype" if "dtype" in config else "torch_dtype"] = str(dtype).removeprefix("torch.")
    write_json(target / "config.json", config)


def _dtype(base: Base) -> torch.dtype:
    """The dtype of the first floating tensor of a base's files."""
    for file in sorted(base.directory.glob("model*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no iterator)
                dtype = _layout(opened, name).dtype
                if dtype.is_floating_point:
                    return dtype
    return torch.float32


def _complete(target: Path, base: Base, names: Sequence[str] = _COMPANIONS) -> None:
    """Put the base's tokenizer and generation settings beside the weights, in the place of what is written there."""
    for name in names:
        if (base.directory / name).is_file():
            shutil.copyfile(base.directory / name, target / name)


def _speak(target: Path, tokens: Path) -> None:
    """Put the template of the conversations beside the weights, and let what ends an answer end a generation, too."""
    template = tokens / TEMPLATE
    if template.is_file():
        shutil.copyfile(template, target / TEMPLATE)
    file = target / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    ends = settings.get("eos_token_id")
    before = ends if isinstance(ends, list) else [] if ends is None else [ends]
    stops = read_json(tokens / "stats.json").get("conversations", {}).get("template", {}).get("stop_ids", [])
    if set(stops) - set(before):
        settings["eos_token_id"] = [*before, *sorted(set(stops) - set(before))]
        write_json(file, settings)


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A temporary directory that takes the name `target` when the block has ended without an error."""
    temporary = target.with_name(target.name + TEMPORARY)
    make_directory(target.parent)
    with disk_errors(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        flush_directory(temporary)
        replace_directory(temporary, target)
