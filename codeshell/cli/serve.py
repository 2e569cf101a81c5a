"""`codeshell serve`: a model for editors, over HTTP."""

from __future__ import annotations

import argparse
import os
import re

from codeshell.cli.weights import add_weights_option
from codeshell.errors import UserError

HELP = "serve a model to editors: the requests of llama.vim, llama.vscode, Continue, Tabby, OpenAI's clients"

KEY = "CODESHELL_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a directory with a model and its tokenizer, or a name on the hub (OWNER/NAME)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8012, metavar="N", help="port (default: 8012; 0: any free one)")
    parser.add_argument("--api-key", metavar="KEY", help=f"what clients must send (default: the variable {KEY})")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name that clients may use for this machine, beside addresses and localhost; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="a web page that may ask, such as https://editor.example; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="", metavar="NAME", help="the model's name in answers (default: its folder's)"
    )
    parser.add_argument(
        "--chat-template",
        default="",
        metavar="NAME|FILE",
        help="codeshell, plain or a file (default: the model's own)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N",
        help="tokens of an answer for which a request names no number (default: 256)",
    )  # fmt: skip
    parser.add_argument(
        "--most-new-tokens", type=int, default=4096, metavar="N", help="tokens of any answer at most (default: 4096)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T",
        help="for requests that name none (default: 0, the likeliest token)",
    )  # fmt: skip
    parser.add_argument("--queue", type=int, default=16, metavar="N", help="requests that may wait (default: 16)")
    parser.add_argument("--caches", type=int, default=4, metavar="N", help="prompts that are kept (default: 4)")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N",
        help="tokens at most of prompt and answer together (default: what the model holds); fewer need less memory",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: torch's own number)")
    parser.add_argument(
        "--ignore-unknown-fields", action="store_true", help="let unknown fields of requests pass, for newer plug-ins"
    )
    add_weights_option(parser)
    parser.epilog = "example: codeshell serve runs/demo/model   (then open http://127.0.0.1:8012/)"


def main(args: argparse.Namespace) -> int:
    key = args.api_key if args.api_key is not None else os.environ.get(KEY, "")
    check(args, key)
    try:
        from codeshell.serve.options import Options
        from codeshell.serve.server import run
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "h11"):
            raise
        raise UserError(f"serve: {error.name} is not installed; run pip install 'codeshell[serve]'") from None
    from codeshell.serve.guard import Access

    access = Access(
        key=key,
        hosts=frozenset(name.lower() for name in [args.host, *args.allow_host]),
        origins=frozenset(origin.lower().rstrip("/") for origin in args.allow_origin),
    )
    return run(
        Options(
            model=args.model,
            name=args.name,
            weights=args.weights,
            host=args.host,
            port=args.port,
            access=access,
            queue=args.queue,
            new_tokens=args.max_new_tokens,
            most_new_tokens=args.most_new_tokens,
            temperature=args.temperature,
            lenient=args.ignore_unknown_fields,
            chat_template=args.chat_template,
            caches=args.caches,
            threads=args.threads,
            context=args.context,
        )
    )


def check(args: argparse.Namespace, key: str) -> None:
    """Refuse what cannot be meant, one line each."""
    for option, value, least, most in (
        ("--port", args.port, 0, 65535),
        ("--max-new-tokens", args.max_new_tokens, 1, 1 << 20),
        ("--most-new-tokens", args.most_new_tokens, 1, 1 << 20),
        ("--queue", args.queue, 0, 10_000),
        ("--caches", args.caches, 1, 1000),
        ("--threads", args.threads, 0, 1024),
        ("--context", args.context, 0, 1 << 24),
    ):
        if not least <= value <= most:
            raise UserError(f"{option} {value}: give a number from {least} to {most}")
    if not 0.0 <= args.temperature <= 100.0:
        raise UserError(f"--temperature {args.temperature}: give a number from 0 (the likeliest token) to 100")
    if not args.host:
        raise UserError("--host: an empty address; give one, for example 127.0.0.1")
    source = "--api-key" if args.api_key is not None else f"the variable {KEY}"
    if key != key.strip() or not key.isprintable() or (args.api_key is not None and not key):
        raise UserError(f"{source}: empty, or with blanks or control characters; give a text that a header can hold")
    if not key.isascii():
        raise UserError(f"{source}: not ASCII; give a text that a header can hold")
    for name in args.allow_host:
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            raise UserError(f"--allow-host {name}: not a name; give one without a port, such as devbox.local")
    for origin in args.allow_origin:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+/?", origin, re.IGNORECASE):
            raise UserError(
                f"--allow-origin {origin}: not one origin; give scheme and host, such as https://editor.example"
            )
