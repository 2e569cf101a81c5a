"""Generation with a key/value cache, and completion of text: left to right, or filling in the middle.

Sampling draws one uniform number for each new token from a hash of (seed, row, step), so a row's text depends on its
own seed and prompt and not on the batch it is in.

Shapes in this file: R rows that still generate (at first the whole batch), S tokens of the longest prompt, V ids that
may be produced.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import torch

from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig

LEAST_TEMPERATURE = 1e-200
"""Any fp32 logit divided by it is a finite double."""


class LanguageModel(Protocol):
    """What generation needs of a model; `codeshell.model.CodeShellForCausalLM` has it."""

    config: CodeShellConfig
    training: bool
    __call__: Callable[..., Any]
    """Takes (batch, seq) ids, `attention_mask`, `cache` and `return_logits`; gives an object with `logits`."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def train(self, mode: bool = True) -> Any: ...


class TextTokenizer(Protocol):
    """What completion needs of a tokenizer; `codeshell.tokenizer.Tokenizer` has it."""

    @property
    def specials(self) -> dict[str, int]: ...
    @property
    def vocab_size(self) -> int:
        """Tokens, special ones included; a model's `vocab_size` may be larger by the padding of its embedding."""
        ...

    @property
    def fim_prefix(self) -> int: ...
    @property
    def fim_middle(self) -> int: ...
    @property
    def fim_suffix(self) -> int: ...
    @property
    def eot(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode_bytes(self, ids: list[int]) -> bytes: ...


class NotFiniteError(ValueError):
    """Logits from which no token can be chosen: NaN, +inf, or -inf for every id.

    Attributes:
        row: of the batch.
        cause: where it happened and why, as far as it is known.
    """

    def __init__(self, row: int, cause: str = "") -> None:
        self.row, self.cause = row, cause
        where = f"row {row}" + (f", {cause}" if cause else "")
        super().__init__(f"the model's logits are not finite (NaN or infinity) at {where}")


@torch.inference_mode()
def generate(
    model: LanguageModel,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_ids: int | Collection[int] = (),
    stop: Callable[[int, list[int]], bool] | None = None,
    seed: int | Sequence[int] = 0,
    attention_mask: torch.Tensor | None = None,
    n_vocab_used: int | None = None,
) -> list[list[int]]:
    """New tokens of every row.

    A row ends with `max_new_tokens`, at a stop id (not returned), when `stop` says so, or when the model's positions
    are used up. Rows that have ended leave the batch.

    Args:
        model: its mode (training or evaluation) is set back at the end.
        input_ids: (batch, seq) int64 prompts; shorter ones are padded.
        max_new_tokens: the most that a row gets.
        temperature: 0 takes the most likely token; otherwise logits are divided by it and sampled.
        top_k: sample among this many most likely tokens; 0 is all of them.
        top_p: sample among the fewest tokens whose probability reaches this (nucleus sampling).
        stop_ids: ids that end a row, or one such id.
        stop: called with (row, its new tokens) after each token; True ends the row, that token included.
        seed: one for all rows (they still differ by row number), or one for each row.
        attention_mask: (batch, seq), 0 or False where a prompt is padding.
        n_vocab_used: ids at or above it are never produced; None is the config's, else the whole vocabulary.

    Returns:
        The new tokens of each row, in the order of the prompts.

    Raises:
        ValueError: a setting is out of range, an id is outside the vocabulary, a prompt is empty or leaves no position
            for a new token.
        TypeError: an argument is of another type.
        NotFiniteError: the model's logits are not finite, so there is no next token.
    """
    temperature, top_k, top_p, max_new_tokens = check_settings(
        temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_new_tokens
    )
    ends = _stop_ids(stop_ids)
    if stop is not None and not callable(stop):
        raise TypeError(f"stop is {stop!r}; here it is a function of (row, its new tokens), complete() takes texts")
    _check_prompts(model, input_ids, attention_mask)
    batch = input_ids.shape[0]
    # What each row's draws are hashed from, beside the step.
    seeds = _row_seeds(seed, batch)
    outputs: list[list[int]] = [[] for _ in range(batch)]
    if not batch or max_new_tokens == 0:
        return outputs
    # Real tokens of the longest prompt; padding takes up no positions.
    longest = input_ids.shape[1] if attention_mask is None else int(attention_mask.bool().sum(1).max())
    limit = model.config.max_length
    if longest >= limit:
        raise ValueError(f"input_ids: a prompt of {longest} tokens leaves no room in {limit} positions; shorten it")
    # The embedding's padding rows have logits like all others, and must not be chosen.
    if n_vocab_used is not None:
        n_vocab_used = _whole("n_vocab_used", n_vocab_used, least=1, most=model.config.vocab_size)
    used = n_vocab_used or model.config.n_vocab_used or model.config.vocab_size
    training = model.training
    model.train(False)
    try:
        # The prompts in one pass: it fills the cache and scores the token after each prompt, (R, V).
        capacity = min(limit, longest + max_new_tokens)
        cache = KVCache(model.config, batch, capacity, dtype=_cache_dtype(model), device=input_ids.device)
        scores = model(input_ids, attention_mask=attention_mask, cache=cache, return_logits="last").logits[:, 0]
        # Batch row of each row of the cache: the cache loses rows, `outputs` and `seeds` keep theirs.
        active = list(range(batch))
        lengths = cache.lengths.tolist()
        for step in range(max_new_tokens):
            draws = [_uniform(*seeds[row], step) for row in active]
            try:
                chosen = sample(scores[:, :used], temperature, top_k, top_p, draws)
            except NotFiniteError as error:
                raise NotFiniteError(active[error.row], f"new token {step + 1}; {_cause(model)}") from None
            # Take the tokens in, and note which rows of the cache continue.
            going = []
            for i, (row, token) in enumerate(zip(active, chosen, strict=True)):
                if token in ends:
                    continue
                outputs[row].append(token)
                full = lengths[row] + len(outputs[row]) >= limit
                if not full and not (stop is not None and stop(row, outputs[row])):
                    going.append(i)
            if not going or step + 1 == max_new_tokens:
                break
            # Rows that have ended leave the cache, so the next pass does not compute them.
            if len(going) < len(active):
                cache.keep(torch.tensor(going, device=input_ids.device))
                active = [active[i] for i in going]
            # One token per row, (R, 1): the cache holds everything before it.
            tokens = torch.tensor([[outputs[row][-1]] for row in active], device=input_ids.device)
            scores = model(tokens, cache=cache).logits[:, -1]
    finally:
        model.train(training)
    return outputs


def sample(scores: torch.Tensor, temperature: float, top_k: int, top_p: float, draws: Sequence[float]) -> list[int]:
    """One token per row from (R, V) logits.

    Args:
        scores: logits of the ids that may be chosen. -inf bans an id.
        temperature, top_k, top_p: as `generate` has them.
        draws: R numbers, uniform in [0, 1); temperature 0 does not use them.

    Raises:
        NotFiniteError: a row has a NaN or +inf, or nothing but -inf.
    """
    if temperature == 0.0:
        # The first of the largest, as `argmax` has it. NaN and +inf are larger than all else, so they are found here.
        best, tokens = scores.max(-1)
        return _read(tokens, best)
    # Sorted, so that top-k and top-p both keep the first few; stable, so that equal logits always come in id order.
    values, order = (scores.to(torch.float64) / temperature).sort(dim=-1, descending=True, stable=True)
    best = values[:, 0]
    if top_k:
        values, order = values[:, :top_k], order[:, :top_k]
    probability = values.softmax(-1)
    cumulative = probability.cumsum(-1)
    if top_p < 1.0:
        # A token stays while those before it have not reached top_p, so the one that reaches it is the last to stay.
        probability = probability.masked_fill(cumulative - probability >= top_p, 0.0)
        cumulative = probability.cumsum(-1)
    # Inverse of the cumulative sum at draw * total mass: what the cuts have left need not be normalised.
    point = torch.tensor(draws, dtype=torch.float64, device=scores.device).unsqueeze(1) * cumulative[:, -1:]
    # The last index with any mass bounds the search: rounding of the sum must not reach a token that was cut.
    last = (probability > 0).sum(-1, keepdim=True) - 1
    index = torch.minimum(torch.searchsorted(cumulative, point, right=True), last)
    # A row that is not finite has places beyond the end; `_read` refuses it, so any place will do.
    index = index.clamp(0, order.shape[1] - 1)
    return _read(order.gather(1, index).squeeze(1), best)


def _read(tokens: torch.Tensor, best: torch.Tensor) -> list[int]:
    """The (R,) tokens, whose rows have these (R,) largest logits; both come from the device in one transfer."""
    chosen: list[int] = torch.where(best.isfinite(), tokens, -1).tolist()
    if -1 in chosen:
        raise NotFiniteError(chosen.index(-1))
    return chosen


def check_settings(
    *, temperature: Any, top_k: Any = 0, top_p: Any, max_new_tokens: Any
) -> tuple[float, int, float, int]:
    """The four settings as plain numbers.

    Raises:
        TypeError: one is no number of its kind; a bool, a text and None are none, numpy's numbers are.
        ValueError: one is out of range or not finite.
    """
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} is {_shown(value)}; it must be a number")
    temperature, top_p = float(temperature), float(top_p)
    # Logits divided by less than the least would overflow even fp64. A NaN is in no range.
    if temperature != 0 and not LEAST_TEMPERATURE <= temperature < math.inf:
        raise ValueError(
            f"temperature {temperature}: must be 0 (the most likely token), or finite and at least {LEAST_TEMPERATURE}"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p}: must be above 0 and at most 1 (all tokens)")
    return temperature, _whole("top_k", top_k), top_p, _whole("max_new_tokens", max_new_tokens)


def _whole(name: str, value: Any, *, least: int | None = 0, most: int | None = None) -> int:
    """A setting that must be a whole number in a range, as a plain one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {_shown(value)}; it must be a whole number")
    number = int(value)
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} {number}: must be at least {least}" + ("" if most is None else f", at most {most}"))
    return number


def _shown(value: Any) -> str:
    """A wrong value for a message, in one line."""
    text = " ".join(repr(value).split())
    return f"{text[:80]} ({type(value).__name__})"


def _row_seeds(seed: Any, batch: int) -> list[tuple[int, int]]:
    """What each row's draws are hashed from: one seed and the row's number, or a seed of its own."""
    if isinstance(seed, str | bytes) or not isinstance(seed, Iterable) or getattr(seed, "ndim", 1) == 0:
        number = _whole("seed", seed, least=None)
        return [(number, row) for row in range(batch)]
    seeds = seed.tolist() if isinstance(seed, torch.Tensor) else list(seed)
    if len(seeds) != batch:
        raise ValueError(f"seed has {len(seeds)} entries for {batch} rows; give one number or one for each row")
    return [(_whole("seed", one, least=None), 0) for one in seeds]


def _stop_ids(stop_ids: Any) -> frozenset[int]:
    """The ids that end a row; a single id is one of them."""
    if isinstance(stop_ids, numbers.Integral):
        stop_ids = (stop_ids,)
    if isinstance(stop_ids, str | bytes) or not isinstance(stop_ids, Iterable):
        raise TypeError(f"stop_ids is {_shown(stop_ids)}; it must be token ids, whole numbers")
    ids = stop_ids.tolist() if isinstance(stop_ids, torch.Tensor) else stop_ids
    return frozenset(_whole("stop_ids", one) for one in ids)


def _check_prompts(model: LanguageModel, input_ids: Any, attention_mask: Any) -> None:
    """Refuse prompts that are no (batch, seq) int64 tensor of ids on the model's device, each with a token."""
    for name, value in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        if value is None and name == "attention_mask":
            continue
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is {_shown(value)}; it must be a tensor, for example torch.tensor([[1, 2]])")
        if value.device != model.device:
            raise ValueError(f"{name} is on {value.device}, but the model is on {model.device}; move one of them")
    if input_ids.dim() != 2 or input_ids.dtype != torch.int64:
        raise ValueError(f"input_ids {tuple(input_ids.shape)} {input_ids.dtype}: must be int64 of shape (batch, seq)")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)}: must be {tuple(input_ids.shape)}")
    # An additive mask has 0 where a token is seen, which is the reverse.
    if attention_mask is not None and not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise ValueError("attention_mask: its values must be 1 (a token) or 0 (padding); an additive mask is none")
    if not input_ids.shape[0]:
        return
    if not input_ids.shape[1]:
        raise ValueError("input_ids: a prompt without a token; give at least one, for example <|endoftext|>")
    # Once per call, so also on a GPU, where the embedding's own check would end the whole process's use of it.
    low, high = torch.stack(torch.aminmax(input_ids)).tolist()
    if low < 0 or high >= model.config.vocab_size:
        raise ValueError(
            f"input_ids: ids run from {low} to {high}, but the vocabulary is 0 to {model.config.vocab_size - 1}"
        )


def _cause(model: Any) -> str:
    """Why a model's logits may not be finite, found only after the fact."""
    parameters = model.named_parameters() if hasattr(model, "named_parameters") else ()
    for name, parameter in parameters:
        if not bool(parameter.isfinite().all()):
            return f"the weight {name} is not finite; take the model from where it came from again"
    return (
        f"its weights are finite, so a product overflows {str(model.dtype).removeprefix('torch.')}; try another dtype"
    )


def _uniform(seed: int, row: int, step: int) -> float:
    """Uniform in [0, 1) with 53 bits, from a hash."""
    # The upper 53 of 64 bits: each value is a double of its own, and 1.0 is never reached.
    digest = hashlib.blake2b(f"generate {seed} {row} {step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _cache_dtype(model: LanguageModel) -> torch.dtype:
    """The dtype that keys and values are computed in: autocast's inside autocast, else that of the weights."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def infill_prompt(tokenizer: TextTokenizer, prefix: str, suffix: str | None, budget: int) -> list[int]:
    """Token ids of a prompt of at most `budget` tokens.

    With a suffix it is `<fim_prefix>prefix<fim_suffix>suffix<fim_middle>` (PSM), else the prefix alone, or
    `<|endoftext|>` where that is empty. What is too long loses the text farthest from the gap: the prefix its
    beginning, the suffix its end. The suffix may then keep a quarter of the budget, and more if the prefix is short.
    """
    before = tokenizer.encode(prefix)
    if suffix is None:
        return before[-budget:] or [tokenizer.eot]
    after = tokenizer.encode(suffix)
    room = budget - 3  # without the three special tokens
    if room < 1:
        raise ValueError(f"budget is {budget} tokens; filling in the middle needs at least 4")
    # The suffix keeps a quarter of the room, or all that the prefix leaves; the prefix gets the rest, from its end.
    if len(before) + len(after) > room:
        after = after[: max(room // 4, room - len(before))]
        before = before[max(0, len(before) - (room - len(after))) :]
    return [tokenizer.fim_prefix, *before, tokenizer.fim_suffix, *after, tokenizer.fim_middle]


def complete(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    prefix: str,
    suffix: str | None = None,
    *,
    max_new_tokens: int = 64,
    stop: str | Iterable[str] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """The text between `prefix` and `suffix`, or after `prefix`; see `complete_batch`."""
    return complete_batch(
        model,
        tokenizer,
        [(prefix, suffix)],
        max_new_tokens=max_new_tokens,
        stop=stop,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )[0]


def complete_batch(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    requests: Sequence[tuple[str, str | None]],
    *,
    max_new_tokens: int = 64,
    stop: str | Iterable[str] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """Completions of several (prefix, suffix or None) requests in one batch.

    A completion ends at any special token, at the first stop string (cut out exactly, wherever the token boundaries
    are), or after `max_new_tokens`. Bytes that are not UTF-8 become U+FFFD. Prompts too long for the model are
    trimmed as `infill_prompt` says.

    Raises:
        ValueError: `max_new_tokens` leaves no room for a prompt, a sampling setting is out of range, or a stop string
            is empty.
        TypeError: an argument is of another type.
        NotFiniteError: the model's logits are not finite.
    """
    temperature, top_k, top_p, max_new_tokens = check_settings(
        temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_new_tokens
    )
    needles = _needles(stop)
    requests = [_request(request) for request in requests]
    if not requests:
        return []
    budget = model.config.max_length - max_new_tokens
    if budget < 4:
        raise ValueError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in {model.config.max_length} positions"
        )
    prompts = [infill_prompt(tokenizer, prefix, suffix, budget) for prefix, suffix in requests]
    # Padded on the left, so that every prompt ends in the last column.
    longest = max(map(len, prompts))
    rows = [[tokenizer.eot] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    # Text is collected as bytes: a token may end inside a character, and a stop string inside a token.
    texts = [b""] * len(prompts)
    reach = max(map(len, needles), default=0)

    def ended(row: int, ids: list[int]) -> bool:
        new = tokenizer.decode_bytes(ids[-1:])
        texts[row] += new
        # A stop string that is new must touch the new bytes; a search of the whole text would be quadratic.
        tail = texts[row][-(len(new) + reach) :]
        return any(needle in tail for needle in needles)

    # What `generate` returns is not needed: `ended` has seen every token. Any special token ends a completion, because
    # what follows would be another document.
    generate(
        model,
        torch.tensor(rows, device=model.device),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=set(tokenizer.specials.values()),
        stop=ended,
        seed=seed,
        attention_mask=torch.tensor(mask, device=model.device),
        n_vocab_used=model.config.n_vocab_used or min(tokenizer.vocab_size, model.config.vocab_size),
    )
    return [_cut(text, needles).decode("utf-8", errors="replace") for text in texts]


def _needles(stop: Any) -> list[bytes]:
    """The stop strings in UTF-8; a single string is one of them."""
    if stop is None:
        return []
    texts = [stop] if isinstance(stop, str) else stop
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"stop is {_shown(stop)}; it must be a text or several")
    needles = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"stop has {_shown(text)} in it; it must be a text or several")
        if not text:
            raise ValueError("stop: an empty text would end every completion before its first token; leave it out")
        try:
            needles.append(text.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"stop: {text!r} has a lone surrogate, which no text in UTF-8 holds; leave it out"
            ) from None
    return needles


def _request(request: Any) -> tuple[str, str | None]:
    """A (prefix, suffix or None). A single string has two letters at times, and is no request."""
    if isinstance(request, str) or not isinstance(request, Sequence) or len(request) != 2:
        raise TypeError(f"requests has {_shown(request)} in it; each must be a pair (prefix, suffix or None)")
    prefix, suffix = request
    if not isinstance(prefix, str) or not (suffix is None or isinstance(suffix, str)):
        wrong = prefix if not isinstance(prefix, str) else suffix
        raise TypeError(f"prefix and suffix must be texts (a suffix may be None), not {_shown(wrong)}")
    return prefix, suffix


def _cut(text: bytes, needles: Sequence[bytes]) -> bytes:
    """The text up to the first stop string."""
    # The token that completes a stop string may go beyond it, and stop strings may overlap: the earliest one counts.
    found = [at for at in (text.find(needle) for needle in needles) if at >= 0]
    return text[: min(found)] if found else text
