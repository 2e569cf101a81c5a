"""`codeshell lm convert`: model files of other toolkits to ours, and ours to ARPA."""

from __future__ import annotations

import argparse

HELP = "turn an ARPA file or a binary of KenLM into a model, or a model into an ARPA file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell lm convert wikipedia.arpa.gz wikipedia.lm --quantize\n"
        "  codeshell lm convert en.arpa.bin en.lm\n"
        "  codeshell lm convert python.lm python.arpa\n"
        "The first bytes of IN tell what it is. Of KenLM's binaries those with probing tables are read. A model can\n"
        "become ARPA if it was written with --keep-words."
    )
    parser.add_argument("input", metavar="IN", help="an ARPA file (plain or gzipped), a binary of KenLM, or a model")
    parser.add_argument(
        "output", metavar="OUT", help="the model to write; for a model as IN, FILE.arpa or FILE.arpa.gz"
    )
    parser.add_argument("--quantize", action="store_true", help="8-bit probabilities: about a quarter of the size")
    parser.add_argument("--keep-words", action="store_true", help="keep the n-grams' words, to write ARPA again later")
    parser.add_argument("--memory", default="1GiB", metavar="SIZE", help="memory for sorting (default: 1GiB)")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.cli.sizes import parse_size
    from codeshell.engine.arrow import leave_out_pandas
    from codeshell.errors import UserError

    leave_out_pandas()
    from codeshell.ngram import convert
    from codeshell.ngram.model import LanguageModel

    memory = parse_size(args.memory, "--memory")
    output = Path(args.output)
    if not args.output or output.is_dir():
        raise UserError(f"OUT {args.output!r}: empty or a directory; name the file to write")
    kind = convert.kind_of(args.input)
    is_arpa = output.name.endswith((".arpa", ".arpa.gz"))
    if kind != "codeshell":
        if is_arpa:
            raise UserError(f"{output}: {args.input} becomes a model of codeshell; name the output MODEL.lm")
        convert.to_model(args.input, output, quantize=args.quantize, keep_words=args.keep_words, memory=memory)
    else:
        if not is_arpa:
            raise UserError(f"{args.input}: is a model of codeshell already; name the output FILE.arpa or FILE.arpa.gz")
        if args.quantize or args.keep_words:
            raise UserError("--quantize and --keep-words: are for models that are written; leave them out for ARPA")
        convert.to_arpa(LanguageModel.load(args.input, "mapped").handle, args.input, output)
        print(f"{output}: {output.stat().st_size / 1e6:,.1f} MB")
        return 0
    about = LanguageModel.load(output, "mapped").about
    grams = ", ".join(f"{count:,}" for count in about["entries"])
    print(f"{output}: order {about['order']}, {grams} n-grams, {about['file_bytes'] / 1e6:,.1f} MB")
    return 0
