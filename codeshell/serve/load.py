"""The model of a directory, ready to be served."""

from __future__ import annotations

from pathlib import Path

from codeshell.errors import UserError
from codeshell.model.infill import trained_order
from codeshell.model.loading import load
from codeshell.model.session import Session
from codeshell.serve.app import Service
from codeshell.serve.prompts import Prompts
from codeshell.serve.server import Options, default_name
from codeshell.serve.style import Served
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.chat import ChatTemplate


def load_service(directory: Path, options: Options) -> Service:
    """Load a model and what belongs to it.

    Raises:
        UserError: a file is missing or broken, or the model is of a family that is not served.
    """
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.load(directory)
    model = load(directory, options.weights)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{directory}: a tokenizer of {tokenizer.vocab_size} tokens, but the model has {model.config.vocab_size} "
            "rows; put the model's own tokenizer there"
        )
    chat = ChatTemplate.load(directory, tokenizer, options.chat_template)
    session = Session(model, tokenizer, caches=options.caches)
    context = session.reader.positions
    served = Served(
        name=options.name or default_name(directory),
        context=context,
        created=int((directory / "config.json").stat().st_mtime),
        new_tokens=options.new_tokens,
        most_new_tokens=options.most_new_tokens,
        temperature=options.temperature,
        lenient=options.lenient,
    )
    prompts = Prompts(tokenizer, context, trained_order(directory), chat)
    return Service(served, prompts, session, options.access, options.queue)
