"""Streams byte by byte: whole characters, stop strings over several tokens, and nothing after them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import torch
from helpers.live_server import TOKENIZER, live, service
from helpers.tiny_models import tiny_model

from codeshell.model.session import Session


class Says:
    """A model that writes a text, whatever it is asked: one token for each byte."""

    def __init__(self, text: str) -> None:
        self.data = text.encode()
        self.model = tiny_model(n_positions=512)

    def session(self) -> Session:
        session = Session(self.model, TOKENIZER)
        data, end = self.data, TOKENIZER.eot

        def choose(scores: torch.Tensor, ids: list[int], written: list[int], settings: Any) -> int:
            return data[len(written)] if len(written) < len(data) else end

        session._choose = choose  # type: ignore[method-assign]
        return session


def events(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    with httpx2.stream("POST", f"{url}{path}", json=body, timeout=60) as response:
        raw = b"".join(response.iter_raw())
    # Every event is UTF-8 by itself, as clients decode them.
    parts = [part.decode("utf-8") for part in raw.split(b"\n\n") if part]
    return [json.loads(part.removeprefix("data: ")) for part in parts if part != "data: [DONE]"]


@pytest.mark.parametrize("text", ["naïve 函数 🦊 \U0001f469\u200d\U0001f4bb", "a\u2028b\r\n\n data: x\n\n"])
def test_characters_are_whole_and_no_line_ends_an_event(text: str) -> None:
    with live(service(Says(text).session(), context=512)) as server:
        found = events(server.url, "/completion", {"prompt": "a", "stream": True})
        assert "".join(event["content"] for event in found) == text
        assert all("\ufffd" not in event["content"] for event in found)
        assert found[-1]["stop_type"] == "eos"


@pytest.mark.parametrize(
    ("text", "stop", "expected", "word"),
    [
        ("return a\n\ndef g", ["\n\n"], "return a", "\n\n"),
        ("x = 1\n\n\ny", ["\n\n\n", "\n\n"], "x = 1", "\n\n"),
        ("a</code", ["</code>"], "a</code", ""),  # begun, and never ended
        ("a</co</code>b", ["</code>"], "a</co", "</code>"),
        ("日本語", ["本"], "日", "本"),
        ("## human: hi", ["## human"], "", "## human"),
        ("<|endoftext|>x", ["<|endoftext|>"], "", "<|endoftext|>"),
    ],
)
def test_stop_strings_over_several_tokens(text: str, stop: list[str], expected: str, word: str) -> None:
    with live(service(Says(text).session(), context=512)) as server:
        found = events(server.url, "/completion", {"prompt": "a", "stream": True, "stop": stop})
        assert "".join(event["content"] for event in found) == expected
        # Not a byte of a stop string was sent before it was known to be none.
        assert all(word not in event["content"] for event in found if word)
        assert (found[-1]["stop_type"], found[-1]["stopping_word"]) == ("word" if word else "eos", word)
        whole = httpx2.post(f"{server.url}/v1/completions", json={"prompt": "a", "stop": stop}, timeout=60).json()
        assert whole["choices"][0] == {"index": 0, "text": expected, "logprobs": None, "finish_reason": "stop"}


def test_a_cached_prompt_is_not_read_again_and_says_so() -> None:
    with live(service(context=160)) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        body = {"input_prefix": "def add(a, b):\n" * 3, "input_suffix": "\nprint(1)\n", "n_predict": 4}
        first = client.post("/infill", json=body | {"prompt": "    ret"}).json()
        second = client.post("/infill", json=body | {"prompt": "    retu"}).json()
        assert first["tokens_cached"] == 0 and first["timings"]["prompt_n"] == first["tokens_evaluated"]
        # One letter more: all before it is there.
        assert second["tokens_cached"] >= first["tokens_evaluated"] - 2
        assert second["timings"]["prompt_n"] == second["tokens_evaluated"] - second["tokens_cached"] <= 4
        # A warm-up reads a prompt, so that the request after it need not.
        warm = body | {"input_prefix": "class A:\n" * 3}
        nothing = client.post("/infill", json=warm | {"n_predict": 0, "samplers": []}).json()
        assert nothing["content"] == "" and nothing["tokens_predicted"] == 0
        then = client.post("/infill", json=warm).json()
        assert then["tokens_cached"] >= then["tokens_evaluated"] - 1


def test_the_context_is_used_up() -> None:
    with live(service(context=64)) as server:
        body = {"prompt": "a" * 50, "n_predict": -1}
        found = httpx2.post(f"{server.url}/completion", json=body, timeout=60).json()
    assert found["tokens_evaluated"] + found["tokens_predicted"] <= 64 and found["stop_type"] == "limit"
