"""Connections whose clients are too slow: uvicorn's own protocol with three more limits of time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Time for the head of a request to come, from its first byte or from the start of the connection; and for the rest of
a body that nobody waits for, because the request has been answered without it."""

UNREAD_SECONDS = 60
"""Time for which sent bytes may stay unconfirmed; afterwards the system drops the connection (Linux)."""


class Protocol(H11Protocol):
    """HTTP/1.1; a connection that sends no whole head of a request in time is closed."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head has begun, and is not whole; or an answered request still has a body. Bytes that come slowly do not
        # start the time again.
        head = self.conn.their_state is h11.IDLE
        rest = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if not (head or rest):
            self._stop_waiting()
        elif self._patience is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
