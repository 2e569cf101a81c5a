"""Clients that go away, requests that wait, several at once, and the end of the server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from helpers.live_server import Live, Script, live, service, wait_for


class Gated:
    """A server whose session writes one piece each time the gate is released."""

    def __init__(self, queue: int = 4, pieces: int = 200) -> None:
        self.gate = threading.Semaphore(0)
        self.script = Script(["x"] * pieces, self.gate)
        self.service = service(self.script, queue=queue)
        self.worker = self.service.worker


@pytest.fixture
def gated() -> Iterator[tuple[Gated, Live]]:
    one = Gated()
    with live(one.service) as server:
        yield one, server


def send(server: Live, path: str, body: dict[str, Any]) -> socket.socket:
    """A request whose connection the test holds."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        more = connection.recv(1 << 16)
        assert more, data
        data += more
    return data


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_a_stream_that_is_aborted_ends_its_generation(gated: tuple[Gated, Live], path: str) -> None:
    one, server = gated
    connection = send(server, path, {"prompt": "a", "stream": True})
    one.gate.release(3)
    read_until(connection, b"data: ")
    wait_for(lambda: one.script.written == 3)
    connection.close()
    wait_for(lambda: one.script.cancelled == 1 and not one.worker.busy)
    # Of 200 pieces, no more were written.
    assert one.script.written == 3
    # And the next request is served.
    one.gate.release(1000)
    assert httpx2.post(f"{server.url}/completion", json={"prompt": "b"}, timeout=30).json()["content"] == "x" * 200


@pytest.mark.parametrize("path", ["/v1/completions", "/infill", "/generate"])
def test_a_request_that_is_no_stream_is_cancelled_as_well(gated: tuple[Gated, Live], path: str) -> None:
    one, server = gated
    bodies = {"/infill": {"input_prefix": "a", "input_suffix": "b"}, "/generate": {"inputs": "a"}}
    connection = send(server, path, bodies.get(path, {"prompt": "a"}))
    wait_for(one.script.began.is_set)
    connection.close()
    wait_for(lambda: one.script.cancelled == 1 and not one.worker.busy)
    assert one.script.written == 0


def test_a_request_that_waits_never_runs_when_its_client_has_left(gated: tuple[Gated, Live]) -> None:
    one, server = gated
    first = send(server, "/completion", {"prompt": "first"})
    wait_for(one.script.began.is_set)
    second = send(server, "/completion", {"prompt": "second", "stream": True})
    wait_for(lambda: one.worker.waiting == 1)
    third = send(server, "/completion", {"prompt": "third"})
    wait_for(lambda: one.worker.waiting == 2)
    second.close()
    wait_for(lambda: one.worker.waiting == 1)
    one.gate.release(1000)
    read_until(first, b'"content"')
    read_until(third, b'"content"')
    texts = [bytes(ids).decode() for ids, _ in one.script.prompts]
    assert texts == ["first", "third"]
    first.close()
    third.close()


def test_more_than_may_wait_is_503_with_the_time_to_try_again() -> None:
    one = Gated(queue=1)
    with live(one.service) as server:
        first = send(server, "/completion", {"prompt": "a"})
        wait_for(one.script.began.is_set)
        second = send(server, "/completion", {"prompt": "b"})
        wait_for(lambda: one.worker.waiting == 1)
        refused = httpx2.post(f"{server.url}/completion", json={"prompt": "c"}, timeout=30)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        # What asks for no text is answered all the same.
        assert httpx2.get(f"{server.url}/health", timeout=30).json() == {"status": "ok"}
        assert httpx2.get(f"{server.url}/props", timeout=30).json()["waiting"] == 1
        one.gate.release(1000)
        read_until(first, b'"content"')
        read_until(second, b'"content"')


def test_a_queue_of_none_serves_one_at_a_time() -> None:
    one = Gated(queue=0, pieces=1)
    with live(one.service) as server:
        for _ in range(2):
            first = send(server, "/completion", {"prompt": "a"})
            wait_for(lambda: one.worker.busy)
            refused = httpx2.post(f"{server.url}/completion", json={"prompt": "b"}, timeout=30)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_full"
            one.gate.release()
            read_until(first, b'"content":"x"')
            wait_for(lambda: not one.worker.busy)


def test_a_request_takes_its_place_before_its_prompt_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    one, free = Gated(queue=1), threading.Event()
    encoded: list[str] = []
    prepare = one.service.prompts.prepare

    def slowly(piece: Any) -> Any:
        encoded.append(piece.prompt.text)
        assert free.wait(30)
        return prepare(piece)

    monkeypatch.setattr(one.service.prompts, "prepare", slowly)
    with live(one.service) as server:
        # The worker is idle: one may run and one may wait, and no third prompt is even looked at.
        held = [send(server, "/completion", {"prompt": text}) for text in "ab"]
        wait_for(lambda: len(encoded) == 2)
        assert httpx2.post(f"{server.url}/completion", json={"prompt": "c"}, timeout=30).status_code == 503
        assert sorted(encoded) == ["a", "b"]
        free.set()
        one.gate.release(1000)
        for connection in held:
            read_until(connection, b'"content"')
        # An error while it is encoded gives the place back.
        assert httpx2.post(f"{server.url}/completion", json={"prompt": "x" * 96}, timeout=30).status_code == 400
        assert httpx2.post(f"{server.url}/completion", json={"prompt": "d"}, timeout=30).status_code == 200


def test_clients_at_once_get_the_texts_that_they_would_get_alone() -> None:
    bodies = [{"prompt": letter * 9, "n_predict": 6, "stream": number % 2 == 1} for number, letter in enumerate("abcd")]

    def text(url: str, body: dict[str, Any]) -> str:
        answer = httpx2.post(f"{url}/completion", json=body, timeout=120)
        if not body["stream"]:
            return str(answer.json()["content"])
        return "".join(json.loads(part[6:])["content"] for part in answer.text.split("\n\n") if part)

    with live(service()) as server, ThreadPoolExecutor(4) as pool:
        alone = [text(server.url, body) for body in bodies]
        together = list(pool.map(lambda body: text(server.url, body), bodies))
    assert together == alone and len(set(alone)) > 1


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(1 << 16):
        data += more
    return data


def test_the_end_of_the_server_tells_who_waits_and_lets_finish_who_runs() -> None:
    one = Gated(pieces=3)
    with live(one.service, grace=20) as server:
        running = send(server, "/v1/completions", {"prompt": "a", "stream": True})
        one.gate.release(1)
        read_until(running, b"data: ")
        waiting = send(server, "/v1/completions", {"prompt": "b"})
        streamed = send(server, "/v1/completions", {"prompt": "c", "stream": True})
        wait_for(lambda: one.worker.waiting == 2)
        server.server.should_exit = True
        # What waits need not wait for what runs.
        for connection in (waiting, streamed):
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 503") and b'"code":"ending"' in answer
        one.gate.release(2)
        assert read_all(running).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert len(one.script.prompts) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_who_runs_for_too_long_at_the_end_of_the_server_is_told_so(stream: bool) -> None:
    one = Gated()
    with live(one.service, grace=0.1) as server:
        running = send(server, "/v1/completions", {"prompt": "a", "stream": stream})
        one.gate.release(1)
        wait_for(lambda: one.script.written == 1)
        if stream:
            read_until(running, b"data: ")
        server.server.should_exit = True
        answer = read_all(running)
        # A whole answer in either case: the client hears of the end from the server and not from its connection.
        assert b'"code":"ending"' in answer and answer.startswith(b"HTTP/1.1 503") != stream
        assert answer.endswith(b"\r\n0\r\n\r\n" if stream else b"}}")
    wait_for(lambda: one.script.cancelled == 1)


def test_the_server_ends_while_a_generation_runs() -> None:
    one = Gated()
    with live(one.service, grace=0.1) as server:
        connection = send(server, "/completion", {"prompt": "a"})
        wait_for(one.script.began.is_set)
    # `live` has waited for its thread: the generation did not hold the server up.
    wait_for(lambda: one.script.cancelled == 1)
    connection.close()


def test_a_reader_who_does_not_read_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeshell.serve.answers.SLOW_READER", 0.2)
    script = Script(["x" * 100_000] * 100)
    with live(service(script)) as server:
        connection = send(server, "/completion", {"prompt": "a", "stream": True})
        wait_for(lambda: script.written == 100 or script.cancelled)
        # Its request ends, although most of the answer was not sent; the buffers of the system hold less.
        wait_for(lambda: not server.server.server_state.tasks)
        received = 0
        while more := connection.recv(1 << 20):
            received += len(more)
        assert received < 10_000_000
        connection.close()
