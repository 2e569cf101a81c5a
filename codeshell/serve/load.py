"""The model of a directory or of a name, ready to be served."""

from __future__ import annotations

from codeshell.errors import UserError
from codeshell.model.infill import trained_order
from codeshell.serve import ready
from codeshell.serve.app import Service
from codeshell.serve.options import Options, default_name
from codeshell.serve.prompts import Prompts
from codeshell.serve.style import Served
from codeshell.tokenizer.chat import ChatTemplate


def load_service(options: Options) -> Service:
    """Load a model and what belongs to it.

    Raises:
        UserError: a file is missing or broken, the model is of a family that is not served, or its context is shorter
            than the one that is asked for.
    """
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    found = ready.find(options.model)
    made = ready.load(found, options.weights, caches=options.caches)
    chat = ChatTemplate.load(found.directory, made.tokenizer, options.chat_template)
    reader = made.session.reader
    if options.context > reader.positions:
        raise UserError(
            f"--context {options.context}: the model holds {reader.positions} tokens; give at most that, or none"
        )
    reader.positions = options.context or reader.positions
    served = Served(
        name=options.name or default_name(options.model, found.directory),
        context=reader.positions,
        created=int((found.directory / "config.json").stat().st_mtime),
        new_tokens=options.new_tokens,
        most_new_tokens=options.most_new_tokens,
        temperature=options.temperature,
        lenient=options.lenient,
    )
    prompts = Prompts(made.tokenizer, reader.positions, trained_order(found.directory), chat, made.before)
    return Service(served, prompts, made.session, options.access, options.queue)
