"""`codeshell model resize`: rows for a larger tokenizer."""

from __future__ import annotations

import argparse

HELP = "give a model the rows of another tokenizer, new tokens as the mean of their parts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write MODEL with embedding rows for TOKENIZER. Tokens that the model's own tokenizer has keep their rows; a "
        "new token starts as the mean of its parts' rows."
    )
    parser.epilog = "example: codeshell model resize runs/demo/model larger-tokenizer -o larger-model"
    parser.add_argument("model", metavar="MODEL", help="a model directory in the layout of CodeShell or Starcoder2")
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="the new tokenizer.json, or a directory that holds one")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="directory of the new model")
    parser.add_argument("--base", metavar="TOKENIZER", help="the model's own tokenizer (default: the one in MODEL)")
    parser.add_argument(
        "--layout",
        choices=("codeshell", "starcoder2"),
        help="layout of the new model (default: that of MODEL)",
    )


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.engine.files import output_path
    from codeshell.errors import UserError
    from codeshell.tokenizer import Tokenizer

    output = output_path(args.output)
    if (output / "config.json").exists():
        raise UserError(f"{output}: already holds a model; remove it or choose another -o")
    new = Tokenizer.load(args.tokenizer)
    base = Path(args.base or args.model)
    if not args.base and base.is_dir() and not (base / "tokenizer.json").exists():
        raise UserError(f"{base}: has no tokenizer.json; name the tokenizer that the model was trained with: --base")

    from codeshell.engine.downloads import check_model_directory, read_downloaded_json
    from codeshell.model import CodeShellForCausalLM
    from codeshell.model.resize import resize

    directory = check_model_directory(args.model)
    old = Tokenizer.load(base)
    model = CodeShellForCausalLM.from_pretrained(directory)
    resized, found = resize(model, old, new)
    kind = read_downloaded_json(directory / "config.json").get("model_type")
    starcoder2 = (args.layout or kind) == "starcoder2"
    # config.json is the last file that is written, and says that the directory is complete.
    new.save(output)
    resized.save_pretrained(output, "starcoder2" if starcoder2 else "codeshell")
    print(
        f"{output}: {resized.config.vocab_size:,} rows for {new.vocab_size:,} tokens (before: "
        f"{model.config.vocab_size:,} rows); {found.kept:,} tokens keep their row, "
        f"{found.made:,} start as the mean of their parts, {found.lone:,} as the mean of all"
    )
    return 0
