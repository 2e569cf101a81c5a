"""Requests to `/generate` and `/generate_stream` as Hugging Face's text-generation-inference has them.

CodeShell for VS Code asks them ("GPU with TGI toolkit"), with the fill-in tokens as text in `inputs`. Events carry the
text of a piece, not of a token, so the id and the probability in them are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codeshell.model.session import Settings
from codeshell.serve.errors import field_error
from codeshell.serve.fields import Fields, Refused
from codeshell.serve.prompts import Piece, continued
from codeshell.serve.style import Order, Result, Served, limited, read_seed

REFUSED = {
    "best_of": Refused((1,), "one completion for each prompt"),
    "return_full_text": Refused((False,), "the prompt is not repeated"),
    "decoder_input_details": Refused((False,), "probabilities are not returned"),
    "top_n_tokens": Refused((0,), "probabilities are not returned"),
    "truncate": Refused((), "send a shorter prompt"),
    "typical_p": Refused((1,), "sample with temperature, top_k or top_p"),
    "watermark": Refused((False,), "text is not marked"),
    "grammar": Refused((), "text is not bound to a grammar"),
    "adapter_id": Refused((), "the server has one model and no adapters"),
}

NEW_TOKENS = 100
"""Where a request names no number, as in TGI."""


def generate(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/generate`."""
    return _order(body, served, number, stream=False)


def generate_stream(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/generate_stream`."""
    return _order(body, served, number, stream=True)


def _order(body: dict[str, Any], served: Served, number: int, *, stream: bool) -> Order:
    outer = Fields(
        body,
        ignored={},
        refused={"stream": Refused((stream,), "ask /generate or /generate_stream")},
        lenient=served.lenient,
    )
    text = outer.text("inputs")
    if text is None:
        raise field_error("inputs", "is missing; send a text")
    fields = outer.inside("parameters", {}, REFUSED)
    outer.finish()
    # TGI samples where it is told to, or where a setting of sampling is given.
    told = any(fields.has(name) for name in ("temperature", "top_k", "top_p"))
    sampled = fields.flag("do_sample") or told
    temperature = fields.number("temperature", 1.0 if sampled else 0.0, 0.0, 100.0, above=fields.has("temperature"))
    settings = Settings(
        max_new_tokens=limited(fields.whole("max_new_tokens", NEW_TOKENS, 0, 1 << 31), served),
        temperature=0.0 if temperature < 1e-3 else temperature,
        top_k=fields.whole("top_k", 0, 0, 1 << 31),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0, above=True),
        repeat_penalty=fields.number("repetition_penalty", 1.0, 0.0, 10.0, above=True),
        # TGI's looks at the whole text.
        repeat_last=-1,
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=read_seed(fields, "seed", number),
        stop=fields.texts("stop"),
    )
    details = fields.flag("details")
    fields.finish()
    return Order((Piece(continued(text, "inputs"), settings),), TgiAnswers(details), stream)


class TgiAnswers:
    """Answers of `/generate`, with the details if they were asked for, and of `/generate_stream`."""

    def __init__(self, details: bool) -> None:
        self._details = details
        self._events = 0

    def whole(self, results: Sequence[Result]) -> Any:
        answer: dict[str, Any] = {"generated_text": results[0].text}
        return answer | {"details": _details(results[0])} if self._details else answer

    def begin(self, results: Sequence[Result]) -> list[Any]:
        return []

    def chunk(self, result: Result, text: str) -> list[Any]:
        return [self._event(text, None, None)]

    def last(self, result: Result) -> list[Any]:
        return [self._event("", result.text, _details(result))]

    def end(self, results: Sequence[Result]) -> list[Any]:
        return []

    def _event(self, text: str, generated: str | None, details: Any) -> dict[str, Any]:
        self._events += 1
        token = {"id": None, "text": text, "logprob": None, "special": generated is not None}
        return {"index": self._events, "token": token, "generated_text": generated, "details": details}


def _details(result: Result) -> dict[str, Any]:
    finish = result.finish
    reason = "length"
    if finish is not None and finish.reason == "stop":
        reason = "eos_token" if finish.cause == "special" else "stop_sequence"
    seed = result.prepared.settings.seed if result.prepared.settings.temperature else None
    return {"finish_reason": reason, "generated_tokens": result.new_tokens, "seed": seed}
