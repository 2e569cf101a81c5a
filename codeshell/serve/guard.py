"""Who may ask, and how much: what is checked before a request is read.

A server on 127.0.0.1 is reached by every web page that its user opens, because the browser runs on the same machine.
Three checks keep pages out. The name in `Host` must be an address, `localhost` or a name that the user gave: a page
whose own name was pointed at 127.0.0.1 (DNS rebinding) has another one. An `Origin`, which browsers send, must be the
server's own or one that the user gave. And a body must be declared as JSON, which a page of another origin may not send
without asking first, and the answer to that is no.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from codeshell.serve.errors import RequestError
from codeshell.serve.replies import refusal

MOST_BODY = 8 << 20
"""Bytes of a request."""

BODY_SECONDS = 15.0
"""Time for a whole body to come."""

OPEN = frozenset({"/", "/page.css", "/page.js", "/health", "/v1/health"})
"""What is answered without the key: the page, which asks for it, and whether the server lives."""


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        key: what clients must send; "" lets everybody in.
        hosts: names that a request may be addressed to, beside addresses and `localhost`.
        origins: web pages that may ask, such as `https://editor.example`.
    """

    key: str = ""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


class Guard:
    """The checks in front of an application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin is not None and origin.lower() in self._access.origins
        response: Response | None = None
        try:
            check_length(headers)
            check_host(headers, self._access.hosts)
            if origin is not None and not allowed:
                check_origin(origin, headers["host"])
            if allowed and scope["method"] == "OPTIONS":
                # The browser asks whether the page may ask. Its request comes without the key.
                response = Response(
                    status_code=204,
                    headers={
                        "access-control-allow-methods": "GET, POST",
                        "access-control-allow-headers": "authorization, content-type, x-api-key",
                        "access-control-max-age": "600",
                    },
                )
            elif scope["path"] not in OPEN:
                check_key(headers, self._access.key)
        except RequestError as error:
            response = refusal(error)

        async def send_with_origin(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                raw = list(message.get("headers", []))  # type: ignore[call-overload]
                raw += [(b"vary", b"origin"), (b"x-content-type-options", b"nosniff")]
                if allowed and origin is not None:
                    raw.append((b"access-control-allow-origin", origin.encode("latin-1")))
                message = message | {"headers": raw}
            await send(message)

        await (response or self._app)(scope, receive, send_with_origin)  # type: ignore[arg-type]


def check_length(headers: Headers) -> None:
    """Refuse a request that says in two ways where it ends: a proxy before the server may believe the other one, and
    then the two disagree about whose request comes next (request smuggling).

    Raises:
        RequestError: `Content-Length` and `Transfer-Encoding`.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        raise RequestError("Content-Length and Transfer-Encoding: send one of them", code="bad_length")


def check_host(headers: Headers, names: Collection[str]) -> None:
    """Refuse a request that is addressed to a name which is not this server's.

    Raises:
        RequestError: no `Host`, two of them, or another name.
    """
    found = headers.getlist("host")
    if len(found) != 1:
        raise RequestError("Host: send one such header", status=400, code="bad_host")
    name = host_name(found[0])
    if name is None or not (name == "localhost" or name in names or _is_address(name)):
        raise RequestError(
            "Host: the request is addressed to a name that is not this server's; use its address, or start it with "
            "--allow-host NAME",
            status=403,
            code="bad_host",
        )


def host_name(host: str) -> str | None:
    """The name in a `Host` header, without its port and in lower case; None if it is none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") or not port else "?"
        if not closed:
            return None
    else:
        name, _, port = host.partition(":")
    return name.rstrip(".") if name and (not port or (port.isascii() and port.isdigit())) else None


def _is_address(name: str) -> bool:
    """Whether a name is an IP address. Nobody can point somebody else's name at it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_origin(origin: str, host: str) -> None:
    """Refuse a web page of another origin.

    Raises:
        RequestError: the origin is not the server's own page.
    """
    scheme, _, rest = origin.strip().lower().partition("://")
    if scheme not in ("http", "https") or rest != host.strip().lower():
        raise RequestError(
            "Origin: web pages of other origins may not use this server; allow one with --allow-origin ORIGIN",
            status=403,
            code="bad_origin",
        )


def check_key(headers: Headers, key: str) -> None:
    """Refuse a request without the key, in `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Raises:
        RequestError: no key, or another one.
    """
    if not key:
        return
    kind, _, sent = headers.get("authorization", "").partition(" ")
    sent = sent.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
    # Hashes have one length, and are compared in a time that tells nothing.
    if not hmac.compare_digest(_digest(sent), _digest(key)):
        raise RequestError(
            "the key is missing or wrong; send Authorization: Bearer KEY, with the key that the server was given",
            status=401,
            type="authentication_error",
            code="invalid_api_key",
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


async def read_body(request: Request) -> bytes:
    """The body of a request, if it is JSON, not too large, and comes in time.

    Raises:
        RequestError: it is not.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f"Content-Type: {kind[:40] or 'none'}; send application/json", status=415, code="bad_content_type"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("Content-Encoding: send the body as it is", status=415, code="bad_content_encoding")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > MOST_BODY:
        raise _too_large()
    try:
        return await asyncio.wait_for(_chunks(request), BODY_SECONDS)
    except TimeoutError:
        raise RequestError(
            f"the body did not come within {BODY_SECONDS:.0f} seconds; send it at once", status=408, code="timeout"
        ) from None
    except ClientDisconnect:
        raise RequestError("the client has gone", status=499, code="gone") from None


async def _chunks(request: Request) -> bytes:
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > MOST_BODY:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(
        f"the body has more than {MOST_BODY >> 20} MiB; send less around the cursor", status=413, code="too_large"
    )
