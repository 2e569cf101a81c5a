"""What `codeshell serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from codeshell.engine.hub import on_hub
from codeshell.serve.guard import Access


@dataclass(frozen=True)
class Options:
    """How a model is served.

    Attributes:
        model: a directory, or a name on the hub.
        name: of the model in answers; "" takes the directory's.
        weights: type of the weights in memory.
        host, port: where it listens; port 0 is any free one.
        access: who may ask.
        queue: requests that may wait.
        new_tokens, most_new_tokens, temperature: see `Served`.
        lenient: let unknown fields of requests pass.
        chat_template: of the model, by name or file; "" is its own.
        caches: prompts that are kept.
        context: tokens at most of prompt and answer together; 0 is what the model holds.
        threads: of the CPU; 0 is torch's own number.
    """

    model: str
    name: str = ""
    weights: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8012
    access: Access = field(default_factory=Access)
    queue: int = 16
    new_tokens: int = 256
    most_new_tokens: int = 4096
    temperature: float = 0.0
    lenient: bool = False
    chat_template: str = ""
    caches: int = 4
    context: int = 0
    threads: int = 0


def default_name(model: str, directory: Path) -> str:
    """A model's name in answers: the hub's, or its directory's, or that of its run, whose models are in `model`."""
    if on_hub(model):
        return model
    path = directory.resolve()
    return path.parent.name if path.name in ("model", "final") and path.parent.name else path.name or "model"
