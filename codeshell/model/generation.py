"""Generation with a key/value cache, and completion of text: left to right, or filling in the middle.

Sampling draws one uniform number for each new token from a hash of (seed, row, step), so a row's text depends on its
own seed and prompt and not on the batch it is in.

Shapes in this file: R rows that still generate (at first the whole batch), S tokens of the longest prompt, V ids that
may be produced.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import torch

from codeshell.model import batches, reading
from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig
from codeshell.model.infill import TextTokenizer, infill_prompt
from codeshell.model.sampling import NotFiniteError, check_settings, sample, uniform, whole
from codeshell.model.stops import cut, needles, shown

__all__ = ["NotFiniteError", "check_settings", "complete", "complete_batch", "generate", "infill_prompt", "sample"]


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
        n_vocab_used = whole("n_vocab_used", n_vocab_used, least=1, most=model.config.vocab_size)
    used = n_vocab_used or model.config.n_vocab_used or model.config.vocab_size
    training = model.training
    model.train(False)
    try:
        network = model.network() if hasattr(model, "network") else None
        if network is not None:
            rows = input_ids.tolist()
            if attention_mask is not None:
                rows = [
                    [index for index, real in zip(row, kept, strict=True) if real]
                    for row, kept in zip(rows, attention_mask.tolist(), strict=True)
                ]
            if not all(rows):
                raise ValueError("attention_mask: a row has no real token; leave that row out")
            sampling = batches.Sampling(max_new_tokens, ends, used, temperature, top_k, top_p, stop)
            try:
                return batches.continue_all(reading.Decoder(network), rows, sampling, seeds, limit)
            except NotFiniteError as error:
                raise NotFiniteError(error.row, f"{error.cause}; {_cause(model)}") from None
        # The prompts in one pass: it fills the cache and scores the token after each prompt, (R, V).
        capacity = min(limit, longest + max_new_tokens)
        cache = KVCache(model.config, batch, capacity, dtype=_cache_dtype(model), device=input_ids.device)
        scores = model(input_ids, attention_mask=attention_mask, cache=cache, return_logits="last").logits[:, 0]
        # Batch row of each row of the cache: the cache loses rows, `outputs` and `seeds` keep theirs.
        active = list(range(batch))
        lengths = cache.lengths.tolist()
        for step in range(max_new_tokens):
            draws = [uniform(*seeds[row], step) for row in active]
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


def _row_seeds(seed: Any, batch: int) -> list[tuple[int, int]]:
    """What each row's draws are hashed from: one seed and the row's number, or a seed of its own."""
    if isinstance(seed, str | bytes) or not isinstance(seed, Iterable) or getattr(seed, "ndim", 1) == 0:
        number = whole("seed", seed, least=None)
        return [(number, row) for row in range(batch)]
    seeds = seed.tolist() if isinstance(seed, torch.Tensor) else list(seed)
    if len(seeds) != batch:
        raise ValueError(f"seed has {len(seeds)} entries for {batch} rows; give one number or one for each row")
    return [(whole("seed", one, least=None), 0) for one in seeds]


def _stop_ids(stop_ids: Any) -> frozenset[int]:
    """The ids that end a row; a single id is one of them."""
    if isinstance(stop_ids, numbers.Integral):
        stop_ids = (stop_ids,)
    if isinstance(stop_ids, str | bytes) or not isinstance(stop_ids, Iterable):
        raise TypeError(f"stop_ids is {shown(stop_ids)}; it must be token ids, whole numbers")
    ids = stop_ids.tolist() if isinstance(stop_ids, torch.Tensor) else stop_ids
    return frozenset(whole("stop_ids", one) for one in ids)


def _check_prompts(model: LanguageModel, input_ids: Any, attention_mask: Any) -> None:
    """Refuse prompts that are no (batch, seq) int64 tensor of ids on the model's device, each with a token."""
    for name, value in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        if value is None and name == "attention_mask":
            continue
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is {shown(value)}; it must be a tensor, for example torch.tensor([[1, 2]])")
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


def _cache_dtype(model: LanguageModel) -> torch.dtype:
    """The dtype that keys and values are computed in: autocast's inside autocast, else that of the weights."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


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
    stops = needles(stop)
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
    reach = max(map(len, stops), default=0)

    def ended(row: int, ids: list[int]) -> bool:
        new = tokenizer.decode_bytes(ids[-1:])
        texts[row] += new
        # A stop string that is new must touch the new bytes; a search of the whole text would be quadratic.
        tail = texts[row][-(len(new) + reach) :]
        return any(needle in tail for needle in stops)

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
    return [cut(text, stops).decode("utf-8", errors="replace") for text in texts]


def _request(request: Any) -> tuple[str, str | None]:
    """A (prefix, suffix or None). A single string has two letters at times, and is no request."""
    if isinstance(request, str) or not isinstance(request, Sequence) or len(request) != 2:
        raise TypeError(f"requests has {shown(request)} in it; each must be a pair (prefix, suffix or None)")
    prefix, suffix = request
    if not isinstance(prefix, str) or not (suffix is None or isinstance(suffix, str)):
        wrong = prefix if not isinstance(prefix, str) else suffix
        raise TypeError(f"prefix and suffix must be texts (a suffix may be None), not {shown(wrong)}")
    return prefix, suffix
