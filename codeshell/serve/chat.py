"""Requests to `/v1/chat/completions`, for models that were tuned on messages, and their answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from codeshell.serve.errors import field_error, shown
from codeshell.serve.fields import Fields, Refused, check_text
from codeshell.serve.openai import IGNORED, REFUSED, no_usage, read_settings, read_stream_options
from codeshell.serve.prompts import Chat, Piece
from codeshell.serve.samplers import apply_samplers, read_samplers
from codeshell.serve.style import Order, Result, Served, openai_reason, usage

MOST_MESSAGES = 1000

ROLES = ("system", "user", "assistant")

CHAT_IGNORED = IGNORED | {
    "response_fields": "whole answers are sent",
}

CHAT_REFUSED = {name: refused for name, refused in REFUSED.items() if name not in ("echo", "best_of")} | {
    "tools": Refused(([],), "the model calls no tools"),
    "tool_choice": Refused(("none", "auto"), "the model calls no tools"),
    "parallel_tool_calls": Refused((False, True), "the model calls no tools"),
    "functions": Refused(([],), "the model calls no functions"),
    "function_call": Refused(("none", "auto"), "the model calls no functions"),
    "modalities": Refused((["text"],), "the model reads and writes text"),
    "audio": Refused((), "the model reads and writes text"),
    "prediction": Refused((), "there is no speculative decoding"),
    "reasoning_effort": Refused(("none",), "the model does not think first"),
    "web_search_options": Refused((), "the server has no network"),
    "chat_template_kwargs": Refused(({},), "the template is used as it is"),
}


def chat_completions(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/v1/chat/completions`."""
    fields = Fields(body, ignored=CHAT_IGNORED, refused=CHAT_REFUSED, lenient=served.lenient)
    fields.text("model")
    settings = read_settings(fields, served, number, served.most_new_tokens)
    settings = apply_samplers(settings, read_samplers(fields))
    messages = _messages(fields.get("messages"))
    include_usage = read_stream_options(fields)
    stream = fields.flag("stream")
    fields.finish()
    style = ChatCompletions(served, f"chatcmpl-{number}", include_usage)
    return Order((Piece(Chat(messages), settings),), style, stream)


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    """The messages: a role and a text each. A list of text parts is joined, as OpenAI reads it."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_MESSAGES:
        raise field_error("messages", f"is {shown(value)}; send a list of 1 to {MOST_MESSAGES} messages")
    return tuple(_message(f"messages[{number}]", message) for number, message in enumerate(value))


def _message(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise field_error(name, f"is {shown(value)}; send an object with role and content")
    # OpenAI's newer name of the system's role.
    role = "system" if value.get("role") == "developer" else value.get("role")
    if role not in ROLES:
        raise field_error(f"{name}.role", f"is {shown(role)}; send one of {', '.join(ROLES)}")
    for other in ("tool_calls", "function_call", "audio", "refusal"):
        if value.get(other):
            raise field_error(f"{name}.{other}", "is not served; send texts", "unsupported")
    content = value.get("content")
    if isinstance(content, list):
        parts = []
        for number, part in enumerate(content):
            here = f"{name}.content[{number}]"
            if not isinstance(part, dict) or part.get("type") != "text":
                raise field_error(here, f"is {shown(part)}; the model reads text, so send parts of the type text")
            parts.append(check_text(f"{here}.text", part.get("text")))
        content = "".join(parts)
    return {"role": role, "content": check_text(f"{name}.content", content)}


class ChatCompletions:
    """Answers of `/v1/chat/completions`."""

    def __init__(self, served: Served, name: str, include_usage: bool) -> None:
        self._head = {"id": name, "created": int(time.time()), "model": served.name}
        self._include_usage = include_usage

    def whole(self, results: Sequence[Result]) -> Any:
        choices = [
            {
                "index": result.number,
                "message": {"role": "assistant", "content": result.text, "refusal": None},
                "logprobs": None,
                "finish_reason": openai_reason(result.finish),
            }
            for result in results
        ]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": usage(results)}

    def begin(self, results: Sequence[Result]) -> list[Any]:
        return [self._event(result, {"role": "assistant", "content": ""}, None) for result in results]

    def chunk(self, result: Result, text: str) -> list[Any]:
        return [self._event(result, {"content": text}, None)]

    def last(self, result: Result) -> list[Any]:
        return [self._event(result, {}, openai_reason(result.finish))]

    def end(self, results: Sequence[Result]) -> list[Any]:
        last = []
        if self._include_usage:
            last = [self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage(results)}]
        return [*last, "[DONE]"]

    def _event(self, result: Result, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        choice = {"index": result.number, "delta": delta, "logprobs": None, "finish_reason": reason}
        event = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return event | no_usage(self._include_usage)
