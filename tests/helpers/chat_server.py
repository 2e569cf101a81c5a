"""A small OpenAI-compatible server on 127.0.0.1 whose answers a test decides, and answers that are good."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

GOOD = {"correctness": 4, "readability": 3, "security": 5, "value": 2, "score": 3, "why": "Clear."}


class Reply(NamedTuple):
    """What the server sends: a status with headers and a body, or a fault of the connection."""

    body: Any = b""
    """Bytes as they are; anything else as JSON."""
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed)
    fault: str = ""
    """`close`: without a word; `short`: a body that ends too early."""


def completion(content: str | None, finish: str = "stop") -> dict[str, Any]:
    """A response of /chat/completions."""
    message = {"role": "assistant", "content": content}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 60},
    }


def good(**changes: Any) -> dict[str, Any]:
    return completion(json.dumps(GOOD | changes))


class Server:
    """Attributes: url (the base), requests (path, headers, body of each), most (requests at one time)."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply | dict[str, Any]]) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append((self.path, dict(self.headers), body))
                    server._now += 1
                    server.most = max(server.most, server._now)
                try:
                    reply = answer(body, number)
                finally:
                    with server._lock:
                        server._now -= 1
                self._send(reply if isinstance(reply, Reply) else Reply(reply))

            def _send(self, reply: Reply) -> None:
                if reply.fault == "close":
                    self.close_connection = True
                    self.connection.close()
                    return
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) * (2 if reply.fault == "short" else 1)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign,assignment]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"


@contextmanager
def serve(answer: Callable[[dict[str, Any], int], Reply | dict[str, Any]]) -> Iterator[Server]:
    """A server whose `answer` gets the body of a request and its number from 0."""
    server = Server(answer)
    thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join()
