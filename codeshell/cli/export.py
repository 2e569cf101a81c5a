"""`codeshell export`: a model in the format of another program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "write a model as GGUF for llama.cpp, or in another layout of safetensors"

GGUF = "gguf"

MAGIC = b"GGUF"
"""The first bytes of such a file."""

RUNS = ("model", "model-starcoder2")
"""Directories of a run that hold a model."""

MODEL_TYPES = ("kclgpt", "codeshell", "shell", "starcoder2")
"""Types of CodeShell's architecture (codeshell/model/config.py has them, but loads torch)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write MODEL, a directory in CodeShell's or Starcoder2's layout, for other programs. "
        "A GGUF is read back and compared value by value before it gets its name."
    )
    parser.add_argument("model", metavar="MODEL", help="a directory with a model and its tokenizer, or a run")
    parser.add_argument(
        "--format",
        choices=(GGUF, "codeshell", "starcoder2"),
        default=GGUF,
        help="gguf (the default) is one file for llama.cpp and what is built on it; codeshell and starcoder2 are "
        "directories of safetensors, the latter for transformers and vLLM",
    )
    parser.add_argument(
        "--type",
        choices=("f32", "f16", "bf16", "q8_0"),
        help="number format of the matrices (default: that of the weights); q8_0, of GGUF alone, takes 8.5 bits a "
        "weight",
    )
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help="the file to write, or the directory")
    parser.add_argument(
        "--architecture",
        choices=("starcoder2", "codeshell"),
        default="starcoder2",
        help="name of llama.cpp's network (default: starcoder2, which most programs read); the function is the same",
    )
    parser.add_argument("--name", default="", help="name of the model in the GGUF (default: that of its directory)")
    parser.add_argument(
        "--license", default="", metavar="ID", help="licence of the weights, as apache-2.0, in the GGUF"
    )
    parser.epilog = (
        "examples:\n"
        "  codeshell export runs/demo/model --type q8_0 -o demo.gguf\n"
        "  codeshell export CodeShell-7B --format starcoder2 -o CodeShell-7B-starcoder2"
    )


def main(args: argparse.Namespace) -> int:
    from codeshell.engine.downloads import check_model_directory, read_downloaded_json
    from codeshell.engine.files import output_path
    from codeshell.errors import UserError

    # Arguments are checked before torch is imported, which takes seconds.
    output = output_path(args.output)
    directory = _model_directory(args.model)
    if args.format == GGUF:
        _check_package()
        _check_place(output)
    elif args.type == "q8_0":
        raise UserError("--type q8_0: a format of GGUF; choose f32, f16 or bf16 for safetensors, or --format gguf")
    kind = read_downloaded_json(check_model_directory(directory) / "config.json")
    kind = kind.get("model_type") if isinstance(kind, dict) else None
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{directory}: model_type is {kind!r}, and CodeShell's and Starcoder2's are exported; transformers loads "
            "it as it is, and llama.cpp's convert_hf_to_gguf.py makes a GGUF of it"
        )
    if not (directory / "tokenizer.json").exists():
        raise UserError(f"{directory}: has no tokenizer.json; copy it from where the model came from")

    from codeshell.engine.progress import Progress
    from codeshell.export import layouts
    from codeshell.export.blocks import FORMATS
    from codeshell.model.weight_rows import WeightRows
    from codeshell.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    weights = WeightRows(directory)
    template = layouts.chat_template(directory)
    size = sum(layout.nbytes for layout in weights.layouts.values())
    if args.format != GGUF:
        dtype = FORMATS[args.type].dtype if args.type else None
        with Progress("export", total=size, unit="bytes") as bar:
            count = layouts.write(
                output, weights, tokenizer, args.format, dtype, template=template, progress=bar.advance
            )
        print(f"{output}: {count} tensors in the layout of {args.format}")
        return 0

    from codeshell.export import gguf_file, gguf_tokenizer

    form = FORMATS[args.type or _own_type(weights)]
    config = weights.config
    converted = gguf_tokenizer.convert(
        tokenizer, config.vocab_size, str(directory / "tokenizer.json"), config.bos_token_id, config.eos_token_id
    )
    total = sum(form.nbytes(layout.shape) for layout in weights.layouts.values())
    with Progress("export", total=total, unit="bytes") as bar:
        count = gguf_file.write(
            output,
            weights,
            converted,
            form,
            args.architecture,
            name=args.name or _name(directory),
            template=template,
            own={"license": args.license} if args.license else {},
            progress=bar.advance,
        )
    print(
        f"{output}: {output.stat().st_size:,} bytes, {count} tensors in {form.name}, read back and equal"
        f"{' within the rounding of Q8_0' if form.dtype is None else ''}; pre-tokenizer {converted.pre}"
    )
    return 0


def _model_directory(name: str) -> Path:
    """The model's directory; a run has its model in a folder."""
    from codeshell.errors import UserError

    directory = Path(name)
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        raise UserError(
            f"{directory}: an adapter, not a model; merge it first: `codeshell model merge BASE ADAPTER -o DIR`"
        )
    if (directory / "recipe.toml").is_file() and (directory / "model" / "config.json").is_file():
        return directory / "model"
    return directory


def _check_place(output: Path) -> None:
    """Refuse to write a GGUF where something else is: a directory, a device, or a file such as the model's own."""
    from codeshell.engine.files import disk_error
    from codeshell.errors import UserError

    if output.is_dir():
        raise UserError(f"-o {output}: a directory; a GGUF is one file, so give a file name")
    if not output.exists():
        return
    if not output.is_file():
        raise UserError(f"-o {output}: not a file; a GGUF is read back once it is written, so give a file name")
    try:
        with open(output, "rb") as file:
            # An empty file is a name that somebody has reserved.
            there = file.read(len(MAGIC)) in (MAGIC, b"")
    except OSError as error:
        raise disk_error(error, output) from error
    if not there:
        raise UserError(f"-o {output}: is there already and is no GGUF; remove it or choose another -o")


def _check_package() -> None:
    import importlib.util

    from codeshell.errors import UserError

    if importlib.util.find_spec("gguf") is None:
        raise UserError("--format gguf: the package gguf is not installed; pip install 'codeshell[gguf]'")


def _own_type(weights: Any) -> str:
    """The format of the weights' own dtype; the widest where they have several."""
    names = {"torch.float16": "f16", "torch.bfloat16": "bf16"}
    dtypes = {str(dtype) for dtype in weights.dtypes}
    return names.get(dtypes.pop(), "f32") if len(dtypes) == 1 else "f32"


def _name(directory: Path) -> str:
    """The directory's name; of a run's `model/` that of the run."""
    resolved = directory.resolve()
    return resolved.parent.name if resolved.name in RUNS and resolved.parent.name else resolved.name
