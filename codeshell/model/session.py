"""Streams of new text for one model, with the caches of earlier prompts: what a server asks.

A prompt is compared with those before it. What they have in common is in a cache already; only the rest is read, in
pieces, between which the caller may cancel. Text comes out as whole characters, and nothing that may still become part
of a stop string (`codeshell.model.stops`).

    session = Session(model, tokenizer)
    for item in session.stream(infill_prompt(tokenizer, prefix, suffix, session.budget(64)), Settings()):
        match item:
            case Chunk(text): ...
            case Finish(reason): ...
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from codeshell.model import reading
from codeshell.model.cache import common
from codeshell.model.infill import TextTokenizer
from codeshell.model.sampling import (
    NotFiniteError,
    check_settings,
    penalise,
    real,
    sample,
    uniform,
    whole,
)
from codeshell.model.stops import TextStream, needles

Reason = Literal["stop", "length", "time", "cancelled"]

CACHES = 4
"""Prompts that a session keeps: an editor with a few open files, or a chat beside it."""

CACHE_BYTES = 1 << 30
"""Memory of all caches together."""

ROOM = 256
"""Tokens. A cache is made for so many more than it needs at once, so that typing rarely makes it grow."""


@dataclass(frozen=True)
class Settings:
    """How a completion is written and where it ends.

    Raises:
        TypeError: a setting is of another type.
        ValueError: a setting is out of range.
    """

    max_new_tokens: int = 64
    """0 reads the prompt into the cache and writes nothing."""
    temperature: float = 0.0
    """0 takes the most likely token; otherwise logits are divided by it and sampled."""
    top_k: int = 0
    """Sample among this many most likely tokens; 0 is all of them."""
    top_p: float = 1.0
    """Sample among the fewest tokens whose probability reaches this."""
    min_p: float = 0.0
    """Leave out tokens that are less likely than this share of the likeliest one."""
    repeat_penalty: float = 1.0
    """Divides positive logits of recent tokens, and multiplies negative ones."""
    repeat_last: int = 64
    """How many tokens are recent, those of the prompt among them; 0 is none, -1 all."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that this completion has."""
    frequency_penalty: float = 0.0
    """Taken from them as often as it has them."""
    seed: int = 0
    """With the prompt, it decides what is sampled."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the text, beside the tokenizer's special tokens, which all do."""
    seconds: float | None = None
    """The text ends at the first newline that is written later than this after the prompt was read, as with llama.cpp's
    `t_max_predict_ms`: half a line is no use."""
    indent: int = 0
    """The text ends before the first line, after its first one, with fewer blanks and tabs at its beginning; blank
    lines aside. llama.cpp's `n_indent`."""

    def __post_init__(self) -> None:
        names = ("temperature", "top_k", "top_p", "max_new_tokens")
        checked: dict[str, Any] = dict(
            zip(names, check_settings(**{name: getattr(self, name) for name in names}), strict=False)
        )
        for name in ("min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
            checked[name] = real(name, getattr(self, name))
        checked["repeat_last"], checked["indent"] = (
            whole("repeat_last", self.repeat_last, least=-1),
            whole("indent", self.indent),
        )
        checked["seed"] = whole("seed", self.seed, least=None)
        if not 0.0 <= checked["min_p"] <= 1.0:
            raise ValueError(f"min_p {self.min_p}: must be at least 0 (all tokens) and at most 1")
        if not 0.0 < checked["repeat_penalty"] < float("inf"):
            raise ValueError(f"repeat_penalty {self.repeat_penalty}: must be above 0 and finite; 1 is none")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(checked[name]) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)}: must be finite; 0 is none")
        if self.seconds is not None and not real("seconds", self.seconds) >= 0.0:
            raise ValueError(f"seconds {self.seconds}: must be at least 0, or None")
        checked["stop_ids"] = tuple(whole("stop_ids", index) for index in self.stop_ids)
        checked["stop"] = tuple(text.decode() for text in needles(self.stop))
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Chunk:
    """New text, never empty."""

    text: str


@dataclass(frozen=True)
class Finish:
    """How a stream ended; its last item."""

    reason: Reason
    """`stop`: the model, a stop string or the indentation ended it; `length`: the tokens or positions are used up."""
    stopped_by: str = ""
    """The stop string, or the special token by its name; "" for every other end."""
    cause: Literal["special", "string", "indent", "tokens", "positions", "time", "cancelled"] = "tokens"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's were in a cache and have not been read again."""
    new_tokens: int = 0
    """Written, the special token that ended them left out."""
    prompt_seconds: float = 0.0
    """Reading the prompt, up to the logits of the first token."""
    new_seconds: float = 0.0


class Reader(Protocol):
    """A model that reads tokens into caches of one row; `codeshell.model.reading` has ours."""

    positions: int
    """Tokens at most, prompt and completion together."""
    vocabulary: int
    """Ids at or above it are never produced."""

    def new_cache(self, capacity: int) -> Any:
        """An empty cache for so many tokens."""

    def copy_cache(self, cache: Any, length: int, capacity: int) -> Any:
        """Another cache, with the first `length` tokens of this one."""

    def cut_cache(self, cache: Any, length: int) -> None:
        """Forget all but the first `length` tokens."""

    def capacity(self, cache: Any) -> int:
        """Tokens that a cache has room for."""

    def cache_bytes(self, capacity: int) -> int:
        """Memory of a cache for so many tokens."""

    def piece(self, cached: int) -> int:
        """How many tokens `read` should be given at once after so many, so that `check` is called often enough."""

    def read(self, cache: Any, tokens: Sequence[int], check: Callable[[], None], logits: bool) -> torch.Tensor | None:
        """Read tokens into the cache; the logits (vocabulary,) after the last one if asked for.

        What `check` raises ends the pass; then the cache holds what it held before.
        """


@dataclass
class _Kept:
    """A cache and the tokens in it."""

    cache: Any
    ids: list[int] = field(default_factory=list)
    used: int = 0
    """The number of the request that used it last."""


class CancelledError(Exception):
    """The caller has cancelled."""


def never() -> bool:
    """Nobody cancels."""
    return False


class Session:
    """One model and tokenizer, and the caches of the last prompts. One stream at a time.

    Args:
        model: a `CodeShellForCausalLM` in evaluation mode, or any model with a method `reader()` that gives a `Reader`.
        tokenizer: its tokenizer.
        caches: prompts that are kept.
        cache_bytes: memory of all of them; a single prompt may take more.
    """

    def __init__(
        self, model: Any, tokenizer: TextTokenizer, *, caches: int = CACHES, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.tokenizer = tokenizer
        self.reader: Reader = model.reader() if hasattr(model, "reader") else reading.CodeShellReader(model)
        self._vocabulary = min(self.reader.vocabulary, tokenizer.vocab_size)
        self._ends = {index: name for name, index in tokenizer.specials.items()}
        self._most, self._bytes = whole("caches", caches, least=1), whole("cache_bytes", cache_bytes)
        self._kept: list[_Kept] = []
        self._requests = 0
        self._busy = threading.Lock()

    def budget(self, max_new_tokens: int) -> int:
        """Tokens of a prompt that leave room for so many new ones."""
        return self.reader.positions - max_new_tokens

    def stream(
        self, prompt: Sequence[int], settings: Settings, cancelled: Callable[[], bool] = never
    ) -> Iterator[Chunk | Finish]:
        """The new text in pieces, and at last a `Finish`.

        Args:
            prompt: token ids, at least one.
            settings: how it is written.
            cancelled: asked before each token, and within 50 ms while the prompt is read. True ends the stream with
                reason `cancelled`; what has been read stays in the cache. Closing the iterator does the same.

        Raises:
            ValueError: the prompt is empty or too long, or an id is outside the vocabulary.
            NotFiniteError: the model's logits are not finite.
            RuntimeError: another stream of this session has not ended.
        """
        return self._stream(self._checked(prompt), settings, cancelled)

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        ids = [int(index) for index in prompt]
        if not ids:
            raise ValueError("prompt: no token; give at least one, for example <|endoftext|>")
        if len(ids) >= self.reader.positions:
            raise ValueError(
                f"prompt: {len(ids)} tokens leave no room in {self.reader.positions} positions; shorten it"
            )
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise ValueError(
                f"prompt: ids run from {min(ids)} to {max(ids)}, but the vocabulary is 0 to {self._vocabulary - 1}"
            )
        return ids

    def _stream(self, ids: list[int], settings: Settings, cancelled: Callable[[], bool]) -> Iterator[Chunk | Finish]:
        # Here and not in `stream`: an iterator that nobody asks for its first item never comes to its `finally`.
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a session writes one stream at a time; end the other one first")
        try:
            yield from self._write(ids, settings, cancelled)
        finally:
            self._busy.release()

    def _write(self, ids: list[int], settings: Settings, cancelled: Callable[[], bool]) -> Iterator[Chunk | Finish]:
        started = time.perf_counter()

        def check() -> None:
            if cancelled():
                raise CancelledError

        kept = self._find(ids, min(len(ids) + settings.max_new_tokens, self.reader.positions))
        cached = len(kept.ids)
        text = TextStream(needles(settings.stop), settings.indent)
        written: list[int] = []
        read_at = 0.0

        def finish(reason: Reason, cause: Any, stopped_by: str = "") -> Finish:
            now = time.perf_counter()
            middle = read_at or now
            return Finish(reason, stopped_by, cause, len(ids), cached, len(written), middle - started, now - middle)

        try:
            scores = self._read_prompt(kept, ids, check, logits=settings.max_new_tokens > 0)
            read_at = time.perf_counter()
            reason, cause, stopped_by = "length", "tokens", ""
            while len(written) < settings.max_new_tokens:
                if len(ids) + len(written) >= self.reader.positions:
                    cause = "positions"
                    break
                # The token before has been shown, and is read now that another one shall follow.
                if written:
                    scores = self._read(kept, written[-1:], check, True)
                token = self._choose(scores, ids, written, settings)
                if token in self._ends or token in settings.stop_ids:
                    reason, cause, stopped_by = "stop", "special", self._ends.get(token, "")
                    break
                written.append(token)
                new = self.tokenizer.decode_bytes([token])
                shown = text.add(new)
                if shown:
                    yield Chunk(shown)
                if text.ended:
                    cause = "indent" if text.dedented else "string"
                    reason, stopped_by = "stop", text.stopped_by
                    break
                late = settings.seconds is not None and time.perf_counter() - read_at >= settings.seconds
                if late and b"\n" in new:
                    reason, cause = "time", "time"
                    break
        except CancelledError:
            reason, cause, stopped_by = "cancelled", "cancelled", ""
        rest = text.finish()
        if rest:
            yield Chunk(rest)
        yield finish(reason, cause, stopped_by)  # type: ignore[arg-type]

    def _choose(self, scores: torch.Tensor | None, ids: list[int], written: list[int], settings: Settings) -> int:
        """The next token."""
        assert scores is not None
        scores = scores[: self._vocabulary]
        if settings.repeat_penalty != 1.0 or settings.presence_penalty or settings.frequency_penalty:
            scores = scores.clone()
            last = settings.repeat_last if settings.repeat_last >= 0 else len(ids) + len(written)
            penalise(
                scores,
                Counter(written),
                (ids[-last:] + written)[-last:] if last else [],
                repeat=settings.repeat_penalty,
                presence=settings.presence_penalty,
                frequency=settings.frequency_penalty,
            )
        draws = [uniform(settings.seed, 0, len(written))]
        try:
            return sample(
                scores.unsqueeze(0), settings.temperature, settings.top_k, settings.top_p, draws, settings.min_p
            )[0]
        except NotFiniteError:
            raise NotFiniteError(0, f"new token {len(written) + 1}") from None

    def _read_prompt(self, kept: _Kept, ids: list[int], check: Callable[[], None], logits: bool) -> torch.Tensor | None:
        """Read what the cache lacks of the prompt, in pieces; the logits after it if asked for."""
        scores = None
        check()
        while len(kept.ids) < len(ids):
            begin = len(kept.ids)
            end = min(begin + self.reader.piece(begin), len(ids))
            scores = self._read(kept, ids[begin:end], check, logits and end == len(ids))
        return scores

    def _read(self, kept: _Kept, tokens: list[int], check: Callable[[], None], logits: bool) -> torch.Tensor | None:
        """Read tokens, and note that they are in the cache."""
        check()
        needed = len(kept.ids) + len(tokens)
        if needed > self.reader.capacity(kept.cache):
            capacity = min(needed + ROOM, self.reader.positions)
            kept.cache = self.reader.copy_cache(kept.cache, len(kept.ids), capacity)
        scores = self.reader.read(kept.cache, tokens, check, logits)
        kept.ids += tokens
        return scores

    def _find(self, ids: list[int], needed: int) -> _Kept:
        """A cache that holds a beginning of the prompt and nothing else, and lacks its last token at least."""
        self._requests += 1
        # The last token is read again in any case: its logits are not kept.
        shared = {id(kept): common(kept.ids, ids[:-1]) for kept in self._kept}
        best = max(self._kept, key=lambda kept: (shared[id(kept)], kept.used), default=None)
        length = 0 if best is None else shared[id(best)]
        capacity = min(needed + ROOM, self.reader.positions)
        if best is not None and length and 2 * length >= len(best.ids):
            # Most of this cache is the beginning of the prompt: an edit of it, so what comes after is of no more use.
            kept = best
        else:
            # Another prompt. It may begin like one that is worth keeping, or that is dropped for it.
            self._make_room(self.reader.cache_bytes(capacity))
            if best is not None and length:
                kept = _Kept(self.reader.copy_cache(best.cache, length, capacity), best.ids[:length])
            else:
                kept = _Kept(self.reader.new_cache(capacity))
            self._kept.append(kept)
        kept.used = self._requests
        self.reader.cut_cache(kept.cache, length)
        del kept.ids[length:]
        return kept

    def _make_room(self, more: int) -> None:
        """Drop the caches that were not used for the longest time, until another one fits."""
        self._kept.sort(key=lambda kept: kept.used)
        total = sum(self.reader.cache_bytes(self.reader.capacity(kept.cache)) for kept in self._kept) + more
        while self._kept and (len(self._kept) >= self._most or total > self._bytes):
            gone = self._kept.pop(0)
            total -= self.reader.cache_bytes(self.reader.capacity(gone.cache))
