"""Reads files of conversations, and says of each faulty line what is wrong with it.

Three forms are read, by their keys; a file may mix them:

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}     the form of most programs
    {"conversations": [{"from": "human", "value": …}, {"from": "assistant", "value": …}]}   CodeShell's and ShareGPT's
    {"instruction": …, "input": …, "output": …}                                             Alpaca's; `input` may miss

A file holds one object on each line (JSON Lines, packed or not), or one list of objects. What is beside these keys is
not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from codeshell.documents.json_lines import decode_record
from codeshell.documents.readers import damage, is_url, numbered_lines, open_lines
from codeshell.errors import UserError
from codeshell.tokenizer.messages import MOST_CHARACTERS, Message, check_messages

LONGEST_LINE = 4 * MOST_CHARACTERS
"""Bytes of a line: what the messages may hold, in characters of four bytes."""

LONGEST_LIST = 1 << 31
"""Bytes of a file that is one list, which is decoded as a whole."""

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
}
"""Names of the roles in `conversations`."""


@dataclass(frozen=True)
class Conversation:
    """A checked conversation.

    Attributes:
        messages: they end with an answer.
        place: FILE:LINE, for messages.
        unanswered: questions after the last answer, which are left out.
    """

    messages: tuple[Message, ...]
    place: str
    unanswered: int = 0

    @property
    def id(self) -> str:
        """MD5 of what it says and what is learned of it, in hexadecimal."""
        parts = [[one.role, one.content, one.trained] for one in self.messages]
        return hashlib.md5(json.dumps(parts, ensure_ascii=False).encode(), usedforsecurity=False).hexdigest()

    @property
    def text(self) -> str:
        """All that is said, for the search for near duplicates."""
        return "\n".join(one.content for one in self.messages)

    @property
    def question(self) -> str:
        """What is said before the first answer, without differences of case and white space."""
        before: list[str] = []
        for one in self.messages:
            if one.role == "assistant":
                break
            before.append(one.content)
        return " ".join(" ".join(before).lower().split())


def check_file(path: str) -> None:
    """Raise a `UserError` for a path that is no file of this machine, nor a URL."""
    if is_url(path) or Path(path).is_file():
        return
    fault = "a directory" if Path(path).is_dir() else "no such file"
    raise UserError(f"finetune.instructions: {path or '(empty)'}: {fault}; give a file of conversations (JSON Lines)")


def read(path: str) -> Iterator[Conversation | UserError]:
    """The conversations of a file in order, and for each faulty one the error that names it.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    count = 0
    for place, record in _records(path):
        count += 1
        try:
            if isinstance(record, UserError):
                raise record
            yield conversation(record, place)
        except UserError as error:
            yield error
    if not count:
        raise UserError(f"{path}: no conversation; give a file with a JSON object on each line")


def conversation(record: Any, place: str) -> Conversation:
    """The conversation of an object.

    Raises:
        UserError: it has none of the forms, a message is faulty, or there is nothing to learn from.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{place}: no JSON object; give one with messages, conversations, or instruction and output")
    messages = check_messages(_messages(record, place), f"{place}: messages")
    # What comes after the last answer has none.
    last = max((number for number, one in enumerate(messages) if one.role == "assistant"), default=-1)
    if last < 0:
        raise UserError(f"{place}: no answer of the assistant, so nothing to learn; add one, or delete the line")
    kept = messages[: last + 1]
    for number, one in enumerate(kept):
        if one.role == "assistant" and not one.content.strip():
            raise UserError(f"{place}: messages[{number}] is an empty answer; write one, or delete the line")
    if not any(one.role == "assistant" and one.trained for one in kept):
        raise UserError(f"{place}: every answer has a weight of 0, so nothing to learn; delete the line")
    return Conversation(tuple(kept), place, len(messages) - len(kept))


def _messages(record: Mapping[str, Any], place: str) -> Any:
    """The messages of an object, by the keys that it has."""
    if "messages" in record:
        return record["messages"]
    if "conversations" in record:
        return _spoken(record["conversations"], place)
    if "instruction" in record and "output" in record:
        return _alpaca(record, place)
    known = ", ".join(map(repr, list(islice(record, 5)))) or "nothing"
    raise UserError(f"{place}: has {known}; give messages, or conversations, or instruction and output")


def _spoken(turns: Any, place: str) -> Any:
    """The messages of `conversations`."""
    if not isinstance(turns, list):
        raise UserError(f"{place}: conversations is no list; give a list of objects with from and value")
    messages = []
    for number, turn in enumerate(turns):
        where = f"{place}: conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise UserError(f"{where}: no object; give one with from and value")
        speaker = turn.get("from")
        if speaker == "copilot":
            raise UserError(
                f"{where}: from copilot (a raw prompt without a template) is not read; write the prompt as human, or "
                "give the code to collect.inputs"
            )
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            said = repr(speaker[:40]) if isinstance(speaker, str) else "no name"
            raise UserError(f"{where}: from {said}; the names are {', '.join(_SPEAKERS)}")
        messages.append({"role": _SPEAKERS[speaker], "content": turn.get("value")})
    return messages


def _alpaca(record: Mapping[str, Any], place: str) -> Any:
    """The messages of `instruction`, `input` and `output`: the input follows the instruction after an empty line."""
    texts = [record.get(name) or "" for name in ("system", "instruction", "input", "output")]
    for name, text in zip(("system", "instruction", "input", "output"), texts, strict=True):
        if not isinstance(text, str):
            raise UserError(f"{place}: {name} is no string; give a text")
    system, instruction, given, output = texts
    if not (instruction + given).strip():
        raise UserError(f"{place}: instruction and input are empty; write a question, or delete the line")
    question = "\n\n".join(part for part in (instruction, given) if part.strip())
    before = [{"role": "system", "content": system}] if system.strip() else []
    return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": output}]


def _records(path: str) -> Iterator[tuple[str, Any]]:
    """The objects of a file, each with its place; an error for a line that is none. Blank lines are none."""
    check_file(path)
    with damage(path), open_lines(path) as file:
        head = file.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"["):
        yield from _listed(path)
        return
    for number, _, line in numbered_lines(path, 0, None, LONGEST_LINE):
        place = f"{path}:{number + 1}"
        if line is None:
            yield place, UserError(f"{place}: longer than {LONGEST_LINE:,} bytes; cut the conversation")
        elif line.strip(b" \t\r\n\xef\xbb\xbf"):
            record = decode_record(line)
            fault = UserError(f"{place}: not one JSON object; give an object on each line")
            yield place, fault if record is None else record


def _listed(path: str) -> Iterator[tuple[str, Any]]:
    """The objects of a file that is one list; their places are their numbers."""
    with damage(path), open_lines(path) as file:
        data = file.read(LONGEST_LIST + 1)
    if len(data) > LONGEST_LIST:
        raise UserError(f"{path}: one list of more than {LONGEST_LIST:,} bytes; jq -c '.[]' makes lines of it")
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not JSON ({reason}); give a list of objects, or an object on each line") from None
    for number, row in enumerate(rows):
        yield f"{path}: item {number + 1}", row
