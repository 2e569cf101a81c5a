"""What a task asks of a model, and what it gets back: prompts, sampling settings, completions, or that it cannot run.

A prompt is text, so a task does not know the tokens of the model under test. `prompt_ids` writes it in the form in
which the model was trained: plain text, or prefix-suffix-middle where there is a text after the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codeshell.errors import UserError

PROMPT_CHARACTERS = 16
"""Characters per token at most that are looked at around a gap: text further away is not even tokenised."""


class NotRunError(Exception):
    """A task cannot run on what is there; the message is the reason. "Not run" is never counted as 0."""


class NotFiniteError(NotRunError):
    """The model under test gives NaN or infinity, so there is nothing to measure."""


@dataclass(frozen=True)
class Prompt:
    """One question to a model: continue `before`, or fill the gap between `before` and `after`."""

    before: str
    after: str | None = None
    """None asks for a continuation; a text, even an empty one, asks for the middle."""


@dataclass(frozen=True)
class Sampling:
    """How a completion is sampled."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 takes the most likely token at each step."""
    top_p: float = 1.0
    enough: Callable[[str], bool] | None = None
    """Says of the text so far that the rest cannot change the verdict, so that generation may stop."""


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt."""

    text: str
    ended: bool
    """It stopped before it had written `max_new_tokens`."""


def prompt_ids(
    prompt: Prompt,
    tokenizer: Any,
    *,
    context: int,
    max_new_tokens: int,
    start: Sequence[int] = (),
    order: Literal["psm", "spm"] = "psm",
) -> list[int]:
    """The token ids of a prompt, with as much of its text as the context holds.

    What does not fit is cut far from the place where the model writes. Around a gap each side may use half of the
    room, and what the other side leaves.

    Args:
        context: tokens that the model was trained on at once.
        max_new_tokens: room that is left for the answer.
        start: ids before the prompt (see `scoring`, `start`).
        order: of the texts around a gap; in `spm` the text before it stands next to the answer.

    Raises:
        ValueError: the context has no room for a prompt.
        NotRunError: there is a gap, and the tokenizer has no tokens to ask for it with.
    """
    # The three special tokens of fill-in-the-middle need room as well.
    room = context - max_new_tokens - len(start) - (0 if prompt.after is None else 3)
    if room < (1 if prompt.after is None else 2):
        raise ValueError(f"context: {context} leaves no room for a prompt and {max_new_tokens} new tokens")
    if prompt.after is None:
        # The model continues at the end, so the beginning is what can be spared.
        return [*start, *tokenizer.encode(prompt.before)[-room:]]
    # Text that is too far away to fit whatever its tokens are is cut before it is tokenised.
    far = room * PROMPT_CHARACTERS
    # Some tokenizers put a blank before a text, which text after a gap must not get; they have a way without it.
    inside = getattr(tokenizer, "encode_inside", tokenizer.encode)
    before, after = tokenizer.encode(prompt.before[-far:]), inside(prompt.after[:far])
    # The text before the gap keeps half of the room or more; the text after it gets the rest.
    kept_before = min(len(before), max(room // 2, room - len(after)))
    kept_after = min(len(after), room - kept_before)
    before, after = before[len(before) - kept_before :], after[:kept_after]
    first, second, last = _marks(tokenizer)
    if order == "spm":
        return [*start, first, second, *after, last, *before]
    return [*start, first, *before, second, *after, last]


def _marks(tokenizer: Any) -> tuple[int, int, int]:
    """The ids before the text in front of a gap, before the text after it, and before what fills it."""
    try:
        return tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle
    except UserError:
        # Its remedy is one for training. Here a task cannot be asked, and the others go their way.
        raise NotRunError(
            "the model's tokenizer has no fill-in-the-middle tokens of a known family; take a model that was trained "
            "to fill in the middle"
        ) from None
