"""Who may ask and how much: names, web pages, keys, bodies."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest
from helpers.live_server import Live, Script, live, service
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.serve import guard, protocol
from codeshell.serve.guard import Access, host_name

BODY = b'{"prompt": "a"}'
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    access = Access(key="s3cret", hosts=frozenset({"devbox.local"}), origins=frozenset({"https://editor.example"}))
    with live(service(Script(["x"]), access=access)) as one:
        yield one


@pytest.fixture(scope="module")
def open_server() -> Iterator[Live]:
    with live(service(Script(["x"]))) as one:
        yield one


def post(server: Live, headers: dict[str, str] | None = None, body: bytes = BODY, **named: str) -> httpx2.Response:
    found = JSON | {"authorization": "Bearer s3cret"} | (headers or {}) | named
    return httpx2.post(f"{server.url}/completion", content=body, headers=found, timeout=30)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8012", "localhost:1", "LOCALHOST", "[::1]:8012", "devbox.local", "10.0.0.7:80"]
)
def test_names_that_are_the_servers(server: Live, host: str) -> None:
    assert post(server, {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8012",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::1",
        "a b",
        "devbox.local:x",
    ],
)
def test_names_of_others_are_refused_before_the_key(server: Live, host: str) -> None:
    # DNS rebinding: a page of evil.example whose name now points at this machine.
    for path in ("/", "/props", "/health"):
        answer = httpx2.get(f"{server.url}{path}", headers={"host": host}, timeout=30)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "bad_host"
        assert "--allow-host" in answer.json()["error"]["message"]


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=16))
def test_a_host_header_is_read_or_is_none(text: str) -> None:
    name = host_name(text)
    assert name is None or (name == name.lower() and ":" not in name) or text.strip().startswith("[")


def test_pages_of_other_origins_are_refused(server: Live) -> None:
    own = server.url
    assert post(server, {"origin": own}).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost:1", "vscode-webview://x", own + "0"):
        answer = post(server, {"origin": origin})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "bad_origin"
        assert "access-control-allow-origin" not in answer.headers
    # The browser asks first; without an answer that allows it, it sends nothing.
    asked = httpx2.options(f"{server.url}/completion", headers={"origin": "https://evil.example"}, timeout=30)
    assert asked.status_code == 403 and "access-control-allow-origin" not in asked.headers


def test_a_page_that_is_allowed_is_named_and_no_other(server: Live) -> None:
    answer = post(server, {"origin": "https://editor.example"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://editor.example"
    asked = httpx2.options(f"{server.url}/completion", headers={"origin": "https://editor.example"}, timeout=30)
    assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]
    # An error is readable by the page as well, and the key is asked for.
    refused = post(server, {"origin": "https://editor.example", "authorization": "Bearer no"})
    assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers


def test_the_key(server: Live) -> None:
    assert post(server).status_code == 200
    assert post(server, {"authorization": "", "x-api-key": "s3cret"}).status_code == 200
    for headers in (
        {"authorization": ""},
        {"authorization": "Bearer s3cre"},
        {"authorization": "Basic s3cret"},
        {"authorization": "s3cret"},
    ):
        answer = post(server, headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key" and "s3cret" not in answer.text
    # The page comes without it, and so does what tells that the server lives; all else needs it.
    codes = {
        path: httpx2.get(f"{server.url}{path}", timeout=30).status_code
        for path in ("/", "/page.js", "/health", "/props", "/v1/models", "/nothing")
    }
    assert codes == {"/": 200, "/page.js": 200, "/health": 200, "/props": 401, "/v1/models": 401, "/nothing": 401}


def test_without_a_key_any_is_good(open_server: Live) -> None:
    assert post(open_server, {"authorization": "Bearer undefined"}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_must_be_declared_as_json(open_server: Live, kind: str) -> None:
    # The three kinds that a page may send anywhere without asking first.
    answer = post(open_server, {"content-type": kind})
    assert answer.status_code == 415 and "send application/json" in answer.json()["error"]["message"]
    assert post(open_server, {"content-type": "application/json; charset=utf-8"}).status_code == 200
    assert post(open_server, {"content-encoding": "gzip"}).status_code == 415


def test_large_bodies_are_refused_declared_or_not(open_server: Live) -> None:
    large = b'{"prompt": "' + b"x" * (10 << 20) + b'"}'
    answer = post(open_server, body=large)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"

    def parts() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * (1 << 20)

    # In chunks no length is declared. The server stops to read, which the client may notice first.
    try:
        streamed = httpx2.post(f"{open_server.url}/completion", content=parts(), headers=JSON, timeout=30)
        assert streamed.status_code == 413
    except httpx2.TransportError:
        pass
    assert post(open_server).status_code == 200


def raw(server: Live, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the server answers to bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        data = b""
        # A connection that is closed while it still sends is reset.
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(1 << 16):
                data += more
        return data


HEAD = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


def test_a_body_that_comes_too_slowly(open_server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    answer = raw(open_server, HEAD + b"Content-Length: 100\r\n\r\n", b"{", b'"', pause=0.05)
    assert answer.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in answer


def test_a_body_that_nobody_waits_for(open_server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)
    # The answer comes at once. The rest of the body may not come for ever, whether byte by byte or in one piece.
    for path, status in ((b"GET /health", b"200"), (b"POST /v1/models", b"405"), (b"POST /completion", b"415")):
        head = path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        answer = raw(open_server, head, *[b"x"] * 20, pause=0.05)
        assert answer.startswith(b"HTTP/1.1 " + status) and answer.count(b"HTTP/1.1") == 1
    # And whoever sends all of it is heard again on the same connection.
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    answer = raw(open_server, head, b"x", b"x", HEAD.replace(b"POST /completion", b"GET /health") + b"\r\n", pause=0.05)
    assert answer.count(b'{"status":"ok"}') == 2


def test_a_head_that_comes_too_slowly(open_server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)
    # A byte now and then does not prolong it; and a connection that says nothing is closed as well.
    assert raw(open_server, b"POST /comp", b"l", b"e", b"t", pause=0.05) == b""
    assert raw(open_server) == b""
    # Whoever sends a whole head in time may wait for the answer.
    assert b'"content":"x"' in raw(open_server, HEAD + b"Content-Length: 15\r\n\r\n", BODY, pause=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n",
        HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000,
    ],
    ids=["tls", "version", "no-host", "two-hosts", "negative", "two-lengths", "two-ends", "long-header", "long-path"],
)
def test_what_is_no_http_is_400_and_the_server_lives(open_server: Live, data: bytes) -> None:
    answer = raw(open_server, data)
    assert answer.startswith(b"HTTP/1.1 400") or (not answer and len(data) > 100_000)
    assert post(open_server).status_code == 200


def test_addresses_and_methods_that_there_are_not(open_server: Live) -> None:
    lost = httpx2.post(f"{open_server.url}/v1/embeddings", json={}, timeout=30)
    assert lost.status_code == 404 and "/v1/completions" in lost.json()["error"]["message"]
    wrong = httpx2.get(f"{open_server.url}/v1/completions", timeout=30)
    assert (
        wrong.status_code == 405 and wrong.json()["error"]["code"] == "bad_method" and wrong.headers["allow"] == "POST"
    )
    assert httpx2.get(f"{open_server.url}/../../etc/passwd", timeout=30).status_code == 404
