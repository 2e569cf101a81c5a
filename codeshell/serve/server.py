"""The process that serves: its socket, its model, its signals.

What can be wrong is found before the model is loaded: a port in use, an address without a key, a model that does not
fit into the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any
from typing import Protocol as Interface

import uvicorn

from codeshell.engine.hub import model_directory, on_hub
from codeshell.environment import is_loopback
from codeshell.errors import UserError, say
from codeshell.serve.memory import check_memory
from codeshell.serve.options import Options
from codeshell.serve.protocol import Protocol

GRACE = 3.0
"""Seconds in which a running request may end, once the server is told to."""

LAST_WORDS = 2
"""Seconds in which clients may then read that the server is ending."""

CONNECTIONS = 512
"""At most at a time; a request beyond them gets 503."""

BACKLOG = 128

KEEP_ALIVE = 60
"""Seconds that a connection may be idle between two requests."""


def run(options: Options) -> int:
    """Serve until a signal ends it; the exit code.

    Raises:
        UserError: there is no such model, it does not fit, the port is in use, …
    """
    if not options.access.key and not is_loopback(options.host):
        raise UserError(
            f"--host {options.host}: others could use the model; give --api-key KEY (or the variable "
            "CODESHELL_API_KEY), or stay with --host 127.0.0.1"
        )
    # A model on the hub is fetched once the port is ours.
    directory = None if on_hub(options.model) else model_directory(options.model)
    with listen(options.host, options.port) as bound:
        check_memory(directory or model_directory(options.model), options.weights, options.context)
        # Loads torch, and takes seconds; so it comes after the checks.
        from codeshell.serve.app import make_app
        from codeshell.serve.load import load_service

        service = load_service(options)
        server = make_server(make_app(service), service.worker)
        what = ["completion"]
        what += ["filling in"] if service.prompts.fills else []
        what += ["chat"] if service.prompts.chat is not None else []
        say(
            f"codeshell: {service.served.name} at {address(bound)} ({', '.join(what)}; {service.served.context:,} "
            f"tokens; {'with' if options.access.key else 'no'} key); Ctrl-C ends it"
        )
        server.run(sockets=[bound])
    say("codeshell: the server has ended")
    return 0


def make_server(app: Any, worker: Ends, *, grace: float = GRACE, keep_alive: int = KEEP_ALIVE) -> Server:
    """The server of an application whose generations a worker makes.

    Args:
        grace: seconds, as `GRACE`.
        keep_alive: seconds, as `KEEP_ALIVE`.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=math.ceil(grace) + LAST_WORDS,
    )
    return Server(config, worker, grace)


class Ends(Interface):
    """What a server needs of a worker at its end; `codeshell.serve.worker.Worker` has it."""

    def close(self) -> None: ...
    def interrupt(self) -> None: ...


class Server(uvicorn.Server):
    """uvicorn's server, which a signal ends without an error: that is how a server ends.

    Whoever waits for a text is told at once that the server is ending. A text that is being written has `grace`
    seconds; then its client is told so, too.
    """

    def __init__(self, config: uvicorn.Config, worker: Ends, grace: float = GRACE) -> None:
        super().__init__(config)
        self._worker, self._grace = worker, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.close()
        # uvicorn takes no more connections, and waits for the answers of those that there are.
        patience = asyncio.get_running_loop().call_later(self._grace, self._worker.interrupt)
        try:
            await super().shutdown(sockets)
        finally:
            patience.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Only the main thread has signals; a test runs a server in another one.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        # `nohup` has the signal of a closed terminal ignored, and that stays.
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens: clients that come while the model is loaded wait.

    Raises:
        UserError: the address is none of this machine, the port is in use or not allowed.
    """
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host}: no such address; give one of this machine, for example 127.0.0.1") from None
    with socket.socket(family, kind, number) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(place)
            # Two servers may bind one port, and the second is refused only here.
            bound.listen(BACKLOG)
        except OSError as error:
            raise UserError(_why(host, port, error)) from None
        yield bound


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: in use on {host}; end what uses it, or give another one (0 takes any free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port {port}: not allowed ({error.strerror}); give one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: not an address of this machine; give one that it has, for example 127.0.0.1"
    return f"--host {host} --port {port}: cannot listen ({error.strerror}); give another address"


def address(bound: socket.socket) -> str:
    """The URL of a socket's address."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
