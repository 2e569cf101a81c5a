"""Answers of one object: JSON, and errors."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from codeshell.serve.errors import RequestError


class Json(Response):
    """An object as JSON, in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content).encode()


def dumps(value: Any) -> str:
    """Compact JSON, which cannot break a line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def refusal(error: RequestError) -> Json:
    """The answer to a request that is not answered."""
    return Json(error.body(), status_code=error.status, headers=error.headers)
