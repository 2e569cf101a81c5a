"""Ask a served model from a program: fill a gap, then watch a completion as it is written. Needs Python alone.

    codeshell serve runs/demo/model &
    python examples/ask_server.py

Set CODESHELL_API_KEY if the server has a key. OpenAI's client works as well, with base_url="http://127.0.0.1:8012/v1".
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8012"


def ask(path: str, body: dict[str, Any]) -> Any:
    """The open answer to a request; what the server refuses is one line."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("CODESHELL_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    try:
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['error']['message']}")
    except urllib.error.URLError as error:
        sys.exit(f"{URL}: {error.reason}; is `codeshell serve` running?")


def fill_in(before: str, after: str) -> tuple[str, int]:
    """What stands between two texts, and how many tokens of the prompt were in the server's cache."""
    with ask("/infill", {"input_prefix": before, "input_suffix": after, "n_predict": 32}) as answer:
        found = json.load(answer)
    return found["content"], found["tokens_cached"]


def stream(prompt: str) -> Iterator[str]:
    """The pieces of a completion. Closing the connection early ends the generation."""
    with ask("/v1/completions", {"prompt": prompt, "max_tokens": 32, "stream": True}) as answer:
        for line in answer:
            data = line.decode().strip().removeprefix("data: ")
            if data and data != "[DONE]":
                yield json.loads(data)["choices"][0]["text"]


if __name__ == "__main__":
    for typed in ("    tot", "    total"):
        text, cached = fill_in("def add_all(numbers):\n" + typed, "\n    return total\n")
        print(f"{typed!r} -> {text!r} ({cached} tokens of the prompt were cached)")
    for piece in stream("import "):
        print(piece, end="", flush=True)
    print()
