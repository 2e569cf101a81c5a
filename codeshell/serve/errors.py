"""Errors as clients read them: a status, and OpenAI's error object."""

from __future__ import annotations

from typing import Any

INVALID = "invalid_request_error"


class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        message: one line: what is wrong, and the remedy.
        status: of HTTP.
        type, code: OpenAI's classes of errors, for programs.
        param: the field that is wrong, or None.
    """

    def __init__(
        self, message: str, *, status: int = 400, type: str = INVALID, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.type, self.code, self.param = message, status, type, code, param

    def body(self) -> dict[str, Any]:
        """The error object; `code` is the status where there is no name for the cause."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.status if self.code is None else self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP has for this status beside the body."""
        if self.status == 503:
            return {"retry-after": "1"}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}


def field_error(name: str, message: str, code: str | None = None) -> RequestError:
    """A field that is wrong; its name begins the message."""
    return RequestError(f"{name}: {message}", code=code, param=name)


def shown(value: Any) -> str:
    """A wrong value for a message, in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
