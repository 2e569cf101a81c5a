"""Conversations become token shards with a mask: the part of the tokens stage that reads `finetune.instructions`.

Every conversation that is read is either written or counted under the reason why it is not; faulty lines end the run,
with a line for each fault. Which are held out is a hash of what they say: conversations that resemble one another (near
duplicates, or the same first question) stay on one side, so a held-out question has not been seen in training. The
order and the division of the files do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.data.conversations import Conversation, read
from codeshell.dedup.in_memory import search_texts
from codeshell.dedup.parameters import Parameters
from codeshell.documents.readers import open_binary
from codeshell.documents.token_shards import TokenShardWriter
from codeshell.engine.files import TEMPORARY, make_directory, remove_quietly, write_json
from codeshell.engine.hub import model_directory
from codeshell.engine.progress import Progress
from codeshell.errors import UserError, say
from codeshell.randomness import draw
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.chat import ChatTemplate
from codeshell.tokenizer.encoder import tokenizer_threads

FIRST_SHARD = 90_000
"""The number of the first shard of conversations; those of documents have their own from 0."""

SHARD_TOKENS = 1 << 24
"""Tokens of a shard: 33 MB of ids."""

SHOWN_FAULTS = 20
"""Lines about faults that are printed; the others are counted."""

DROPPED = ("duplicate", "too_long", "missing_bytes")
"""Why a conversation is left out: it says what another one says; its first answer does not end within a context; the
tokenizer lacks a byte of it."""


class Ids(NamedTuple):
    """A conversation as a model reads it."""

    conversation: Conversation
    ids: NDArray[np.uint32]
    trained: NDArray[np.bool_]


@dataclass
class Counts:
    """What becomes of what is read."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPPED, 0))
    cut: int = 0
    """Conversations that lost answers at their end, to fit a context."""
    cut_answers: int = 0
    unanswered: int = 0
    """Questions after a last answer."""


def run(recipe: Recipe, directory: Path) -> dict[str, Any]:
    """Write the conversations of a recipe beside the other token shards of a run.

    Args:
        recipe: `finetune`, `train.phases`, `split.valid` and `seed` are read.
        directory: the run's, with `tokenizer/`.

    Returns:
        The statistics of `write`.
    """
    tokenizer = Tokenizer.load(directory / "tokenizer")
    settings = recipe.finetune
    base = model_directory(settings.base) if settings.base else directory / "tokenizer"
    template = ChatTemplate.load(base, tokenizer, settings.template)
    if template is None:
        say(f"tokens: {base} has no chat template; the plain one is used (finetune.template names another)")
        template = ChatTemplate.load(base, tokenizer, "plain")
        assert template is not None
    return write(
        settings.instructions,
        directory / "tokens",
        tokenizer,
        template,
        max_tokens=min(phase.context for phase in recipe.train.phases),
        valid=recipe.split.valid,
        seed=recipe.seed,
    )


def write(
    files: Sequence[str],
    output: Path,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    max_tokens: int,
    valid: float,
    seed: int,
) -> dict[str, Any]:
    """Write `train-9NNNN.tokens`, `valid-9NNNN.tokens` and the template.

    Args:
        files: of conversations; see `codeshell.data.conversations`.
        output: the directory, which need not exist.
        tokenizer, template: those of the model.
        max_tokens: a longer conversation is cut after the last answer that ends within so many tokens.
        valid: share of the conversations that is held out.
        seed: decides which.

    Returns:
        `{"train" and "valid": {documents, tokens, trained, answers, bytes, longest}, "read", "dropped" {reason: n},
        "cut" {conversations, answers, questions}, "groups", "files" {name: SHA-256}, "template" {source, sha256}}`.

    Raises:
        UserError: a file that cannot be read, faulty conversations, or none that is left to train on.
    """
    make_directory(output)
    for leftover in [*output.glob(f"*{TEMPORARY}"), *output.glob("*-9[0-9][0-9][0-9][0-9].tokens")]:
        remove_quietly(leftover)
    counts = Counts()
    conversations = _distinct(files, counts)
    encoded = list(_encoded(conversations, tokenizer, template, max_tokens, counts))
    if not encoded:
        why = ", ".join(f"{count:,} {name}" for name, count in counts.dropped.items() if count)
        raise UserError(
            f"finetune.instructions: none of {counts.read:,} conversations is left ({why}); "
            f"raise the context ({max_tokens:,} tokens) or give others"
        )
    # Ordered by what they say, so that the files and their order do not matter.
    encoded.sort(key=lambda one: one.conversation.id)
    groups = _groups([one.conversation for one in encoded])
    held = _held_out(encoded, groups, valid, seed)
    statistics: dict[str, Any] = {
        split: _write_split(
            output, split, [one for one, out in zip(encoded, held, strict=True) if out == wanted], tokenizer
        )
        for split, wanted in (("train", False), ("valid", True))
    }
    written = sum(statistics[split]["documents"] for split in ("train", "valid"))
    assert counts.read == written + sum(counts.dropped.values()), counts
    template.save(output)
    statistics |= {
        "read": counts.read,
        "dropped": counts.dropped,
        "cut": {"conversations": counts.cut, "answers": counts.cut_answers, "questions": counts.unanswered},
        "groups": int(groups.max()) + 1,
        "files": {name: _sha256(name) for name in files},
        "template": {
            "source": Path(template.source).name,
            "sha256": hashlib.sha256(template.text.encode()).hexdigest(),
            "stop": list(template.stop),
            "stop_ids": list(template.stop_ids),
        },
    }
    write_json(output / "instructions.json", statistics)
    return statistics


def notes(statistics: dict[str, Any]) -> list[str]:
    """A line for the terminal about what was left out or cut, where there is something."""
    lost = {name: count for name, count in statistics["dropped"].items() if count}
    cut = statistics["cut"]
    parts = [f"{count:,} of {statistics['read']:,} left out ({name})" for name, count in lost.items()]
    if cut["conversations"]:
        parts.append(f"{cut['conversations']:,} cut to fit the context ({cut['answers']:,} answers lost)")
    if cut["questions"]:
        parts.append(f"{cut['questions']:,} questions without an answer cut off")
    return ["conversations: " + "; ".join(parts)] if parts else []


def _distinct(files: Sequence[str], counts: Counts) -> list[Conversation]:
    """The conversations of all files, each once; refuses faulty ones after a line for each."""
    found: dict[str, Conversation] = {}
    faults = 0
    for name in files:
        for one in read(name):
            if isinstance(one, UserError):
                faults += 1
                if faults <= SHOWN_FAULTS:
                    say(str(one))
                continue
            counts.read += 1
            counts.unanswered += one.unanswered
            # The one that comes first by its place is kept; they are equal but for the place.
            if found.setdefault(one.id, one) is not one:
                counts.dropped["duplicate"] += 1
    _refuse(faults)
    return list(found.values())


def _refuse(faults: int) -> None:
    if faults:
        more = f" (the first {SHOWN_FAULTS} are named above)" if faults > SHOWN_FAULTS else " (named above)"
        raise UserError(f"finetune.instructions: {faults:,} faulty conversations{more}; fix or delete these lines")


def _encoded(
    conversations: list[Conversation], tokenizer: Tokenizer, template: ChatTemplate, max_tokens: int, counts: Counts
) -> Iterator[Ids]:
    """The ids of each conversation that fits, cut after an answer if it must be."""
    faults = 0
    seen: set[str] = set()
    with tokenizer_threads(1), Progress("conversations", total=len(conversations), unit="conversations") as progress:
        for one in conversations:
            progress.advance(1)
            if tokenizer.missing_bytes and tokenizer.lost_bytes(one.text):
                counts.dropped["missing_bytes"] += 1
                continue
            try:
                fitting = _fitting(one, tokenizer, template, max_tokens)
            except UserError as error:
                faults += 1
                if faults <= SHOWN_FAULTS:
                    say(f"{one.place}: {error}")
                continue
            if fitting is None:
                counts.dropped["too_long"] += 1
                continue
            # Two that differ in what was cut are one now.
            if fitting.conversation.id in seen:
                counts.dropped["duplicate"] += 1
                continue
            seen.add(fitting.conversation.id)
            lost = _answers(one) - _answers(fitting.conversation)
            counts.cut += lost > 0
            counts.cut_answers += lost
            yield fitting
    _refuse(faults)


def _fitting(one: Conversation, tokenizer: Tokenizer, template: ChatTemplate, max_tokens: int) -> Ids | None:
    """The longest beginning of a conversation that ends with a learned answer and has at most `max_tokens`; None if
    there is none."""
    messages = one.messages
    ends = [number + 1 for number, message in enumerate(messages) if message.role == "assistant" and message.trained]
    # Whole first, because most fit; then by halves, because a longer beginning never has fewer tokens.
    best: Ids | None = None
    low, high = 0, len(ends) - 1
    at = high
    while low <= high:
        part = messages[: ends[at]] if at < len(ends) - 1 else messages
        ids, trained = template.training_ids(part, tokenizer)
        if len(ids) <= max_tokens:
            kept = Conversation(tuple(part), one.place, one.unanswered)
            best = Ids(kept, np.array(ids, np.uint32), np.array(trained, np.bool_))
            low = at + 1
        else:
            high = at - 1
        at = (low + high) // 2
    return best


def _answers(one: Conversation) -> int:
    return sum(message.role == "assistant" for message in one.messages)


def _groups(conversations: list[Conversation]) -> NDArray[np.int64]:
    """The group of each conversation, numbered from 0: chains of near duplicates, and of equal first questions."""
    leader = list(range(len(conversations)))

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = leader[one]
        return one

    def join(one: int, other: int) -> None:
        first, second = sorted((find(one), find(other)))
        leader[second] = first

    texts = pa.chunked_array([pa.array([one.text for one in conversations], pa.large_string())])
    found = search_texts(texts, Parameters(cluster="components"))
    for dropped, kept in zip(found.dropped.tolist(), found.kept.tolist(), strict=True):
        join(dropped, kept)
    questions: dict[str, int] = {}
    for number, one in enumerate(conversations):
        if one.question:
            join(number, questions.setdefault(one.question, number))
    _, numbers = np.unique([find(number) for number in range(len(conversations))], return_inverse=True)
    return numbers.astype(np.int64)


def _held_out(encoded: list[Ids], groups: NDArray[np.int64], valid: float, seed: int) -> list[bool]:
    """Whether each conversation is held out. Both sides get a group, if there are two and any is to be held out."""
    # The members are sorted by id, so the first member names the group whatever the files.
    names: dict[int, str] = {}
    for one, group in zip(encoded, groups.tolist(), strict=True):
        names.setdefault(group, one.conversation.id)
    drawn = {group: draw(seed, name, "instructions") for group, name in names.items()}
    out = {group for group, bits in drawn.items() if bits < valid * 2.0**64}
    order = sorted(drawn, key=lambda group: (drawn[group], names[group]))
    if valid > 0 and len(order) > 1:
        out |= {order[0]}
        out -= {order[-1]} if len(out) == len(order) else set()
    elif len(out) == len(order):
        out = set()
    return [group in out for group in groups.tolist()]


def _write_split(output: Path, split: str, encoded: list[Ids], tokenizer: Tokenizer) -> dict[str, int]:
    """Write the shards of a split; return its counts."""
    counts = dict.fromkeys(("documents", "tokens", "trained", "answers", "bytes", "longest"), 0)
    shard: list[Ids] = []
    size, number = 0, FIRST_SHARD

    def close() -> None:
        nonlocal size, number
        path = output / f"{split}-{number:05d}.tokens"
        with TokenShardWriter(
            path, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash, masked=True
        ) as writer:
            for one in shard:
                length = len(one.conversation.text.encode())
                writer.add(one.conversation.id, one.ids, length, one.trained)
                counts["bytes"] += length
                counts["answers"] += sum(m.role == "assistant" and m.trained for m in one.conversation.messages)
                counts["longest"] = max(counts["longest"], len(one.ids))
        for name, amount in (("documents", len(shard)), ("tokens", writer.n_tokens), ("trained", writer.n_trained)):
            counts[name] += amount
        shard.clear()
        size, number = 0, number + 1

    for one in encoded:
        shard.append(one)
        size += len(one.ids)
        if size >= SHARD_TOKENS:
            close()
    if shard:
        close()
    return counts


def _sha256(name: str) -> str:
    """SHA-256 of a file's bytes, for the record."""
    digest = hashlib.sha256()
    with open_binary(name) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
