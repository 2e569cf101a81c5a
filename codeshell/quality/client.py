"""A client of OpenAI-compatible endpoints, on the standard library: one call, with what can go wrong on the way.

A call that meets a closed port, a timeout, a server's error or a rate limit is repeated after a pause that doubles;
`Retry-After` is obeyed, and a rate limit pauses every thread. What will not get better (a wrong key, a wrong address)
ends the run with one line. Redirects are not followed: they would carry the key to another host.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from codeshell.environment import is_loopback
from codeshell.errors import UserError, say
from codeshell.randomness import draw

MAX_RESPONSE = 4 << 20
"""Bytes of a response that are read; a longer one is nonsense."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between two tries: the first, and the most."""

LONGEST_WAIT = 600.0
"""Seconds of a `Retry-After` that are waited; an endpoint that asks for more is left alone (a daily quota)."""

REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Status codes after which the same request may succeed."""


class RefusedError(Exception):
    """The endpoint refused this one request (400, 413, 422): other documents may pass."""


class StoppedError(Exception):
    """The run is ending; a waiting call gives up."""


@dataclass
class Endpoint:
    """Where to ask, and how patiently.

    Attributes:
        url: of `/chat/completions`, or the base before it.
        key: sent as a bearer token; empty for none.
        timeout: seconds for the whole answer.
        retries: tries after the first.
        per_minute: requests that may begin in a minute; 0 for no limit.
        first_pause: seconds before the second try.
    """

    url: str
    key: str = field(default="", repr=False)
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 6
    per_minute: float = 0.0
    first_pause: float = FIRST_PAUSE
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.url = completions_url(self.url)
        host = urllib.parse.urlsplit(self.url).hostname or ""
        if self.key and self.url.startswith("http:") and not is_loopback(host):
            say(f"warning: --endpoint {host}: the key and the files travel without encryption; use https if you can")
        self._lock = threading.Lock()
        self._not_before = 0.0  # a time of the monotonic clock: a rate limit pauses all threads until then
        self._next_slot = 0.0  # the same, for `per_minute`
        self._opener = urllib.request.build_opener(_NoRedirects)

    def complete(self, body: dict[str, Any]) -> Any:
        """The JSON of the response to one request.

        Raises:
            RefusedError: the endpoint refused this request.
            UserError: the endpoint cannot be used, or does not answer after all retries.
            StoppedError: `stop` was set meanwhile.
        """
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            reason, pause = self._try(data)
            if isinstance(reason, _Answer):
                return reason.tree
            if attempt < self.retries:
                # Doubled each time, and spread by a hash, so that threads do not come back at one moment.
                backoff = min(self.first_pause * 2**attempt, LONGEST_PAUSE)
                spread = 0.5 + draw(attempt, threading.get_ident(), "backoff") / 2**65
                self._sleep(max(pause, backoff * spread))
        raise UserError(
            f"--endpoint {self.url}: no answer after {self.retries + 1} tries ({reason}); what is answered is kept: "
            "run the same command again when the endpoint works"
        )

    def _try(self, data: bytes) -> tuple[_Answer | str, float]:
        """One request: the answer, or why there is none and the seconds that the endpoint asks to wait."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "codeshell"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, data, headers, method="POST")
        deadline = time.monotonic() + self.timeout
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                content = self._read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                return self._status(error)
        except (OSError, http.client.HTTPException) as error:
            inner = getattr(error, "reason", error)
            return f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__, 0.0
        if content is None:
            return "the response is too long, or took too long", 0.0
        try:
            return _Answer(json.loads(content)), 0.0
        except (ValueError, RecursionError):
            return "the response is not JSON", 0.0

    def _read(self, response: Any, deadline: float) -> bytes | None:
        """The body; None if it is too long or comes too slowly."""
        pieces, size = [], 0
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            # A socket's timeout counts from byte to byte; a server that drips would hold a thread for hours.
            if size > MAX_RESPONSE or time.monotonic() > deadline:
                return None
        content = b"".join(pieces)
        length = response.headers.get("Content-Length")
        if length and length.isdigit() and int(length) > len(content):
            raise http.client.IncompleteRead(content, int(length) - len(content))
        return content

    def _status(self, error: urllib.error.HTTPError) -> tuple[str, float]:
        """What a status other than 200 means."""
        detail = _detail(error)
        if error.code in (401, 403):
            which = f"the key in {self.key_variable}" if self.key else f"no key: set {self.key_variable}"
            raise UserError(f"--endpoint {self.url}: status {error.code} with {which} ({detail}); fix the key")
        if error.code in REPEATED:
            pause = retry_after(error.headers.get("Retry-After"))
            if pause > LONGEST_WAIT:
                raise UserError(
                    f"--endpoint {self.url}: status {error.code}, and asks to wait {pause:.0f} s ({detail}); what is "
                    "answered is kept: run the same command again after that"
                )
            if error.code == 429:
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + max(pause, self.first_pause))
            return f"status {error.code}: {detail}", pause
        if error.code in (400, 413, 422):
            raise RefusedError(f"status {error.code}: {detail}")
        raise UserError(
            f"--endpoint {self.url}: status {error.code} ({detail}); give the base URL that ends in /v1, and a --model "
            "that the endpoint has"
        )

    def _wait_for_turn(self) -> None:
        """Wait until no rate limit pauses the threads, and the minute has room for one more request."""
        while True:
            with self._lock:
                now = time.monotonic()
                start = max(self._not_before, self._next_slot if self.per_minute else 0.0)
                if start <= now:
                    if self.per_minute:
                        self._next_slot = max(now, self._next_slot) + 60.0 / self.per_minute
                    break
            self._sleep(start - now)
        if self.stop.is_set():
            raise StoppedError

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise StoppedError


@dataclass(frozen=True)
class _Answer:
    tree: Any


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def completions_url(url: str) -> str:
    """The URL of `/chat/completions` below a base URL; a URL that ends so is itself.

    Raises:
        UserError: not an http or https URL.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise UserError(f"--endpoint {url!r}: not a URL; give one such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions"
    return urllib.parse.urlunsplit(parts._replace(path=path))


def key_from(variable: str) -> str:
    """The key in an environment variable; empty if it is not set.

    Raises:
        UserError: the value cannot stand in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not all(character.isprintable() for character in key):
        raise UserError(f"{variable}: holds characters that no key has; set it again")
    return key


def retry_after(value: str | None) -> float:
    """The seconds that a `Retry-After` asks for, a number or a date; 0 for none or nonsense."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if 0.0 < seconds < float("inf") else 0.0


def _detail(error: urllib.error.HTTPError) -> str:
    """The endpoint's own words about an error, on one line."""
    try:
        raw = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        tree = json.loads(raw)["error"]
        raw = tree["message"] if isinstance(tree, dict) else str(tree)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return " ".join(str(raw).split())[:200] or str(error.reason)
