"""Generation with a key/value cache, and completion of text: left to right, or filling in the middle.

Sampling draws one uniform number for each new token from a hash of (seed, row, step), so a row's text depends on its
own seed and prompt and not on the batch it is in.

Shapes in this file: R rows that still generate (at first the whole batch), S tokens of the longest prompt, V ids that
may be produced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch

from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig


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


@torch.inference_mode()
def generate(
    model: LanguageModel,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_ids: Collection[int] = (),
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
        stop_ids: ids that end a row.
        stop: called with (row, its new tokens) after each token; True ends the row, that token included.
        seed: one for all rows (they still differ by row number), or one for each row.
        attention_mask: (batch, seq), 0 or False where a prompt is padding.
        n_vocab_used: ids at or above it are never produced; None is the config's, else the whole vocabulary.

    Returns:
        The new tokens of each row, in the order of the prompts.

    Raises:
        ValueError: a setting is out of range, or a prompt leaves no position for a new token.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or max_new_tokens < 0:
        raise ValueError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}, max_new_tokens {max_new_tokens}: "
            "must be >= 0, >= 0, in (0, 1] and >= 0"
        )
    batch = input_ids.shape[0]
    if not isinstance(seed, int) and len(seed) != batch:
        raise ValueError(f"seed has {len(seed)} entries for {batch} rows; give one number or one for each row")
    # What each row's draws are hashed from, beside the step.
    seeds = [(seed, row) if isinstance(seed, int) else (seed[row], 0) for row in range(batch)]
    # Real tokens of the longest prompt; padding takes up no positions.
    longest = input_ids.shape[1] if attention_mask is None else int(attention_mask.bool().sum(1).max())
    limit = model.config.max_length
    if longest >= limit:
        raise ValueError(f"input_ids: a prompt of {longest} tokens leaves no room in {limit} positions; shorten it")
    # The embedding's padding rows have logits like all others, and must not be chosen.
    used = n_vocab_used or model.config.n_vocab_used or model.config.vocab_size
    outputs: list[list[int]] = [[] for _ in range(batch)]
    if max_new_tokens == 0:
        return outputs
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
            chosen = sample(scores[:, :used], temperature, top_k, top_p, draws)
            # Take the tokens in, and note which rows of the cache continue.
            going = []
            for i, (row, token) in enumerate(zip(active, chosen, strict=True)):
                if token in stop_ids:
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
        scores: logits of the ids that may be chosen.
        temperature, top_k, top_p: as `generate` has them.
        draws: R numbers, uniform in [0, 1); temperature 0 does not use them.
    """
    if temperature == 0.0:
        return [int(token) for token in scores.argmax(-1)]
    # Sorted, so that top-k and top-p both keep the first few; stable, so that equal logits always come in id order.
    values, order = (scores.to(torch.float64) / temperature).sort(dim=-1, descending=True, stable=True)
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
    return [int(token) for token in order.gather(1, index).squeeze(1)]


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
    stop: Sequence[str] = (),
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
    stop: Sequence[str] = (),
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
        ValueError: `max_new_tokens` leaves no room for a prompt, or a sampling setting is out of range.
    """
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
    needles = [text.encode() for text in stop if text]
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


def _cut(text: bytes, needles: Sequence[bytes]) -> bytes:
    """The text up to the first stop string."""
    # The token that completes a stop string may go beyond it, and stop strings may overlap: the earliest one counts.
    found = [at for at in (text.find(needle) for needle in needles) if at >= 0]
    return text[: min(found)] if found else text
