"""What each address is answered with."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codeshell import __version__
from codeshell.errors import say
from codeshell.serve import chat, llama, openai, tgi
from codeshell.serve.answers import Json, answer, refusal
from codeshell.serve.errors import RequestError
from codeshell.serve.fields import parse
from codeshell.serve.guard import Access, Guard, read_body
from codeshell.serve.prompts import Prompts
from codeshell.serve.style import Numbers, Order, Served
from codeshell.serve.worker import Generates, Worker

Read = Callable[[dict[str, Any], Served, int], Order]

ASKED: dict[str, Read] = {
    "/v1/completions": openai.completions,
    "/v1/fim/completions": openai.fill_in,
    "/v1/chat/completions": chat.chat_completions,
    "/completion": llama.completion,
    "/infill": llama.infill,
    "/generate": tgi.generate,
    "/generate_stream": tgi.generate_stream,
}
"""Addresses that generate, and who reads their requests."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: its own script and style, and answers of this server."""

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


@dataclass
class Service:
    """A model that is served.

    Attributes:
        served: what requests are read with.
        prompts: turns them into token ids.
        session: generates.
        access: who may ask.
        queue: requests that may wait.
    """

    served: Served
    prompts: Prompts
    session: Generates
    access: Access = field(default_factory=Access)
    queue: int = 16

    def __post_init__(self) -> None:
        self.worker = Worker(self.session, self.queue)
        self.numbers = Numbers()


def make_app(service: Service) -> Starlette:
    """The application. Its worker runs from the start of the server to its end."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop()

    async def health(request: Request) -> Response:
        return Json({"status": "ok"})

    async def models(request: Request) -> Response:
        return Json(_models(service.served))

    async def props(request: Request) -> Response:
        return Json(_props(service))

    routes = [
        *(Route(path, _asking(service, read), methods=["POST"]) for path, read in ASKED.items()),
        *(Route(path, health) for path in ("/health", "/v1/health")),
        *(Route(path, models) for path in ("/v1/models", "/models")),
        Route("/props", props),
        *(Route(path, _file(*names)) for path, names in FILES.items()),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, access=service.access)],
        exception_handlers={RequestError: _refused, HTTPException: _not_found},
    )


def _asking(service: Service, read: Read) -> Callable[[Request], Any]:
    """The endpoint of an address that generates."""

    async def endpoint(request: Request) -> Response:
        try:
            order = read(parse(await read_body(request)), service.served, service.numbers.next())
            return await answer(request, order, service.prompts, service.worker)
        except RequestError:
            raise
        except Exception as error:
            # A fault of ours: the client gets an error object as well, and the log has the place.
            say(f"codeshell: {request.url.path} failed:")
            for line in traceback.format_exc().splitlines():
                say(line)
            raise RequestError(
                f"the server failed ({type(error).__name__}); its log has more", status=500, type="server_error"
            ) from None

    return endpoint


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refusal(error)


async def _not_found(request: Request, error: Exception) -> Response:
    """An address that there is not, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    if error.status_code == 405:
        wanted = RequestError(
            f"{path} is not asked by {request.method}; send {'a POST' if path in ASKED else 'a GET'}",
            status=405,
            code="bad_method",
        )
        response = refusal(wanted)
        response.headers.update(error.headers or {})
        return response
    known = ", ".join([*ASKED, "/v1/models", "/props", "/health"])
    return refusal(
        RequestError(f"{path}: no such address; there are {known}", status=error.status_code, code="not_found")
    )


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    """A file of the page. It is read once: the package does not change while it runs."""
    content = (resources.files("codeshell.serve") / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache", "referrer-policy": "no-referrer"}
        return Response(content, media_type=kind, headers=headers)

    return endpoint


def _models(served: Served) -> dict[str, Any]:
    model = {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "codeshell",
        "meta": {"n_ctx": served.context, "n_ctx_train": served.context},
    }
    return {"object": "list", "data": [model]}


def _props(service: Service) -> dict[str, Any]:
    """What the model can do, in the form of llama.cpp's `/props`, and for the page."""
    served, prompts = service.served, service.prompts
    settings = {"n_predict": served.new_tokens, "temperature": served.temperature, "n_ctx": served.context}
    return {
        "default_generation_settings": {"n_ctx": served.context, "params": settings},
        "total_slots": 1,
        "model_path": served.name,
        "model_alias": served.name,
        "chat_template": prompts.chat.text if prompts.chat is not None else "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"codeshell {__version__}",
        "infill": prompts.order if prompts.fills else None,
        "chat": prompts.chat is not None,
        "waiting": service.worker.waiting,
    }
