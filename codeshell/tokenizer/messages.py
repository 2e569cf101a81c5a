"""The messages of a conversation, checked: roles, types, sizes. What a stranger sends or a file holds ends up here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from codeshell.errors import UserError

Role = Literal["system", "user", "assistant"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant")

MOST_MESSAGES = 4096
MOST_CHARACTERS = 16_000_000
"""Far beyond any context; they keep the work for one request bounded."""

_TOOLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who speaks.
        content: the text, without lone surrogates.
        trained: whether an assistant's answer is learned from (OpenAI's `"weight": 0` says that it is not).
    """

    role: Role
    content: str
    trained: bool = True


def check_messages(messages: Any, where: str = "messages") -> list[Message]:
    """The messages of a request or a file in one form.

    Args:
        messages: a list of `{"role": …, "content": …}`. A content is a string, or a list of parts
            `{"type": "text", "text": …}`, whose texts are joined. Messages that are checked already pass.
        where: what a fault is said of.

    Raises:
        UserError: one line that names the message and what is wrong with it.
    """
    if not isinstance(messages, list | tuple):
        raise UserError(f"{where}: a {_kind(messages)}; give a list of messages with a role and a content")
    if not messages:
        raise UserError(f"{where}: empty; give at least one message with a role and a content")
    if len(messages) > MOST_MESSAGES:
        raise UserError(f"{where}: {len(messages):,} messages; give at most {MOST_MESSAGES:,}")
    checked = [_message(message, f"{where}[{number}]") for number, message in enumerate(messages)]
    if (size := sum(len(message.content) for message in checked)) > MOST_CHARACTERS:
        raise UserError(f"{where}: {size:,} characters in all; give at most {MOST_CHARACTERS:,}")
    return checked


def _message(message: Any, where: str) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise UserError(f"{where}: a {_kind(message)}; give an object with a role and a content")
    role = message.get("role")
    if role not in ROLES:
        said = (
            "no role" if role is None else f"the role {str(role)[:40]!r}" if isinstance(role, str) else "no text role"
        )
        raise UserError(f"{where}: {said}; the roles are {', '.join(ROLES)}")
    for name in _TOOLS:
        if message.get(name):
            raise UserError(
                f"{where}: {name}; tools are not served, so write the call into the content or leave it out"
            )
    weight = message.get("weight", 1)
    if weight not in (0, 1) or isinstance(weight, str):
        raise UserError(f"{where}.weight: {str(weight)[:40]}; give 1 for an answer to learn from, or 0")
    return Message(role, _content(message.get("content"), f"{where}.content"), bool(weight))


def _content(content: Any, where: str) -> str:
    """The text of a content."""
    if isinstance(content, list):
        for number, part in enumerate(content):
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise UserError(
                    f"{where}[{number}]: no text part; give {{'type': 'text', 'text': …}}, because only text is served"
                )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UserError(f"{where}: {'missing' if content is None else 'a ' + _kind(content)}; give a string")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: half a character (a lone surrogate) at {error.start}; replace it, it has no UTF-8 form"
        ) from None
    return content


def _kind(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", dict: "object", list: "list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
