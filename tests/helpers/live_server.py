"""`codeshell serve` in a thread of the test, on a free port: with a tiny random model, or with a scripted session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from codeshell.model.session import Chunk, Finish, Session, Settings
from codeshell.serve.app import Service, make_app
from codeshell.serve.prompts import Prompts
from codeshell.serve.server import Server, address, listen, make_server
from codeshell.serve.style import Served
from helpers.tiny_models import tiny_model
from helpers.tiny_run import byte_tokenizer

TOKENIZER = byte_tokenizer()


class Script:
    """A session that writes what a test says, one piece at a time.

    Attributes:
        prompts: ids and settings of every stream that began, in order.
        written: pieces given out so far.
        cancelled: streams that were cancelled.
        gate: when given, a piece is written for each time it is released.
    """

    def __init__(self, pieces: Sequence[str] | Exception = (), gate: threading.Semaphore | None = None) -> None:
        self.pieces, self.gate = pieces, gate
        self.prompts: list[tuple[list[int], Settings]] = []
        self.written = self.cancelled = 0
        self.began = threading.Event()

    def stream(
        self, prompt: Sequence[int], settings: Settings, cancelled: Callable[[], bool]
    ) -> Iterator[Chunk | Finish]:
        self.prompts.append((list(prompt), settings))
        self.began.set()
        if isinstance(self.pieces, Exception):
            raise self.pieces
        written = 0
        for piece in self.pieces:
            while self.gate is not None and not self.gate.acquire(timeout=0.005):
                if cancelled():
                    break
            if cancelled():
                self.cancelled += 1
                yield Finish("cancelled", cause="cancelled", prompt_tokens=len(prompt), new_tokens=written)
                return
            self.written += 1
            written += 1
            yield Chunk(piece)
        yield Finish("stop", "<|endoftext|>", "special", len(prompt), 0, written, 0.25, 0.5)


class Letters:
    """A chat template for tests: `U:` and `A:` before each message, `system` as it is."""

    stop: tuple[str, ...] = ("\nU:",)
    stop_ids: tuple[int, ...] = (TOKENIZER.eot,)
    text = "{{ messages }}"

    def prompt_ids(self, messages: Sequence[dict[str, Any]], tokenizer: Any) -> list[int]:
        names = {"user": "U:", "assistant": "A:", "system": ""}
        text = "".join(f"{names[message['role']]}{message['content']}\n" for message in messages)
        return [tokenizer.eot, *tokenizer.encode(text + "A:")]


def service(session: Any = None, *, context: int = 96, order: str = "psm", chat: Any = None, **named: Any) -> Service:
    """A service of the byte tokenizer; without a session it generates with a tiny random model."""
    served = {name: named.pop(name) for name in list(named) if name in Served.__dataclass_fields__}
    if session is None:
        session = Session(tiny_model(n_positions=context), TOKENIZER)
    prompts = Prompts(TOKENIZER, context, order, chat)  # type: ignore[arg-type]
    return Service(Served(name="tiny", context=context, **served), prompts, session, **named)


class Live:
    """A server that answers. `url` has no slash at its end."""

    def __init__(self, made: Service, url: str, server: Server) -> None:
        self.service, self.url, self.server = made, url, server

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def live(made: Service, grace: float = 0.2) -> Iterator[Live]:
    """Serve until the end of the block."""
    with listen("127.0.0.1", 0) as bound:
        server = make_server(make_app(made), made.worker, grace=grace, keep_alive=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Live(made, address(bound).rstrip("/"), server)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "the server does not end"


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something is so, for what a test has no event of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)
