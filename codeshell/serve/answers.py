"""From a request that has been read to its answer: one object, or a stream of events.

A client that goes away is noticed in either case, and its generation ends: while a request waits or runs, somebody
listens for the end of its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from codeshell.model.session import Chunk
from codeshell.serve.errors import RequestError
from codeshell.serve.prompts import Prompts
from codeshell.serve.replies import Json, dumps
from codeshell.serve.style import Order, Result
from codeshell.serve.worker import Job, Worker

SLOW_READER = 30.0
"""Seconds that a client may take for an event."""


async def answer(request: Request, order: Order, prompts: Prompts, worker: Worker) -> Response:
    """Generate what was asked for.

    Raises:
        RequestError: a prompt does not fit, the queue is full, or the generation failed before its first text.
    """
    with worker.place():
        # Beside the event loop: a long text takes a while to encode.
        prepared = [await asyncio.to_thread(prompts.prepare, piece) for piece in order.pieces]
        job = Job(prepared)
        worker.submit(job)
    results = [Result(number, one) for number, one in enumerate(prepared)]
    events = _results(job, results, request.receive)
    if order.stream:
        # The first event decides the status: an error before any text is a plain error.
        first = await anext(events, None)
        return _no_reader() if first is None else EventStream(_lines(order, results, first, events))
    async with contextlib.aclosing(events):
        async for _ in events:
            pass
    return Json(order.style.whole(results)) if all(result.finish for result in results) else _no_reader()


def _no_reader() -> Response:
    """The answer to a client that has gone: nobody reads it."""
    return Response(status_code=499)


async def _results(job: Job, results: list[Result], receive: Receive) -> AsyncGenerator[tuple[Result, str], None]:
    """New text of the results, or "" for the end of one. It ends early where the client has gone.

    Raises:
        RequestError: the generation failed.
    """
    gone = asyncio.create_task(_gone(receive, job))
    try:
        while (event := await job.events.get()) is not None:
            if isinstance(event, RequestError):
                raise event
            number, item = event
            result = results[number]
            if isinstance(item, Chunk):
                result.parts.append(item.text)
                yield result, item.text
            else:
                if item.reason == "cancelled":
                    continue
                result.finish = item
                yield result, ""
    finally:
        # Also where whoever reads the events has stopped.
        job.cancel()
        gone.cancel()


async def _gone(receive: Receive, job: Job) -> None:
    """Cancel a job when its connection ends. The body has been read, so nothing else can come."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel()
    # A job that waits is no longer in the queue, so nobody else would tell its reader.
    job.put(None)


async def _lines(
    order: Order,
    results: Sequence[Result],
    first: tuple[Result, str],
    events: AsyncGenerator[tuple[Result, str], None],
) -> AsyncGenerator[str, None]:
    """The events of a stream: `data:` and an object, an empty line after each."""
    style = order.style
    # Closing this closes the events as well, at once, which ends the generation.
    async with contextlib.aclosing(events):
        for event in style.begin(results):
            yield _line(event)
        try:
            item: tuple[Result, str] | None = first
            while item is not None:
                result, text = item
                for event in style.chunk(result, text) if text else style.last(result):
                    yield _line(event)
                item = await anext(events, None)
        except RequestError as error:
            # The status has been sent; OpenAI's clients raise what has a field `error`.
            yield _line(error.body())
            return
        if all(result.finish for result in results):
            for event in style.end(results):
                yield _line(event)


def _line(event: Any) -> str:
    return f"data: {event if isinstance(event, str) else dumps(event)}\n\n"


class EventStream(Response):
    """Server-sent events. A client that does not read them loses its connection."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            await send(start)
            async for line in self._lines:
                message = {"type": "http.response.body", "body": line.encode(), "more_body": True}
                await asyncio.wait_for(send(message), SLOW_READER)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            # Nobody reads. The end of this call without an end of the answer closes the connection.
            return
        finally:
            await self._lines.aclose()
