"""Token ids of what a request asks to continue, to fill in or to answer.

A prompt is made of texts and of special tokens that are placed by id: no text of a request can become a special token.
What is filled in is trimmed to the model's context, farthest from the gap first, because an editor sends what it has
around the cursor. What is continued or answered is refused if it is too long: a client chose that text.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from codeshell.errors import UserError
from codeshell.evaluate.prompts import NotRunError
from codeshell.model.infill import CUT_STEP, Order, infill_prompt
from codeshell.model.session import Settings
from codeshell.serve.errors import RequestError, field_error
from codeshell.serve.sentinels import split


@dataclass(frozen=True)
class Continue:
    """A text to continue. `field` names it in errors."""

    text: str
    field: str = "prompt"


@dataclass(frozen=True)
class Ids:
    """A prompt of token ids, special ones included."""

    ids: tuple[int, ...]
    field: str = "prompt"


@dataclass(frozen=True)
class Fill:
    """A gap to fill in.

    Attributes:
        prefix, suffix: the texts around it.
        extra: (name, text) of other files.
        typed: text that follows the prefix and comes at the end of the prompt: what stands in the cursor's line. In
            the order PSM, all before it stays in the cache while somebody types in that line.
        lead: text before the prompt's first special token.
    """

    prefix: str
    suffix: str
    extra: tuple[tuple[str, str], ...] = ()
    typed: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Chat:
    """Messages to answer."""

    messages: tuple[dict[str, Any], ...]


Prompt = Continue | Ids | Fill | Chat


@dataclass(frozen=True)
class Piece:
    """One generation of a request.

    Attributes:
        copies: completions that it stands for: with the most likely token at each step, all are the same.
    """

    prompt: Prompt
    settings: Settings
    copies: int = 1


@dataclass(frozen=True)
class Prepared:
    """A piece ready to be generated.

    Attributes:
        ids: the prompt.
        settings: of the generation; there is room for at least one of its tokens, unless none is asked for.
    """

    piece: Piece
    ids: Sequence[int]
    settings: Settings


def continued(text: str, field: str = "prompt") -> Continue | Fill:
    """A prompt that is one text: a template for filling in (see `sentinels`), or a text to continue."""
    gap = split(text, field)
    return Continue(text, field) if gap is None else Fill(gap.prefix, gap.suffix, lead=gap.lead)


class Prompts:
    """What turns pieces into ids, for one model. Its calls may come from several threads.

    Args:
        tokenizer: the model's.
        context: tokens that the model holds at once.
        order: of the prompts for filling in, which the model was trained with.
        chat: the model's chat template; None if it has none.
        before: ids that stand before a text that is continued or filled in, for example `<s>`.
    """

    def __init__(
        self, tokenizer: Any, context: int, order: Order = "psm", chat: Any = None, before: Sequence[int] = ()
    ) -> None:
        self.tokenizer, self.context, self.order, self.chat = tokenizer, context, order, chat
        self._before = list(before)
        # Tokenizers of transformers are not made for several threads.
        self._lock = threading.Lock()

    @property
    def fills(self) -> bool:
        """Whether the tokenizer has the tokens for filling in."""
        try:
            return self.tokenizer.fim_middle is not None
        except (UserError, NotRunError):
            return False

    def prepare(self, piece: Piece) -> Prepared:
        """Ids of a piece's prompt, and its settings for this model.

        Raises:
            RequestError: the prompt is too long, or of a kind that this model does not have.
        """
        with self._lock:
            ids = self._ids(piece.prompt, piece.settings.max_new_tokens)
        settings = piece.settings
        if isinstance(piece.prompt, Chat):
            # Special tokens end every answer, by their ids; their names may stand in a text.
            ends = [end for end in self.chat.stop if end not in self.tokenizer.specials]
            settings = replace(
                settings, stop=tuple(dict.fromkeys([*settings.stop, *ends])), stop_ids=tuple(self.chat.stop_ids)
            )
        room = min(settings.max_new_tokens, self.context - len(ids))
        return Prepared(piece, ids, replace(settings, max_new_tokens=room))

    def _ids(self, prompt: Prompt, new: int) -> list[int]:
        if isinstance(prompt, Fill):
            return self._filled(prompt, new)
        if isinstance(prompt, Chat):
            return self._fitting(self._answered(prompt), "messages")
        if isinstance(prompt, Ids):
            wrong = next((index for index in prompt.ids if index >= self.tokenizer.vocab_size), None)
            if wrong is not None:
                raise field_error(
                    prompt.field, f"{wrong} is no token of {self.tokenizer.vocab_size}; send ids below it"
                )
            return self._fitting(list(prompt.ids), prompt.field)
        ids = [*self._before, *self.tokenizer.encode(prompt.text)]
        return self._fitting(ids or [self.tokenizer.eot], prompt.field)

    def _fitting(self, ids: list[int], field: str) -> list[int]:
        if len(ids) >= self.context:
            raise field_error(
                field,
                f"{len(ids):,} tokens, but the model holds {self.context:,} and needs one for an answer; send less",
                "context_length_exceeded",
            )
        return ids

    def _answered(self, prompt: Chat) -> list[int]:
        if self.chat is None:
            raise RequestError(
                "this model has no chat template, so it was not tuned to answer messages; use /v1/completions or "
                "/infill, or start the server with --chat-template",
                code="no_chat_template",
                param="messages",
            )
        try:
            ids: list[int] = self.chat.prompt_ids(list(prompt.messages), self.tokenizer)
        except UserError as error:
            raise RequestError(str(error), param="messages") from None
        return ids

    def _filled(self, prompt: Fill, new: int) -> list[int]:
        if not self.fills:
            raise RequestError(
                "this model was not trained to fill in the middle: its tokenizer has no such tokens; send a prompt "
                "without a suffix to /v1/completions",
                code="no_infilling",
            )
        # New tokens may take a quarter of the context from the prompt; what they need beyond it, the prompt must leave.
        budget = self.context - min(max(new, 1), max(1, self.context // 4)) - len(self._before)
        # What is typed, and what stands before, come in full, up to half of the budget each: their ends.
        inside = getattr(self.tokenizer, "encode_inside", self.tokenizer.encode)
        typed = _last(inside(prompt.typed), budget // 2)
        lead = _last(self.tokenizer.encode(prompt.lead), (budget - len(typed)) // 4)
        budget -= len(typed) + len(lead)
        if budget < 4:
            raise RequestError(
                f"the model holds {self.context} tokens, which is too few to fill in the middle; take a larger one",
                code="context_length_exceeded",
            )
        ids = infill_prompt(
            self.tokenizer, prompt.prefix, prompt.suffix, budget, self.order, prompt.extra,
            step=min(CUT_STEP, max(1, budget // 8)),
        )  # fmt: skip
        return [*self._before, *lead, *ids, *typed]


def _last(ids: list[int], count: int) -> list[int]:
    return ids[max(0, len(ids) - count) :]
