"""Requests to `/v1/completions` (OpenAI's older interface) and `/v1/fim/completions` (Mistral's), and their answers.

`suffix` makes a completion fill in the middle. A prompt may be a text, a list of texts (a choice for each), or token
ids. Continue and Refact send the fill-in tokens as text in the prompt; `sentinels` takes such a prompt apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from codeshell.model.session import Settings
from codeshell.serve.errors import field_error, shown
from codeshell.serve.fields import Fields, Refused, check_text, choose
from codeshell.serve.prompts import Continue, Fill, Ids, Piece, Prompt, continued
from codeshell.serve.style import (
    Order,
    Result,
    Served,
    limited,
    openai_reason,
    read_seed,
    read_temperature,
    usage,
)

MOST_PROMPTS = 64
"""Texts in one request."""

IGNORED = {
    "user": "names the user of a service",
    "metadata": "is stored by OpenAI",
    "store": "is stored by OpenAI",
    "service_tier": "is about OpenAI's prices",
    "prompt_cache_key": "prompts are cached by their tokens",
    "safety_identifier": "names the user of a service",
    "id_slot": "there is one slot",
    "cache_prompt": "a cached prompt gives the same text",
    "timings_per_token": "timings come at the end",
}
"""Fields that change no text."""

REFUSED = {
    "n": Refused((1,), "one completion for each prompt; send the request again with another seed"),
    "best_of": Refused((1,), "one completion for each prompt"),
    "echo": Refused((False,), "the prompt is not repeated; put it before the text yourself"),
    "logprobs": Refused((False,), "log-probabilities are not returned"),
    "top_logprobs": Refused((0,), "log-probabilities are not returned"),
    "logit_bias": Refused(({}, []), "single tokens are not favoured or banned"),
    "grammar": Refused(("",), "text is not bound to a grammar"),
    "json_schema": Refused(({},), "text is not bound to a schema"),
    "response_format": Refused(({"type": "text"},), "text is not bound to a format"),
    "mirostat": Refused((0,), "sample with temperature, top_k, top_p or min_p"),
    "typical_p": Refused((1,), "sample with temperature, top_k, top_p or min_p"),
    "lora": Refused(([],), "the server has one model and no adapters; merge the adapter (codeshell model merge)"),
}


def completions(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/v1/completions`."""
    fields = Fields(body, ignored=IGNORED, refused=REFUSED, lenient=served.lenient)
    fields.text("model")
    settings = read_settings(fields, served, number, served.new_tokens)
    suffix = fields.text("suffix")
    prompts = read_prompts(fields.get("prompt"), suffix)
    include_usage = read_stream_options(fields)
    stream = fields.flag("stream")
    fields.finish()
    style = Completions(served, f"cmpl-{number}", include_usage)
    return Order(tuple(Piece(prompt, settings) for prompt in prompts), style, stream)


def fill_in(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/v1/fim/completions`; without a suffix it continues the prompt, as Mistral's does."""
    fields = Fields(body, ignored=IGNORED, refused=REFUSED, lenient=served.lenient)
    fields.text("model")
    settings = read_settings(fields, served, number, served.new_tokens)
    # Mistral's least number of tokens would be for benchmarks.
    fields.whole("min_tokens", 0, 0, 0)
    prompt, suffix = fields.text("prompt"), fields.text("suffix")
    if prompt is None:
        raise field_error("prompt", "is missing; send the text before the cursor")
    stream = fields.flag("stream")
    read_stream_options(fields)
    fields.finish()
    piece = Piece(Fill(prompt, suffix) if suffix else Continue(prompt), settings)
    return Order((piece,), FillIn(served, f"fim-{number}"), stream)


def read_settings(fields: Fields, served: Served, number: int, new_tokens: int) -> Settings:
    """How text is written, by the names that OpenAI, vLLM and llama.cpp have for it."""
    names = ("max_tokens", "max_completion_tokens", "n_predict")
    given = [name for name in names if fields.has(name)]
    counts = {fields.whole(name, 0, -1 if name == "n_predict" else 0, 1 << 31) for name in given}
    if len(counts) > 1:
        raise field_error(given[1], f"differs from {given[0]}; send one of them")
    for name in names:
        fields.get(name)
    if fields.has("seed") and fields.has("random_seed"):
        raise field_error("random_seed", "seed is there, too; send one of them")
    seed = "random_seed" if fields.has("random_seed") else "seed"
    top_k = fields.whole("top_k", 0, -1, 1 << 31)
    settings = Settings(
        max_new_tokens=limited(counts.pop() if counts else new_tokens, served),
        temperature=read_temperature(fields, served.temperature),
        top_k=max(top_k, 0),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0, above=True),
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        repeat_penalty=fields.number("repetition_penalty", 1.0, 0.0, 10.0, above=True),
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=read_seed(fields, seed, number),
        stop=fields.texts("stop"),
    )
    fields.get("seed")
    fields.get("random_seed")
    return settings


def read_stream_options(fields: Fields) -> bool:
    """Whether a stream ends with an event of its usage."""
    options = fields.inside("stream_options", {"include_obfuscation": "pads events against listeners"}, {})
    include = options.flag("include_usage")
    options.finish()
    return include


def read_prompts(value: Any, suffix: str | None = None) -> list[Prompt]:
    """The prompts of a request; with a suffix each is the text before a gap, and has no sentinels."""
    if value is None:
        raise field_error("prompt", f"is missing; send {_WANTED}")
    return list(
        choose(
            "prompt",
            value,
            {str: lambda text: [_one(text, suffix)], list: lambda many: _several(many, suffix)},
            _WANTED,
        )
    )


_WANTED = f"a text, a list of at most {MOST_PROMPTS} texts, or token ids"


def _one(text: Any, suffix: str | None) -> Prompt:
    prompt = check_text("prompt", text)
    # An empty suffix is none: clients send it where the cursor is at the end of a file.
    return Fill(prompt, suffix) if suffix else continued(prompt)


def _several(values: list[Any], suffix: str | None) -> list[Prompt]:
    if not values:
        raise field_error("prompt", f"is empty; send {_WANTED}")
    if all(type(value) is int for value in values):
        return [_ids(values, suffix)]
    if len(values) > MOST_PROMPTS:
        raise field_error("prompt", f"has {len(values)} entries; send {_WANTED}")
    return [_ids(value, suffix) if isinstance(value, list) and value else _one(value, suffix) for value in values]


def _ids(values: list[Any], suffix: str | None) -> Ids:
    """A prompt of token ids."""
    wrong = next((value for value in values if type(value) is not int or value < 0), None)
    if wrong is not None:
        raise field_error("prompt", f"has {shown(wrong)} among token ids; send {_WANTED}")
    if suffix:
        raise field_error("suffix", "a prompt of token ids has its own; put the suffix into the ids, or send texts")
    return Ids(tuple(values))


def no_usage(include: bool) -> dict[str, None]:
    """What events before the last one have of the usage: null where it was asked for, as OpenAI's have it."""
    return {"usage": None} if include else {}


class Completions:
    """Answers of `/v1/completions`."""

    def __init__(self, served: Served, name: str, include_usage: bool) -> None:
        self._head = {"id": name, "object": "text_completion", "created": int(time.time()), "model": served.name}
        self._include_usage = include_usage

    def whole(self, results: Sequence[Result]) -> Any:
        choices = [self._choice(result, result.text, openai_reason(result.finish)) for result in results]
        return self._head | {"choices": choices, "usage": usage(results)}

    def begin(self, results: Sequence[Result]) -> list[Any]:
        return []

    def chunk(self, result: Result, text: str) -> list[Any]:
        return [self._event([self._choice(result, text, None)])]

    def last(self, result: Result) -> list[Any]:
        return [self._event([self._choice(result, "", openai_reason(result.finish))])]

    def end(self, results: Sequence[Result]) -> list[Any]:
        last = [self._event([]) | {"usage": usage(results)}] if self._include_usage else []
        return [*last, "[DONE]"]

    def _event(self, choices: list[Any]) -> dict[str, Any]:
        return self._head | {"choices": choices} | no_usage(self._include_usage)

    def _choice(self, result: Result, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": result.number, "text": text, "logprobs": None, "finish_reason": reason}


class FillIn:
    """Answers of `/v1/fim/completions`: those of a chat. Every event has a choice with a text, which clients rely on;
    so the usage is in the last one."""

    def __init__(self, served: Served, name: str) -> None:
        self._head = {"id": name, "created": int(time.time()), "model": served.name}

    def whole(self, results: Sequence[Result]) -> Any:
        choices = [
            {
                "index": result.number,
                "message": {"role": "assistant", "content": result.text},
                "finish_reason": openai_reason(result.finish),
            }
            for result in results
        ]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": usage(results)}

    def begin(self, results: Sequence[Result]) -> list[Any]:
        return []

    def chunk(self, result: Result, text: str) -> list[Any]:
        return [self._event(result, text, None)]

    def last(self, result: Result) -> list[Any]:
        return [self._event(result, "", openai_reason(result.finish)) | {"usage": usage([result])}]

    def end(self, results: Sequence[Result]) -> list[Any]:
        return ["[DONE]"]

    def _event(self, result: Result, text: str, reason: str | None) -> dict[str, Any]:
        delta = {"role": "assistant", "content": text}
        choice = {"index": result.number, "delta": delta, "finish_reason": reason}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}
