"""Chat templates: the messages of a conversation become the ids that a model reads, and those that it learns from.

A template is a small jinja2 program that comes with a model (`chat_template.jinja`, or `tokenizer_config.json`). It
writes special tokens by their names, and so can any text that a user sends. So the template is rendered with a
placeholder for each text. Where the rendering names a special token, the template named it. Then the texts replace the
placeholders, as text alone: what stands between two special tokens is encoded by `Tokenizer.encode`, which never gives
one. The placeholder keeps the white space around its text, so templates that trim see what they would trim. A second
rendering, with the texts themselves, must give the same; where a template depends on what a text says, that is an
error, not another prompt.

In training, a model learns what it has to write itself: from the end of the prompt that asks for an answer to the
token that ends the answer. So `prompt_ids` of the messages before an answer are a prefix of `training_ids`, id for id.
Templates with transformers' `{% generation %}` blocks say themselves what is learned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from codeshell.documents.templates import END_OF_TEXT
from codeshell.engine.downloads import read_downloaded_json, read_downloaded_text
from codeshell.engine.files import make_directory, write_text
from codeshell.errors import UserError
from codeshell.tokenizer import families
from codeshell.tokenizer.messages import Message, check_messages
from codeshell.tokenizer.sandbox import BEGIN, END, Program
from codeshell.tokenizer.tokenizer import Tokenizer

FILE = "chat_template.jinja"
"""Where transformers keeps a model's template."""

CODESHELL = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '## human:' + message['content'] + '|<end>|' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '## assistant: ' + message['content'] + '|<end>|' -}}
{%- else -%}
{{- raise_exception('CodeShell-Chat has no system message; put its text before the first question') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '## assistant:' -}}{%- endif -%}
"""
"""The form of the released CodeShell-Chat: no special token, no white space but the one before an answer."""

PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '### Question:\\n' + message['content'] + '\\n\\n' -}}
{%- else -%}
{{- '### Answer:\\n' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Answer:\\n' -}}{%- endif -%}
"""
"""For models that have no form of their own: headings as in Markdown, and the end of a document after an answer."""

NAMED = {"codeshell": CODESHELL, "plain": PLAIN}
"""Forms that are asked for by name."""

_STOPS = {"codeshell": ("|<end>|", "|end|", "## human")}
"""What else ends an answer: the released model writes its marker in these forms."""

_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
"""What a template may read of a tokenizer's configuration."""


class _Span(NamedTuple):
    """What lies at [begin, end) of a rendering with placeholders.

    Attributes:
        special: the special token that it names; "" where it is text.
        content: the number of the message whose text belongs there; -1 where it is the template's own.
    """

    begin: int
    end: int
    special: str = ""
    content: int = -1


class _Piece(NamedTuple):
    """A special token or a text of a conversation, in order."""

    special: bool
    text: str
    trained: bool


class ChatTemplate:
    """How a model's conversations are written.

    Attributes:
        text: the template, jinja2.
        source: where it comes from: a file, or the name of one of `NAMED`.
        stop: texts that end an answer, the names of special tokens included.
        stop_ids: special tokens that end an answer. A server stops at these ids; the names may stand in a text.
    """

    def __init__(
        self, text: str, tokenizer: Tokenizer, *, source: str = "template", variables: dict[str, str] | None = None
    ) -> None:
        """Compile a template.

        Args:
            text: jinja2.
            tokenizer: its special tokens are those of the template.
            source: names the template in errors.
            variables: `bos_token`, `eos_token`, …; None for those of the tokenizer's family.

        Raises:
            UserError: no jinja2, or it fails on a question and an answer.
        """
        self.text, self.source = text, source
        self._program = Program(text, source)
        self._variables = _family_tokens(tokenizer) if variables is None else variables
        self._specials = tokenizer.specials
        # The longest first: one name may begin with another. The white space around a message stands beside its
        # placeholder, so a token with white space at an end cannot be told from a message's; it stays text.
        names = sorted((name for name in tokenizer.specials if name == name.strip()), key=len, reverse=True)
        self._names = "|".join(map(re.escape, names))
        self._hash = tokenizer.hash
        ends = self._ends()
        self.stop_ids: tuple[int, ...] = tuple(
            sorted({self._specials[name] for name in ends if name in self._specials})
        )
        self.stop: tuple[str, ...] = tuple(dict.fromkeys([*ends, *_STOPS.get(source, ())]))

    @staticmethod
    def load(directory: str | Path, tokenizer: Tokenizer, name: str = "") -> ChatTemplate | None:
        """The template of a model.

        Args:
            directory: the model's, with its tokenizer's files.
            tokenizer: the model's.
            name: "" for the model's own; one of `NAMED`; or a file.

        Returns:
            None where the model has no template, and none is named.

        Raises:
            UserError: no such name or file, or no template.
        """
        directory = Path(directory)
        variables = _family_tokens(tokenizer) | _declared_tokens(directory)
        if name in NAMED:
            return ChatTemplate(NAMED[name], tokenizer, source=name, variables=variables)
        if name:
            path = Path(name)
            if not path.is_file():
                raise UserError(f"{name}: no such chat template; give a file, or one of {', '.join(NAMED)}")
            return ChatTemplate(read_downloaded_text(path), tokenizer, source=name, variables=variables)
        # A file of its own comes before the entry of the configuration, as in transformers.
        path = directory / FILE
        if path.is_file():
            text, source = read_downloaded_text(path), str(path)
        else:
            path = directory / "tokenizer_config.json"
            found = configured(read_downloaded_json(path), path) if path.is_file() else None
            if found is None:
                return None
            text, source = found, str(path)
        # A model that we saved has one of our forms, whose other stops are known.
        known = next((name for name, form in NAMED.items() if form.strip() == text.strip()), None)
        return ChatTemplate(text, tokenizer, source=known or source, variables=variables)

    def save(self, directory: str | Path) -> None:
        """Write the template where transformers and `load` look for it."""
        write_text(make_directory(directory) / FILE, self.text)

    def prompt_ids(self, messages: Sequence[Any], tokenizer: Tokenizer) -> list[int]:
        """The ids after which the model writes its answer to the last message.

        Args:
            messages: what `check_messages` takes; the last one is not the assistant's.
            tokenizer: the one that the template was made with.

        Raises:
            UserError: bad messages, or the template refuses them.
        """
        checked = check_messages(messages)
        if checked[-1].role == "assistant":
            raise UserError("messages: the last one is the assistant's; end with a question, which it can answer")
        return self._encode(self._pieces(checked, prompt=True), tokenizer)[0]

    def training_ids(self, messages: Sequence[Any], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        """The ids of a whole conversation, and of each whether the model learns to write it.

        Learned are the assistant's answers and what ends each of them, and nothing else.

        Args:
            messages: what `check_messages` takes, with an answer among them.
            tokenizer: the one that the template was made with.

        Raises:
            UserError: bad messages, none of them an answer, an empty answer, or the template refuses them, loses one
                of them, or writes nothing that ends an answer.
        """
        checked = check_messages(messages)
        if not any(message.role == "assistant" for message in checked):
            raise UserError("messages: no answer of the assistant, so nothing to learn; give one")
        for number, message in enumerate(checked):
            if message.role == "assistant" and not message.content.strip():
                raise UserError(f"messages[{number}]: an empty answer; write one, or leave the conversation out")
        return self._encode(self._pieces(checked, prompt=False), tokenizer)

    def render(self, messages: Sequence[Any], *, prompt: bool = False) -> str:
        """The text of a conversation, for people: in it a special token and its name look alike.

        Args:
            messages: what `check_messages` takes.
            prompt: whether the beginning of an answer follows.
        """
        return self._render([{"role": one.role, "content": one.content} for one in check_messages(messages)], prompt)

    def _render(self, messages: Sequence[dict[str, str]], prompt: bool, marks: tuple[str, str] = ("", "")) -> str:
        variables: dict[str, object] = {**self._variables, "add_generation_prompt": prompt}
        return self._program.render(messages, variables | {BEGIN: marks[0], END: marks[1]})

    def _encode(self, pieces: list[_Piece], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        if tokenizer.hash != self._hash:
            raise UserError(f"{self.source}: the chat template was made for another tokenizer; load it with this one")
        encoded = iter(tokenizer.encode_batch([piece.text for piece in pieces if not piece.special]))
        ids: list[int] = []
        trained: list[bool] = []
        for piece in pieces:
            part = [self._specials[piece.text]] if piece.special else next(encoded)
            ids += part
            trained += [piece.trained] * len(part)
        return ids, trained

    def _pieces(self, messages: list[Message], *, prompt: bool) -> list[_Piece]:
        """Special tokens and texts of a conversation. Texts are cut where an answer begins or ends."""
        drawn = _Placeholders(messages, self.text)
        text, marked = drawn.without_marks(self._render(drawn.messages, prompt, drawn.marks))
        pattern = re.compile("|".join(filter(None, [drawn.pattern, self._names])))
        spans = list(_spans(text, pattern))
        self._check(messages, drawn, text, prompt)
        answers = self._answers(messages, drawn, spans, text, marked, prompt=prompt)

        # The texts between special tokens, as one text each: a word may begin in the template and end in a message.
        cuts = {place for answer in answers for place in answer[:2]}
        pieces: list[_Piece] = []
        parts: list[str] = []
        begin = 0

        def close(at: int) -> None:
            nonlocal begin
            if parts:
                pieces.append(_Piece(False, "".join(parts), _within(begin, answers)))
            parts.clear()
            begin = at

        for span in spans:
            places = sorted({span.begin, span.end, *(cut for cut in cuts if span.begin <= cut < span.end)})
            if (span.special or span.content >= 0) and len(places) > 2:
                raise UserError(f"{self.source}: an answer begins or ends within a token; give another template")
            if span.begin in cuts or span.special:
                close(span.begin)
            if span.special:
                pieces.append(_Piece(True, span.special, _within(span.begin, answers)))
                begin = span.end
            elif span.content >= 0:
                parts.append(drawn.texts[span.content])
            else:
                for first, last in pairwise(places):
                    if first in cuts:
                        close(first)
                    parts.append(text[first:last])
        close(len(text))
        return [piece for piece in pieces if piece.text]

    def _check(self, messages: list[Message], drawn: _Placeholders, text: str, prompt: bool) -> None:
        """Refuse where the template lost a message, or wrote something else for the texts than for placeholders."""
        for number, message in enumerate(messages):
            if message.content.strip() and drawn.names[number] not in text:
                raise UserError(
                    f"{self.source}: the chat template leaves out messages[{number}] ({message.role}); put its text "
                    "into another message, or give another template"
                )
        real = self._render([{"role": one.role, "content": one.content} for one in messages], prompt)
        if drawn.filled(text) != real:
            raise UserError(
                f"{self.source}: the chat template changes a message by what it says, so a special token could come "
                "from its text; change the text, or give a template that writes messages as they are"
            )

    def _answers(
        self,
        messages: list[Message],
        drawn: _Placeholders,
        spans: list[_Span],
        text: str,
        marked: list[tuple[int, int]],
        *,
        prompt: bool,
    ) -> list[tuple[int, int, bool]]:
        """Where answers begin and end in a rendering with placeholders, and whether each is learned."""
        found = []
        for number, message in enumerate(messages):
            if message.role != "assistant" or not message.content.strip():
                continue
            places = [span for span in spans if span.content == number]
            if len(places) != 1:
                raise UserError(f"{self.source}: the chat template writes messages[{number}] twice; give another one")
            (content,) = places
            # It ends with what closes it: the part of the rendering that the next message does not change.
            whole = self._tried(drawn, number + 1, prompt=False)
            last = number + 1 == len(messages)
            if whole is not None and text.startswith(whole) and len(whole) >= content.end:
                limit = len(whole)
            else:
                limit = next(
                    (span.begin for span in spans if span.begin >= content.end and span.content >= 0), len(text)
                )
                whole = None
            closed = _closing(text, spans, content.end, limit, to_the_end=whole is not None or last)
            if closed is None and not prompt:
                raise UserError(
                    f"{self.source}: the chat template writes nothing that ends an answer, so the model would never "
                    "stop; let it write {{ eos_token }} after each answer"
                )
            end = content.end if closed is None else closed
            # It begins where the prompt that asks for it ends, or where the template marks it.
            begin = content.begin
            if block := next(((b, e) for b, e in marked if b <= content.begin and content.end <= e), None):
                begin, end = block[0], max(block[1], end)
            else:
                before = self._tried(drawn, number, prompt=True) if number else ""
                if before is not None and text.startswith(before) and len(before) <= content.begin:
                    begin = len(before)
            found.append((begin, end, message.trained))
        return found

    def _tried(self, drawn: _Placeholders, count: int, *, prompt: bool) -> str | None:
        """The rendering of the first messages, with the same placeholders; None where the template refuses them."""
        try:
            return self._render(drawn.messages[:count], prompt)
        except UserError:
            return None

    def _ends(self) -> list[str]:
        """What ends an answer: a special token of the template, or its text."""
        probe = [Message("user", "question"), Message("assistant", "answer")]
        drawn = _Placeholders(probe, self.text)
        text = self._render(drawn.messages, False)
        pattern = re.compile("|".join(filter(None, [drawn.pattern, self._names])))
        spans = list(_spans(text, pattern))
        ends = [name for name in [self._variables.get("eos_token")] if name]
        content = next((span for span in spans if span.content == 1), None)
        if content is None:
            raise UserError(f"{self.source}: the chat template writes no answer of an assistant; give another one")
        end = _closing(text, spans, content.end, len(text), to_the_end=True)
        if end is None:
            return ends
        inside = [span.special for span in spans if content.end <= span.begin < end and span.special]
        return [inside[0] if inside else text[content.end : end].strip(), *ends]


class _Placeholders:
    """Messages with a placeholder for each text.

    A placeholder holds a hash of all texts and occurs in none of them, nor in the template, so what looks like one in a
    rendering is one. It has the white space of its text around it.

    Attributes:
        messages: as a template reads them.
        names: the placeholder of each message, without white space.
        texts: what each stands for; "" for a message without any.
        marks: what `{% generation %}` blocks write at their ends.
        pattern: finds the placeholders.
    """

    def __init__(self, messages: list[Message], template: str) -> None:
        texts = [message.content for message in messages]
        everything = "\0".join([*texts, template])
        salt = 0
        while True:
            digest = hashlib.blake2b(f"{salt}\0{everything}".encode("utf-8", "replace"), digest_size=12).hexdigest()
            if digest not in everything:
                break
            salt += 1
        self.marks = (f"\ue000b{digest}\ue001", f"\ue000e{digest}\ue001")
        self.names = [f"\ue000{number}x{digest}\ue001" for number in range(len(messages))]
        self.pattern = rf"\ue000(?P<content>\d+)x{digest}\ue001"
        # An empty text, or one of white space alone, injects nothing, and templates ask whether there is one.
        self.texts = [text.strip() for text in texts]
        self.messages = []
        for message, name, core in zip(messages, self.names, self.texts, strict=True):
            before, _, after = message.content.partition(core) if core else (message.content, "", "")
            self.messages.append({"role": message.role, "content": before + (name if core else "") + after})

    def filled(self, text: str) -> str:
        """The text with the messages' own texts."""
        return re.sub(self.pattern, lambda found: self.texts[int(found["content"])], text)

    def without_marks(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The text without the marks of `{% generation %}` blocks, and where the blocks are in it."""
        blocks: list[tuple[int, int]] = []
        begins: list[int] = []
        parts: list[str] = []
        size = 0
        for part in re.split(f"({'|'.join(self.marks)})", text):
            if part == self.marks[0]:
                begins.append(size)
            elif part == self.marks[1] and begins:
                blocks.append((begins.pop(), size))
            elif part not in self.marks:
                parts.append(part)
                size += len(part)
        return "".join(parts), blocks


def _spans(text: str, pattern: re.Pattern[str]) -> Iterator[_Span]:
    """Special tokens, placeholders and the texts between them, in order."""
    at = 0
    for found in pattern.finditer(text):
        if found.start() > at:
            yield _Span(at, found.start())
        number = found.groupdict().get("content")
        yield _Span(found.start(), found.end(), "" if number else found[0], int(number) if number else -1)
        at = found.end()
    if at < len(text):
        yield _Span(at, len(text))


def _closing(text: str, spans: list[_Span], begin: int, limit: int, *, to_the_end: bool) -> int | None:
    """The end of what closes an answer whose text ends at `begin`; None where nothing does.

    The first special token closes it. Without one it is the text up to `limit`, without the white space at its end, if
    `to_the_end` says that this text belongs to the answer.
    """
    for span in spans:
        if begin <= span.begin and span.end <= limit and span.special:
            return span.end
    closing = text[begin:limit].rstrip()
    return begin + len(closing) if closing and to_the_end else None


def _within(place: int, answers: list[tuple[int, int, bool]]) -> bool:
    """Whether a place is in an answer that is learned."""
    return any(trained and begin <= place < end for begin, end, trained in answers)


def configured(tree: Any, path: Path) -> str | None:
    """The template in a `tokenizer_config.json`; of several, the one that is named default."""
    found = tree.get("chat_template") if isinstance(tree, dict) else None
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        if "default" not in named:
            names = ", ".join(str(name) for name in named)
            raise UserError(f"{path}: chat_template has {names or 'nothing'}, and no default; name a file of your own")
        found = named["default"]
    if found is not None and not isinstance(found, str):
        raise UserError(f"{path}: chat_template is no text; give a template, or name a file of your own")
    return found


def _declared_tokens(directory: Path) -> dict[str, str]:
    """`bos_token`, `eos_token`, … as the files of a tokenizer declare them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        tree = read_downloaded_json(path) if path.is_file() else {}
        for token in _TOKENS:
            value = tree.get(token) if isinstance(tree, dict) else None
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found[token] = value
    return found


def _family_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and `eos_token` by what the tokenizer's family calls them."""
    end = families.first_of(families.ENDS_OF_DOCUMENT, tokenizer.specials) or END_OF_TEXT
    start = families.first_of(families.STARTS_OF_DOCUMENT, tokenizer.specials)
    return {"bos_token": start or end, "eos_token": end, "pad_token": end}
