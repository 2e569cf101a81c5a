"""Prompts for the text between two texts, of a bounded number of tokens.

    PSM    EXTRA <fim_prefix> PREFIX <fim_suffix> SUFFIX <fim_middle>
    SPM    EXTRA <fim_prefix><fim_suffix> SUFFIX <fim_middle> PREFIX

Both orders are those that `codeshell.train.fim` trains. While somebody types, the end of the prefix changes: in SPM it
is the end of the prompt, and all before it is in the cache; in PSM the suffix follows it and is read again each time.

EXTRA are other files, in the repository form of the tokenizer's family: `<filename>NAME` and a newline, then the text.
A special token never comes from a user's text, because the tokenizer does not parse them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from codeshell.recipe import Train

Order = Literal["psm", "spm"]

CHARACTERS = 64
"""Characters per token at most that are looked at around the gap: text further away is not even tokenised."""

CUT_STEP = 64
"""Tokens. A server cuts prompts by multiples of it, so that the beginning of a long prompt stays what it is, and
cached, for so many tokens that are typed."""

FILE_MARKS = ("<filename>", "<file_sep>", "<|file_sep|>", "<|filename|>")
"""What stands before a file's name in a repository: StarCoder and CodeShell, StarCoder2, Qwen2.5-Coder."""


class TextTokenizer(Protocol):
    """What prompts and completion need of a tokenizer; `codeshell.tokenizer.Tokenizer` has it."""

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


def infill_prompt(
    tokenizer: TextTokenizer,
    prefix: str,
    suffix: str | None,
    budget: int,
    order: Order = "psm",
    extra: Sequence[tuple[str, str]] = (),
    step: int = 1,
) -> list[int]:
    """Token ids of a prompt of at most `budget` tokens.

    Without a suffix it is the prefix alone, or `<|endoftext|>` where that is empty. What is too long loses the text
    farthest from the gap: the prefix its beginning, the suffix its end. The suffix may then keep a quarter of the
    budget, and more if the prefix is short.

    Args:
        prefix, suffix: the texts around the gap.
        budget: tokens at most.
        order: which of the two forms; the model should have been trained with it (`trained_order`).
        extra: (name, text) of other files, the most important last. They get what the two texts leave: the last
            files whole, the first of those that fit with its beginning, and the ones before it not at all.
        step: a prefix loses its beginning in multiples of so many tokens (see `CUT_STEP`), and the room for other
            files is rounded down to them.

    Raises:
        ValueError: the budget has no room for a token of each side, or the order is unknown.
    """
    if order not in ("psm", "spm"):
        raise ValueError(f"order: {order!r} is neither 'psm' nor 'spm'")
    # Text too far away is cut at a multiple as well, so that its first tokens stay what they are.
    before = tokenizer.encode(prefix[_down(len(prefix) - budget * CHARACTERS, step * CHARACTERS) :])
    if suffix is None:
        head = _extra(tokenizer, extra, _down(budget - len(before), step))
        return [*head, *_last(before, budget, step)] or [tokenizer.eot]
    # Some tokenizers put a blank before a text, which text after a gap must not get; they have a way without it.
    inside = getattr(tokenizer, "encode_inside", tokenizer.encode)
    after = inside(suffix[: budget * CHARACTERS])
    room = budget - 3  # without the three special tokens
    if room < 1:
        raise ValueError(f"budget is {budget} tokens; filling in the middle needs at least 4")
    # The suffix keeps a quarter of the room, or all that the prefix leaves; the prefix gets the rest, from its end.
    if len(before) + len(after) > room:
        after = after[: max(room // 4, _down(room - len(before), step))]
        before = _last(before, room - len(after), step)
    head = _extra(tokenizer, extra, _down(room - len(before) - len(after), step))
    if order == "psm":
        return [*head, tokenizer.fim_prefix, *before, tokenizer.fim_suffix, *after, tokenizer.fim_middle]
    return [*head, tokenizer.fim_prefix, tokenizer.fim_suffix, *after, tokenizer.fim_middle, *before]


def _down(room: int, step: int) -> int:
    """The largest multiple of `step` that is at most `room`, or 0."""
    return max(0, room // step * step)


def _last(ids: list[int], room: int, step: int) -> list[int]:
    """The ids without as many multiples of `step` from their beginning as it takes to fit."""
    too_many = max(0, len(ids) - room)
    return ids[-(-too_many // step) * step :]


def _extra(tokenizer: TextTokenizer, files: Sequence[tuple[str, str]], room: int) -> list[int]:
    """Ids of other files, at most `room`."""
    mark = next((tokenizer.specials[name] for name in FILE_MARKS if name in tokenizer.specials), None)
    head: list[int] = []
    for name, text in reversed(files):
        ids = tokenizer.encode(f"{name}\n{text[: room * CHARACTERS]}\n")
        ids = ids if mark is None else [mark, *ids]
        if len(ids) > room:
            # Its beginning, if more than its name fits.
            return [*ids[:room], *head] if room > 1 + len(tokenizer.encode(name)) else head
        head, room = [*ids, *head], room - len(ids)
    return head


# Two questions about the order, which `train.spm_rate` answers: an evaluation asks for a gap in the order that the
# model knows best; an editor in SPM where the model knows it at all, because that is faster.


def order_of(train: Train) -> Order:
    """The order to measure the model of a run in: the one that most rearranged documents had; PSM if equal."""
    return "spm" if train.fim_rate > 0 and train.spm_rate > 0.5 else "psm"


def trained_order(directory: str | Path) -> Order:
    """The order to serve a model in: SPM where it was trained with it, because that keeps the cache while typing.

    A model in the folder of a run was trained by the run's recipe. Of any other one nothing is known but that PSM is
    what all families have.

    Args:
        directory: the model's.
    """
    for name in ("recipe.toml", "../recipe.toml"):
        path = Path(directory) / name
        try:
            train = tomllib.loads(path.read_text(encoding="utf-8")).get("train", {})
            return "spm" if train.get("fim_rate", 0.0) > 0 and train.get("spm_rate", 0.0) > 0 else "psm"
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError, TypeError):
            continue
    return "psm"
