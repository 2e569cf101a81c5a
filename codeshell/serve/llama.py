"""Requests to `/completion` and `/infill` as llama.cpp's server has them, and their answers.

llama.vim and llama.vscode ask `/infill`; Continue, Tabby and CodeShell for IntelliJ ask `/completion`. CodeShell for VS
Code asks both, as they were in 2023: its server always answered with events, so a request to `/infill` that has its
`repetition_penalty` and says nothing about `stream` is answered with events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from codeshell.model.session import Finish, Settings
from codeshell.serve.errors import field_error, shown
from codeshell.serve.fields import Fields, Refused, check_text
from codeshell.serve.openai import read_prompts
from codeshell.serve.prompts import Fill, Piece, Prompt
from codeshell.serve.samplers import apply_samplers, read_samplers
from codeshell.serve.style import Order, Result, Served, limited, read_seed, read_temperature

MOST_EXTRA = 256
"""Other files in one request."""

MOST_COPIES = 4
"""Completions of one prompt."""

IGNORED = {
    "id_slot": "there is one slot",
    "slot_id": "there is one slot",
    "cache_prompt": "a cached prompt gives the same text",
    "n_cache_reuse": "a cache is reused where the prompt begins alike",
    "n_keep": "a prompt is never shifted",
    "t_max_prompt_ms": "a prompt is read whole, or cancelled by its client; llama.cpp ignores it, too",
    "penalty_last_n": "Tabby's; llama.cpp has no such field",
    "timings_per_token": "timings come at the end",
    "return_progress": "the progress of a prompt is not sent",
    "sse_ping_interval": "a stream has no comments",
    "min_keep": "no sampler keeps fewer than one token",
    "dynatemp_exponent": "there is no dynamic temperature",
    "dry_base": "there is no DRY penalty",
    "dry_allowed_length": "there is no DRY penalty",
    "dry_penalty_last_n": "there is no DRY penalty",
    "dry_sequence_breakers": "there is no DRY penalty",
    "xtc_threshold": "there is no XTC",
    "mirostat_tau": "there is no Mirostat",
    "mirostat_eta": "there is no Mirostat",
    "post_sampling_probs": "probabilities are not returned",
    "penalize_nl": "newlines are like all other tokens",
    "use_penalty_prompt": "as repeat_last_n says",
    "user": "names the user of a service",
}

_SAMPLING = "sample with temperature, top_k, top_p or min_p"
_PROBABILITIES = "probabilities are not returned"

REFUSED = {
    "n_probs": Refused((0,), _PROBABILITIES),
    "return_tokens": Refused((False,), "the ids of new tokens are not returned"),
    "logit_bias": Refused(([], {}), "single tokens are not favoured or banned"),
    "ignore_eos": Refused((False,), "a text ends where the model ends it"),
    "grammar": Refused(("",), "text is not bound to a grammar"),
    "grammar_lazy": Refused((False,), "text is not bound to a grammar"),
    "json_schema": Refused(({},), "text is not bound to a schema"),
    "mirostat": Refused((0,), _SAMPLING),
    "typical_p": Refused((1,), _SAMPLING),
    "typ_p": Refused((1,), _SAMPLING),
    "tfs_z": Refused((1,), _SAMPLING),
    "dynatemp_range": Refused((0,), _SAMPLING),
    "dry_multiplier": Refused((0,), "penalise with repeat_penalty, presence_penalty or frequency_penalty"),
    "xtc_probability": Refused((0,), _SAMPLING),
    "top_n_sigma": Refused((0, -1), _SAMPLING),
    "lora": Refused(([],), "the server has one model and no adapters; merge the adapter (codeshell model merge)"),
    "image_data": Refused(([],), "the model reads text"),
    "system_prompt": Refused(("",), "put it before the prompt"),
}


def completion(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/completion`."""
    fields = Fields(body, ignored=IGNORED, refused=REFUSED, lenient=served.lenient)
    prompts = read_prompts(fields.get("prompt"))
    return _order(fields, prompts, served, number, stream=fields.flag("stream"))


def infill(body: dict[str, Any], served: Served, number: int) -> Order:
    """A request to `/infill`."""
    fields = Fields(body, ignored=IGNORED, refused=REFUSED, lenient=served.lenient)
    for name in ("input_prefix", "input_suffix"):
        if fields.text(name) is None:
            raise field_error(name, "is missing; send the text on each side of the cursor")
    prompt = Fill(
        prefix=fields.text("input_prefix") or "",
        suffix=fields.text("input_suffix") or "",
        extra=_extra(fields.get("input_extra")),
        typed=fields.text("prompt") or "",
    )
    # CodeShell for VS Code, see above.
    stream = fields.flag("stream", default=fields.has("repetition_penalty"))
    return _order(fields, [prompt], served, number, stream=stream)


def _order(fields: Fields, prompts: list[Prompt], served: Served, number: int, *, stream: bool) -> Order:
    """What the two kinds of requests have in common."""
    fields.text("model")
    samplers = read_samplers(fields)
    settings = apply_samplers(_settings(fields, served, number), samplers)
    copies = fields.whole("n_cmpl", 1, 1, MOST_COPIES)
    paths = _response_fields(fields)
    fields.finish()
    pieces = [piece for prompt in prompts for piece in _copied(prompt, settings, copies, stream)]
    return Order(tuple(pieces), LlamaAnswers(served, paths, stream), stream)


def _copied(prompt: Prompt, settings: Settings, copies: int, stream: bool) -> list[Piece]:
    """Several completions of a prompt: sampled with a seed each, or computed once, because the likeliest are equal."""
    if settings.temperature == 0.0 and not stream:
        return [Piece(prompt, settings, copies)]
    return [Piece(prompt, replace(settings, seed=settings.seed + copy)) for copy in range(copies)]


def _settings(fields: Fields, served: Served, number: int) -> Settings:
    """How text is written. `repetition_penalty` is what CodeShell's plug-ins call `repeat_penalty`."""
    penalty = "repetition_penalty" if fields.has("repetition_penalty") else "repeat_penalty"
    if fields.has("repeat_penalty") and fields.has("repetition_penalty"):
        raise field_error("repetition_penalty", "repeat_penalty is there, too; send one of them")
    repeat = fields.number(penalty, 1.0, 0.0, 10.0, above=True)
    last = fields.whole("repeat_last_n", 64, -1, 1 << 31)
    milliseconds = fields.number("t_max_predict_ms", 0.0, 0.0, 1e9)
    for name in ("repeat_penalty", "repetition_penalty"):
        fields.get(name)
    return Settings(
        max_new_tokens=limited(fields.whole("n_predict", served.new_tokens, -1, 1 << 31), served),
        temperature=read_temperature(fields, served.temperature),
        top_k=max(fields.whole("top_k", 0, -1, 1 << 31), 0),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0, above=True),
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        repeat_penalty=repeat,
        repeat_last=last,
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=read_seed(fields, "seed", number),
        stop=fields.texts("stop"),
        seconds=milliseconds / 1000 if milliseconds else None,
        indent=fields.whole("n_indent", 0, 0, 10_000),
    )


def _extra(value: Any) -> tuple[tuple[str, str], ...]:
    """Other files: a text each, and a name if there is one."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_EXTRA:
        raise field_error("input_extra", f"is {shown(value)}; send a list of at most {MOST_EXTRA} objects")
    files = []
    for number, one in enumerate(value):
        here = f"input_extra[{number}]"
        if not isinstance(one, dict):
            raise field_error(here, f"is {shown(one)}; send an object with text and filename")
        name = one.get("filename")
        files.append(
            ("" if name is None else check_text(f"{here}.filename", name), check_text(f"{here}.text", one.get("text")))
        )
    return tuple(files)


def _response_fields(fields: Fields) -> tuple[str, ...] | None:
    value = fields.get("response_fields")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 100 or not all(isinstance(path, str) for path in value):
        raise field_error("response_fields", f"is {shown(value)}; send a list of at most 100 paths")
    return tuple(value)


class LlamaAnswers:
    """Answers of `/completion` and `/infill`: an object for a completion, a list for several, or events.

    Args:
        paths: the fields that are sent, `timings/prompt_n` for one inside another; None sends all.
        stream: only noted in the settings.
    """

    def __init__(self, served: Served, paths: tuple[str, ...] | None, stream: bool) -> None:
        self._served, self._paths, self._stream = served, paths, stream

    def whole(self, results: Sequence[Result]) -> Any:
        answers: list[Any] = []
        for result in results:
            for _ in range(result.prepared.piece.copies):
                answers.append(self._chosen(self._final(result, len(answers), result.text)))
        return answers[0] if len(answers) == 1 else answers

    def begin(self, results: Sequence[Result]) -> list[Any]:
        return []

    def chunk(self, result: Result, text: str) -> list[Any]:
        return [{"index": result.number, "content": text, "tokens": [], "stop": False, "id_slot": 0}]

    def last(self, result: Result) -> list[Any]:
        return [self._chosen(self._final(result, result.number, "")) | {"stop": True, "content": ""}]

    def end(self, results: Sequence[Result]) -> list[Any]:
        return []

    def _final(self, result: Result, index: int, text: str) -> dict[str, Any]:
        finish = result.finish or Finish("cancelled")
        settings = asdict(result.prepared.settings)
        return {
            "index": index,
            "content": text,
            "tokens": [],
            "id_slot": 0,
            "stop": True,
            "model": self._served.name,
            "tokens_predicted": finish.new_tokens,
            "tokens_evaluated": result.prompt_tokens,
            "tokens_cached": finish.cached_tokens,
            "generation_settings": _named(settings, self._served, self._stream),
            "has_new_line": "\n" in result.text,
            # The model's positions were used up.
            "truncated": finish.cause == "positions",
            "stop_type": _stop_type(finish),
            "stopping_word": finish.stopped_by if finish.cause == "string" else "",
            "timings": timings(finish, result.prompt_tokens),
        }

    def _chosen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The fields that were asked for. A path becomes the name of its field, as in llama.cpp."""
        if self._paths is None:
            return answer
        found: dict[str, Any] = {}
        for path in self._paths:
            at: Any = answer
            for part in path.split("/"):
                at = at.get(part) if isinstance(at, dict) else None
            if at is not None:
                found[path] = at
        return found


def _stop_type(finish: Finish) -> str:
    # llama.cpp counts its limit of the indentation among the limits.
    if finish.reason != "stop" or finish.cause == "indent":
        return "limit"
    return "word" if finish.cause == "string" else "eos"


def _named(settings: dict[str, Any], served: Served, stream: bool) -> dict[str, Any]:
    """The settings of a generation by llama.cpp's names."""
    names = {"max_new_tokens": "n_predict", "repeat_last": "repeat_last_n", "indent": "n_indent"}
    named = {names.get(name, name): value for name, value in settings.items()}
    seconds = named.pop("seconds")
    return named | {
        "stop": list(settings["stop"]),
        "t_max_predict_ms": 0 if seconds is None else round(1000 * seconds),
        "n_ctx": served.context,
        "model": served.name,
        "stream": stream,
    }


def timings(finish: Finish, prompt_tokens: int) -> dict[str, Any]:
    """How long it took. `prompt_n` are the tokens that were read, which leaves out the cached ones."""
    read = prompt_tokens - finish.cached_tokens
    found: dict[str, Any] = {"cache_n": finish.cached_tokens}
    for name, count, seconds in (
        ("prompt", read, finish.prompt_seconds),
        ("predicted", finish.new_tokens, finish.new_seconds),
    ):
        found |= {
            f"{name}_n": count,
            f"{name}_ms": round(1000 * seconds, 3),
            f"{name}_per_token_ms": round(1000 * seconds / count, 3) if count else 0.0,
            f"{name}_per_second": round(count / seconds, 3) if seconds > 0 else 0.0,
        }
    return found
